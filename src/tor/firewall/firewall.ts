// The broker between one tor client process and the programs that may use parts of it: circuits, streams and onion
// services are each somebody's (owner.ts) or nobody's. This file is the one place that hears of everything, and
// hands each event to the one whose it is; what is nobody's goes back to tor at once and is told to no one.
// It must be this tor's only controller: it alone decides where streams go (__LeaveStreamsUnattached).
// Owners are hostile to each other and to us. Tor is trusted. Spec: docs/spec/tor-firewall.md.

import { randomBytes } from "node:crypto";
import { orAborted } from "../../base/abort.ts";
import type { Clock } from "../../base/clock.ts";
import { assert, BentoError } from "../../base/errors.ts";
import type { ControlClient } from "../control-client.ts";
import type { CircuitEvent, ControlEvent, StreamEvent } from "../control-event.ts";
import { parseGuards } from "../relay-list.ts";
import type { SocksAddress } from "../socks.ts";
import type { PathChoice } from "./choose-path.ts";
import { FirewallOwner } from "./owner.ts";
import type { OwnerAccount } from "./owner-account.ts";
import { RelayDirectory } from "./relay-directory.ts";

export interface FirewallOptions {
  /** For the firewall alone, for as long as it lives; closed with it. */
  readonly control: ControlClient;
  /** A further connection: what is added through it ends with it. */
  readonly connect: (signal: AbortSignal) => Promise<ControlClient>;
  readonly socks: SocksAddress;
  /** Private directory with a path short enough for sockets in it: where tor hands over incoming connections. */
  readonly socketDir: string;
  /** Who chooses the first relay of circuits: "guard" where this machine's address is a secret. */
  readonly firstHop: "any" | "guard";
  readonly clock: Clock;
}

/** What an owner's circuit hears. */
export interface CircuitSink {
  onEvent(event: CircuitEvent): void;
}

/** What an owner's stream hears. */
export interface StreamSink {
  /** Tor's id of the circuit to go on, "0" for tor's choice; undefined when it is not wanted any more. */
  circuit(): string | undefined;
  onEvent(event: StreamEvent): void;
  /** It cannot go where it must: it has to end. */
  fail(error: BentoError): void;
}

/** Instances on one box are fewer. */
const OWNERS_MAX = 4096;
/** Circuit events kept while a reply that names a circuit is under way. */
const EARLY_EVENTS_MAX = 1000;
/** How long a stream that was given up may still turn up at tor: milliseconds. */
const GIVEN_UP_MS = 2_000;
/**
 * control-spec 4.1.2: a stream stands still until somebody attaches it. Not so at NEW and DETACHED, which tor's own streams to
 * directories have, too, without waiting for anybody: ATTACHSTREAM breaks those off, and tor takes that for its guard's failure.
 */
const WAITS = "CONTROLLER_WAIT";

interface Expected {
  readonly sink: StreamSink;
  readonly over: PromiseWithResolvers<void>;
}

export class TorFirewall implements AsyncDisposable {
  readonly options: FirewallOptions;
  readonly directory: RelayDirectory;
  /** Resolves, never rejects, with the reason when this firewall cannot go on: tor must not run on without it. */
  readonly lost: Promise<BentoError>;
  readonly #control: ControlClient;
  readonly #loss = Promise.withResolvers<BentoError>();
  #lossReason: BentoError | undefined;
  readonly #owners = new Set<FirewallOwner>();
  /** By tor's circuit id. */
  readonly #circuits = new Map<string, CircuitSink>();
  #extending = 0;
  #early: CircuitEvent[] = [];
  /** User names that begin so are ours; nobody outside knows it. */
  readonly #prefix = randomBytes(16).toString("hex");
  /** By SOCKS user name: the next stream that tor names so. */
  readonly #expected = new Map<string, Expected>();
  /** By tor's stream id. */
  readonly #streams = new Map<string, StreamSink>();

  private constructor(options: FirewallOptions) {
    this.options = options;
    this.#control = options.control;
    this.directory = new RelayDirectory(options.control, options.clock);
    this.lost = this.#loss.promise;
    void this.#untilClosed();
  }

