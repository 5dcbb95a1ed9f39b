// One owner at the firewall: the table of what it made, and the only way to anything of tor for the program behind
// it. Handles are looked up in this table alone, so that there is no number by which anybody else's thing, or tor's
// own, could be named. The program is hostile; what it passes in is parsed and bounded before it gets here.
// Spec: docs/spec/tor-firewall.md 2 and 3.

import { orAborted } from "../../base/abort.ts";
import { BentoError } from "../../base/errors.ts";
import { choosePath, type Hop } from "./choose-path.ts";
import type { TorFirewall } from "./firewall.ts";
import { type CircuitView, OwnedCircuit } from "./owned-circuit.ts";
import type { OwnerAccount } from "./owner-account.ts";
import { type OnionRequest, type OnionView, OwnerOnions } from "./owner-onions.ts";
import { type OpenStream, OwnerStreams, type StreamView, type Target } from "./owner-streams.ts";
import { type EventKind, OwnerWatch, type Watch } from "./owner-watch.ts";
import type { Relay } from "./relay-directory.ts";

/** How long building or extending a circuit may take: milliseconds. Tor gives up after about 60 s by itself. */
export const BUILD_TIMEOUT_MS = 90_000;

/** What one owner may do with Tor, and nothing of anybody else's. Each call checks its routine and its counts. */
export type TorUse = Pick<
  FirewallOwner,
  | "launchCircuit"
  | "built"
  | "extendCircuit"
  | "closeCircuit"
  | "circuits"
  | "connect"
  | "resolve"
  | "streams"
  | "closeStream"
  | "openOnion"
  | "onionPublished"
  | "acceptOnion"
  | "closeOnion"
  | "onions"
  | "watch"
  | "relays"
  | "descriptor"
>;

export class FirewallOwner implements AsyncDisposable {
  readonly #firewall: TorFirewall;
  readonly #account: OwnerAccount;
  readonly #forget: () => void;
  readonly #circuits = new Map<number, OwnedCircuit>();
  readonly #watch: OwnerWatch;
  readonly #streams: OwnerStreams;
  readonly #onions: OwnerOnions;
  readonly #ended = new AbortController();
  /** Commands under way, which may make something at tor that has to go again. */
  readonly #working = new Set<Promise<unknown>>();
  #disposing: Promise<void> | undefined;

  /** Made by the firewall alone. */
  constructor(firewall: TorFirewall, account: OwnerAccount, forget: () => void) {
    this.#firewall = firewall;
    this.#account = account;
    this.#forget = forget;
    this.#watch = new OwnerWatch(account);
    const shared = { firewall, account, watch: this.#watch, ended: this.#ended.signal };
    this.#streams = new OwnerStreams(shared);
    this.#onions = new OwnerOnions(shared, this.#streams);
  }

  get hasEnded(): boolean {
    return this.#ended.signal.aborted;
  }

  /** Begins to build a circuit; `built` waits for it. Throws BentoError `tor-limit`, `tor-refused`, `tor-no-path`. */
  async launchCircuit(hops: readonly Hop[]): Promise<{ circuit: number }> {
    this.#use("circuits");
    const release = this.#account.take("circuits");
    try {
      this.#account.takeExtends(hops.length);
      const circuit = await this.#during(this.#launch(hops, release));
      return { circuit: circuit.id };
    } catch (error) {
      release();
      throw plain(error, "build circuit");
    }
  }

  /** Resolves when the circuit is built, or extended. Throws BentoError `tor-circuit-failed`, `tor-timeout`. */
  async built(id: number, signal: AbortSignal): Promise<CircuitView> {
    this.#use("circuits");
    const circuit = this.#circuit(id);
    const timeout = new AbortController();
    const cancel = this.#account.clock.after(BUILD_TIMEOUT_MS, () => {
      timeout.abort(new BentoError("tor-timeout", "Cannot build circuit: it takes too long"));
    });
    try {
      await orAborted(circuit.built, AbortSignal.any([signal, timeout.signal]));
      return circuit.view;
    } catch (error) {
      if (timeout.signal.aborted) await this.closeCircuit(id).catch(() => undefined);
      throw error;
    } finally {
      cancel();
    }
  }

  /** Begins to add hops to a circuit that is built. */
  async extendCircuit(id: number, hops: readonly Hop[]): Promise<void> {
    this.#use("circuits");
    const circuit = this.#builtCircuit(id);
    this.#account.takeExtends(hops.length);
    // At once, so that a second call finds it busy.
    circuit.extending();
    try {
      await this.#during(this.#extend(circuit, hops));
    } catch (error) {
      circuit.extendRefused();
      throw plain(error, "extend circuit");
    }
  }

  async closeCircuit(id: number): Promise<void> {
    this.#use("circuits");
    const circuit = this.#circuit(id);
    await this.#close(circuit);
  }

  circuits(): CircuitView[] {
    this.#use("circuits");
    return [...this.#circuits.values()].map(({ view }) => view);
  }

  /** A stream on one of the owner's circuits, or where tor chooses, apart from everybody else's. */
  async connect(target: Target & { circuit?: number | undefined }, signal: AbortSignal): Promise<OpenStream> {
    this.#use("streams");
    const { circuit, ...rest } = target;
    const placed = circuit === undefined ? rest : { ...rest, circuit: this.#builtCircuit(circuit) };
    try {
      return await this.#streams.connect(placed, signal);
    } catch (error) {
      throw plain(error, "connect");
    }
  }

  /** The address of a name as the circuit's last relay sees it. */
  async resolve(
    target: Omit<Target, "port"> & { circuit?: number | undefined },
    signal: AbortSignal,
  ): Promise<{ address: string }> {
    this.#use("streams");
    const { circuit, ...rest } = target;
    const whole = { ...rest, port: 0 };
    const placed = circuit === undefined ? whole : { ...whole, circuit: this.#builtCircuit(circuit) };
    try {
      return await this.#streams.resolve(placed, signal);
    } catch (error) {
      throw plain(error, "resolve name");
    }
  }

  streams(): StreamView[] {
    this.#use("streams");
    return this.#streams.views();
  }

  closeStream(id: number): void {
    this.#use("streams");
    this.#streams.close(id);
  }

  async openOnion(request: OnionRequest): Promise<OnionView & { key: string | null }> {
    this.#use("onions");
    try {
      return await this.#during(this.#onions.open(request));
    } catch (error) {
      throw plain(error, "open onion service");
    }
  }

  /** Resolves when clients can find it. Throws BentoError `tor-timeout`, `tor-unknown`. */
  async onionPublished(id: number, signal: AbortSignal): Promise<void> {
    this.#use("onions");
    await this.#onions.published(id, signal);
  }

  /** The next connection to the onion service. */
  async acceptOnion(id: number, signal: AbortSignal): Promise<OpenStream & { port: number }> {
    this.#use("onions");
    return this.#onions.accept(id, signal);
  }

  async closeOnion(id: number): Promise<void> {
    this.#use("onions");
    await this.#during(this.#onions.close(id));
  }

  onions(): OnionView[] {
    this.#use("onions");
    return this.#onions.views();
  }

  watch(kinds: readonly EventKind[]): Watch {
    this.#use("events");
    return this.#watch.watch(kinds);
  }

  async relays(): Promise<readonly Relay[]> {
    this.#use("directory");
    try {
      this.#account.takeRead();
      const relays = await this.#firewall.directory.relays();
      return relays.map(publicFacts);
    } catch (error) {
      throw plain(error, "read the directory");
    }
  }

  /** A relay's microdescriptor as tor has it; null where it has none. */
  async descriptor(fingerprint: string): Promise<string | null> {
    this.#use("directory");
    try {
      this.#account.takeRead();
      return await this.#firewall.directory.descriptor(fingerprint.toUpperCase());
    } catch (error) {
      throw plain(error, "read the directory");
    }
  }

  /** Ends everything that is left and waits until tor was told. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close(new BentoError("tor-closed", "Cannot use tor: the instance has ended"));
  }

  /** The same, with another reason for whoever waits. First reason wins. */
  async close(reason: BentoError): Promise<void> {
    this.#disposing ??= this.#dispose(reason);
    await this.#disposing;
  }

  /** Tor is gone, and everything with it: whoever waits learns of it. */
  lose(reason: BentoError): void {
    if (this.hasEnded) return;
    this.#ended.abort(reason);
    this.#watch.fail(reason);
    for (const circuit of this.#circuits.values()) circuit.end(reason);
    this.#streams.end(reason);
    void this.#onions.end(reason);
    this.#forget();
  }

  async #dispose(reason: BentoError): Promise<void> {
    const circuits = [...this.#circuits.values()];
    this.#ended.abort(reason);
    this.#watch.fail(reason);
    this.#streams.end(reason);
    await Promise.all([
      this.#onions.end(reason),
      ...circuits.map(async (circuit) => this.#close(circuit, reason)),
    ]);
    // What was asked for before and came only now has closed itself by then.
    await Promise.allSettled(this.#working);
    this.#forget();
  }

  /** Every call begins so. */
  #use(routine: Parameters<OwnerAccount["require"]>[0]): void {
    this.#account.require(routine);
    this.#ended.signal.throwIfAborted();
  }

  #circuit(id: number): OwnedCircuit {
    const circuit = this.#circuits.get(id);
    if (circuit) return circuit;
    throw new BentoError("tor-unknown", `Cannot use circuit ${String(id)}: there is no such circuit`);
  }

  #builtCircuit(id: number): OwnedCircuit {
    const circuit = this.#circuit(id);
    if (circuit.isBuilt) return circuit;
    throw new BentoError("tor-circuit-failed", `Cannot use circuit ${String(id)}: it is not built`);
  }

  async #launch(hops: readonly Hop[], release: () => void): Promise<OwnedCircuit> {
    const path = choosePath(hops, await this.#firewall.pathChoice());
    this.#ended.signal.throwIfAborted();
    const circuit: OwnedCircuit = new OwnedCircuit({
      id: this.#account.nextId(),
      hidesFirstHop: typeof hops[0] !== "string",
      tell: (event) => {
        this.#watch.tell(event);
      },
      onEnd: () => {
        this.#circuits.delete(circuit.id);
        release();
      },
    });
    await this.#firewall.launchCircuit(path, (torId) => {
      circuit.torId = torId;
      this.#circuits.set(circuit.id, circuit);
      return circuit;
    });
    // The owner may have ended while tor answered.
    if (this.hasEnded) await this.#close(circuit);
    this.#ended.signal.throwIfAborted();
    return circuit;
  }

  async #extend(circuit: OwnedCircuit, hops: readonly Hop[]): Promise<void> {
    const choice = await this.#firewall.pathChoice();
    const path = choosePath(hops, { ...choice, after: circuit.torPath });
    if (circuit.torId === undefined || circuit.hasEnded)
      throw new BentoError("tor-circuit-failed", "Cannot extend circuit: it ended");
    await this.#firewall.extendCircuit(circuit.torId, path);
  }

  /** @param reason for whoever waits, when tor's answer is not to be waited for. */
  async #close(circuit: OwnedCircuit, reason?: BentoError): Promise<void> {
    const isAtTor = circuit.torId !== undefined && !circuit.hasEnded;
    if (reason) circuit.end(reason);
    if (isAtTor)
      await this.#firewall.closeCircuit(circuit.torId ?? "").catch(() => {
        // Closed by itself meanwhile, or tor is gone.
      });
    circuit.end(new BentoError("tor-closed", "Circuit closed"));
  }

  async #during<T>(work: Promise<T>): Promise<T> {
    this.#working.add(work);
    try {
      return await work;
    } finally {
      this.#working.delete(work);
    }
  }
}

function publicFacts(relay: Relay): Relay {
  const { fingerprint, nickname, addresses, orPort, flags, bandwidth, exit, country } = relay;
  return { fingerprint, nickname, addresses, orPort, flags, bandwidth, exit, country };
}

/** Tor's own words stay here: they may tell of more than the owner's things. */
function plain(error: unknown, what: string): unknown {
  if (error instanceof BentoError && error.code === "tor-refused" && "status" in error)
    return new BentoError("tor-refused", `Cannot ${what}: tor refuses it (${String(error.status)})`, {
      cause: error,
    });
  if (error instanceof BentoError && /^tor-(?:control|socks)/u.test(error.code))
    return new BentoError("tor-gone", `Cannot ${what}: tor is gone`, { cause: error });
  return error;
}