  /** Takes over the streams of a running tor. */
  static async open(options: FirewallOptions): Promise<TorFirewall> {
    const firewall = new TorFirewall(options);
    try {
      // Listening comes first: no stream may be left alone between the two.
      await options.control.subscribe(["CIRC", "STREAM"], (event) => {
        firewall.#onEvent(event);
      });
      await options.control.setConf([["__LeaveStreamsUnattached", "1"]]);
      return firewall;
    } catch (error) {
      await firewall[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** A new owner, who has nothing yet. Disposing it ends what it has. */
  owner(account: OwnerAccount): FirewallOwner {
    if (this.#lossReason) throw this.#lossReason;
    if (this.#owners.size >= OWNERS_MAX)
      throw new BentoError("tor-limit", `Cannot use tor: ${String(OWNERS_MAX)} programs use it already`);
    const owner: FirewallOwner = new FirewallOwner(this, account, () => {
      this.#owners.delete(owner);
    });
    this.#owners.add(owner);
    return owner;
  }

  /** Ends every owner, and with it what they have. */
  async [Symbol.asyncDispose](): Promise<void> {
    const reason = new BentoError("tor-gone", "Cannot use tor: it is being stopped");
    await Promise.all([...this.#owners].map(async (owner) => owner.close(reason)));
    this.#lose(reason);
    await this.#control[Symbol.asyncDispose]();
  }

  // For owners.

  /**
   * Builds a circuit. The reply is waited for whatever happens, since only it names the circuit. `sinkOf` gets the
   * name at once; events that came before the reply follow. Throws BentoError.
   */
  async launchCircuit(path: readonly string[], sinkOf: (id: string) => CircuitSink): Promise<void> {
    this.#extending++;
    try {
      // purpose=controller: tor puts no stream on it that nobody attached.
      const reply = await this.#control.command(`EXTENDCIRCUIT 0 ${path.join(",")} purpose=controller`);
      const id = /^EXTENDED (\S+)/u.exec(reply.lines[0]?.text ?? "")?.[1];
      if (id === undefined)
        throw new BentoError("tor-circuit-failed", "Cannot build circuit: tor gave no id");
      this.#circuits.set(id, sinkOf(id));
      for (const event of this.#early) if (event.circuitId === id) this.#onCircuit(event);
    } finally {
      this.#extending--;
      if (this.#extending === 0) this.#early = [];
    }
  }

  async extendCircuit(id: string, path: readonly string[]): Promise<void> {
    await this.#control.command(`EXTENDCIRCUIT ${id} ${path.join(",")}`);
  }

  async closeCircuit(id: string): Promise<void> {
    await this.#control.closeCircuit(id);
  }

  /** What paths are chosen from. */
  async pathChoice(): Promise<Omit<PathChoice, "after">> {
    const relays = await this.directory.relays();
    const info = await this.#control.getInfo(["entry-guards"]);
    const conf = await this.#control.getConf(["EnforceDistinctSubnets"]);
    return {
      relays,
      guards: parseGuards(info["entry-guards"]),
      distinctSubnets: conf.EnforceDistinctSubnets[0] !== "0",
      firstHop: this.options.firstHop,
    };
  }

  /** A SOCKS user name that nobody can guess. */
  userName(): string {
    return `${this.#prefix}.${randomBytes(12).toString("hex")}`;
  }

  /**
   * From here on the next stream with this user name is the sink's. Where streams share a name, each waits until tor
   * has seen the one before. The function that comes back says that the stream will not come any more.
   */
  async expect(userName: string, sink: StreamSink, signal: AbortSignal): Promise<() => void> {
    for (;;) {
      const before = this.#expected.get(userName);
      if (!before) break;
      await orAborted(before.over.promise, signal);
    }
    if (this.#lossReason) throw this.#lossReason;
    const expected = { sink, over: Promise.withResolvers<void>() };
    this.#expected.set(userName, expected);
    return () => {
      if (this.#expected.get(userName) !== expected) return;
      // Tor may have it in its socket all the same: the next one of this name must not be taken for it.
      this.options.clock.after(GIVEN_UP_MS, () => {
        this.#forget(userName, expected);
      });
    };
  }

  async #untilClosed(): Promise<void> {
    const cause = await this.#control.closed;
    this.#lose(new BentoError("tor-gone", "Cannot use tor: it ended", { cause }));
  }

  #forget(userName: string, expected: Expected): void {
    if (this.#expected.get(userName) === expected) this.#expected.delete(userName);
    expected.over.resolve();
  }

  #onEvent(event: ControlEvent): void {
    if (event.kind === "STREAM") this.#onStream(event);
    else if (event.kind === "CIRC" && this.#circuits.has(event.circuitId)) this.#onCircuit(event);
    else if (event.kind === "CIRC" && this.#extending > 0) {
      this.#early.push(event);
      if (this.#early.length > EARLY_EVENTS_MAX) this.#early.shift();
    }
  }

  #onCircuit(event: CircuitEvent): void {
    const sink = this.#circuits.get(event.circuitId);
    if (["CLOSED", "FAILED"].includes(event.status)) this.#circuits.delete(event.circuitId);
    sink?.onEvent(event);
  }

  #onStream(event: StreamEvent): void {
    const { streamId, status, socksUsername } = event;
    const isNew = status === "NEW" || status === "NEWRESOLVE";
    const isOurs = socksUsername?.startsWith(this.#prefix) === true;
    if (isNew && isOurs) {
      const expected = this.#expected.get(socksUsername);
      if (!expected) {
        // Given up before tor saw it. It must not go where nobody decided.
        this.#try(this.#control.command(`CLOSESTREAM ${streamId} 1`));
        return;
      }
      this.#forget(socksUsername, expected);
      this.#streams.set(streamId, expected.sink);
    }
    const sink = this.#streams.get(streamId);
    if (status === "CLOSED") this.#streams.delete(streamId);
    sink?.onEvent(event);
    if (status !== WAITS) return;
    if (sink) this.#attach(streamId, sink);
    else if (!isOurs) this.#try(this.#control.attachStream(streamId, "0"));
  }

  #attach(streamId: string, sink: StreamSink): void {
    const circuit = sink.circuit();
    const refuse = () => {
      this.#try(this.#control.command(`CLOSESTREAM ${streamId} 1`));
      sink.fail(new BentoError("tor-stream-failed", "Cannot connect: the circuit does not take the stream"));
    };
    if (circuit === undefined) refuse();
    else this.#control.attachStream(streamId, circuit).catch(refuse);
  }

  /** What has gone meanwhile needs nothing more. */
  #try(done: Promise<unknown>): void {
    done.catch((error: unknown) => {
      assert(error instanceof BentoError, "tor's refusals are BentoErrors");
    });
  }

  #lose(reason: BentoError): void {
    if (this.#lossReason) return;
    this.#lossReason = reason;
    for (const [userName, expected] of this.#expected) this.#forget(userName, expected);
    this.#circuits.clear();
    this.#streams.clear();
    for (const owner of this.#owners) owner.lose(reason);
    this.#loss.resolve(reason);
  }
}
