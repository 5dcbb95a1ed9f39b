// A typed client of Tor's control port. One connection, any number of concurrent users; each waits with its own signal.
// The tor daemon is on our side; text from callers is quoted or refused, so that it cannot become a second command.
// Spec: control-spec sections 3 and 4.

import { BentoError, ProtocolError } from "../base/errors.ts";
import { authenticate } from "./control-auth.ts";
import { type ControlAddress, ControlConnection } from "./control-connection.ts";
import type { CircuitEvent, ControlEvent } from "./control-event.ts";
import { parseArguments, quote, type Reply } from "./control-reply.ts";

export interface Wait {
  readonly signal?: AbortSignal | undefined;
}

/** Tor understood and refused. `status` is the reply's code: 5xx, control-spec section 4. */
export class TorRefusal extends BentoError {
  override readonly name = "TorRefusal";
  readonly status: number;

  constructor(command: string, reply: Reply) {
    const said = reply.lines.map((line) => line.text).join("; ");
    super("tor-refused", `Cannot ${command}: tor answered ${String(reply.code)} ${said}`);
    this.status = reply.code;
  }
}

export interface OnionPort {
  readonly virtualPort: number;
  /** Where tor connects for each stream: `host:port` or `unix:/path`. */
  readonly target: string;
}

export interface Subscription extends AsyncDisposable {
  /** Stops delivery at once; tor is told when no other subscriber is left. */
  [Symbol.asyncDispose](): Promise<void>;
}

interface Subscriber {
  readonly names: ReadonlySet<string>;
  readonly listener: (event: ControlEvent) => void;
}

/** Subscribers on one connection: ours are one or two per onion service and circuit in the making. */
const SUBSCRIBERS_MAX = 1000;

export class ControlClient implements AsyncDisposable {
  readonly #connection: ControlConnection;
  readonly #subscribers = new Set<Subscriber>();
  /** The running daemon's version, for example "0.4.9.11"; undefined when it does not say. */
  readonly torVersion: string | undefined;

  private constructor(connection: ControlConnection, torVersion: string | undefined) {
    this.#connection = connection;
    this.torVersion = torVersion;
    connection.onEvent = (event) => {
      for (const { names, listener } of this.#subscribers) if (names.has(event.name)) listener(event);
    };
  }

  /** Connects and authenticates by cookie. Throws BentoError `tor-control-unreachable`, `tor-control-auth`. */
  static async connect(address: ControlAddress, { signal }: Wait = {}): Promise<ControlClient> {
    const connection = await ControlConnection.open(address, signal ? { signal } : {});
    try {
      const info = await authenticate(async (command) => {
        const reply = await connection.send(command, signal ? { signal } : {});
        if (reply.code !== 250) throw new TorRefusal(firstWord(command), reply);
        return reply;
      });
      return new ControlClient(connection, info.torVersion);
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** Resolves, never rejects, with the reason when the connection is gone. */
  get closed(): Promise<BentoError> {
    return this.#connection.closed;
  }

  get isClosed(): boolean {
    return this.#connection.isClosed;
  }

  /** Sends one command line and resolves with its 250/251 reply. Throws TorRefusal. Arguments must be quoted already. */
  async command(text: string, options: Wait & { data?: string } = {}): Promise<Reply> {
    const reply = await this.#connection.send(text, {
      ...(options.data === undefined ? {} : { data: options.data }),
      ...(options.signal ? { signal: options.signal } : {}),
    });
    if (reply.code !== 250 && reply.code !== 251) throw new TorRefusal(firstWord(text), reply);
    return reply;
  }

  /** `GETINFO`: the values of all keys. Throws TorRefusal when tor does not know one of them. */
  async getInfo<Key extends string>(keys: readonly Key[], wait: Wait = {}): Promise<Record<Key, string>> {
    const reply = await this.command(`GETINFO ${keys.map(word).join(" ")}`, wait);
    const values: Partial<Record<Key, string>> = {};
    for (const { text, data } of reply.lines) {
      const equals = text.indexOf("=");
      const key = keys.find((wanted) => wanted === text.slice(0, equals));
      if (key !== undefined) values[key] = data ?? text.slice(equals + 1);
    }
    for (const key of keys)
      if (values[key] === undefined)
        throw new ProtocolError("tor-control-protocol", `Cannot read GETINFO reply: ${key} is missing`);
    return values as Record<Key, string>;
  }

  /** `GETCONF`: every value of each option, in order; none when it is at its default. */
  async getConf<Key extends string>(keys: readonly Key[], wait: Wait = {}): Promise<Record<Key, string[]>> {
    const reply = await this.command(`GETCONF ${keys.map(word).join(" ")}`, wait);
    const values = Object.fromEntries(keys.map((key) => [key, []])) as unknown as Record<Key, string[]>;
    for (const { text } of reply.lines) {
      const equals = text.indexOf("=");
      if (equals < 0) continue;
      // Tor spells option names its own way in replies.
      const key = keys.find((wanted) => wanted.toLowerCase() === text.slice(0, equals).toLowerCase());
      if (key !== undefined) values[key].push(text.slice(equals + 1));
    }
    return values;
  }

  /** `SETCONF`, all or nothing. An undefined value puts the option back to its default. */
  async setConf(
    entries: readonly (readonly [key: string, value?: string])[],
    wait: Wait = {},
  ): Promise<void> {
    const text = entries.map(([key, value]) =>
      value === undefined ? word(key) : `${word(key)}=${quote(value)}`,
    );
    await this.command(`SETCONF ${text.join(" ")}`, wait);
  }

  /** Calls `listener`, in order, for each event named in `names`, from the moment this resolves (or just before). */
  async subscribe(
    names: readonly string[],
    listener: (event: ControlEvent) => void,
    wait: Wait = {},
  ): Promise<Subscription> {
    if (this.#subscribers.size >= SUBSCRIBERS_MAX)
      throw new BentoError(
        "tor-control-busy",
        `Cannot subscribe to events: ${String(SUBSCRIBERS_MAX)} subscribers exist already`,
      );
    const subscriber = { names: new Set(names), listener };
    const before = this.#eventNames();
    this.#subscribers.add(subscriber);
    const release = async () => {
      if (!this.#subscribers.delete(subscriber) || this.isClosed) return;
      if ([...subscriber.names].some((name) => !this.#eventNames().has(name))) await this.#setEvents({});
    };
    try {
      if (names.some((name) => !before.has(name))) await this.#setEvents(wait);
    } catch (error) {
      await release().catch(() => {
        // The first failure is the one to report; a lost connection has no events left to turn off.
      });
      throw error;
    }
    return {
      async [Symbol.asyncDispose]() {
        await release().catch((error: unknown) => {
          if (!(error instanceof BentoError)) throw error;
          // The connection went away meanwhile: nothing is left to turn off.
        });
      },
    };
  }

  /** `ADD_ONION`. Without `key` tor makes one and returns it, unless DiscardPK is among the flags. */
  async addOnion(
    options: {
      /** `ED25519-V3:` and base64, as tor gave it earlier. */
      readonly key?: string;
      readonly ports: readonly OnionPort[];
      readonly flags?: readonly string[];
      /** Streams of one rendezvous circuit at once; no limit when absent. */
      readonly maxStreams?: number;
      /** x25519 keys of clients in base32, 52 characters each: with any, nobody else gets in. Wants flag V3Auth. */
      readonly clientKeys?: readonly string[];
    },
    wait: Wait = {},
  ): Promise<{ readonly serviceId: string; readonly key: string | undefined }> {
    const flags =
      options.flags && options.flags.length > 0 ? ` Flags=${options.flags.map(word).join(",")}` : "";
    const ports = options.ports.map(
      ({ virtualPort, target }) => ` Port=${String(virtualPort)},${word(target)}`,
    );
    const maxStreams = options.maxStreams === undefined ? "" : ` MaxStreams=${String(options.maxStreams)}`;
    const clients = (options.clientKeys ?? []).map((key) => ` ClientAuthV3=${word(key)}`);
    const reply = await this.command(
      `ADD_ONION ${word(options.key ?? "NEW:ED25519-V3")}${flags}${maxStreams}${ports.join("")}${clients.join("")}`,
      wait,
    );
    const serviceId = field(reply, "ServiceID");
    if (serviceId === undefined)
      throw new ProtocolError("tor-control-protocol", "Cannot read ADD_ONION reply: ServiceID is missing");
    return { serviceId, key: field(reply, "PrivateKey") ?? options.key };
  }

  async delOnion(serviceId: string, wait: Wait = {}): Promise<void> {
    await this.command(`DEL_ONION ${word(serviceId)}`, wait);
  }

  /**
   * Builds a circuit through `path` (fingerprints, 40 hex digits, guard first; empty lets tor choose) and resolves
   * with its id when it is built. Closes it again when aborted. Throws BentoError `tor-circuit-failed`.
   */
  async extendCircuit(path: readonly string[], wait: Wait = {}): Promise<string> {
    return this.#extend("0", path, wait);
  }

  /** Adds hops to a circuit and resolves when they are built. The circuit is gone when this throws. */
  async extendExistingCircuit(circuitId: string, path: readonly string[], wait: Wait = {}): Promise<void> {
    await this.#extend(circuitId, path, wait);
  }

  async closeCircuit(circuitId: string, wait: Wait = {}): Promise<void> {
    await this.command(`CLOSECIRCUIT ${word(circuitId)}`, wait);
  }

  /** `ATTACHSTREAM`. Circuit "0" hands the stream back to tor. */
  async attachStream(streamId: string, circuitId: string, wait: Wait = {}): Promise<void> {
    await this.command(`ATTACHSTREAM ${word(streamId)} ${word(circuitId)}`, wait);
  }

  /** `MAPADDRESS`: from now on `from` means `to`; mapping a name to itself removes the mapping. */
  async mapAddress(from: string, to: string, wait: Wait = {}): Promise<void> {
    await this.command(`MAPADDRESS ${word(from)}=${word(to)}`, wait);
  }

  /**
   * Resolves when tor says it is bootstrapped, or as far as `percent` (control-spec 5.5: 75 is enough directory
   * information for circuits). `onProgress` gets percent and tor's own words for the phase.
   */
  async awaitBootstrap(
    options: Wait & {
      readonly percent?: number;
      readonly onProgress?: (percent: number, summary: string) => void;
    } = {},
  ): Promise<void> {
    const done = Promise.withResolvers<void>();
    const look = (keywords: ReadonlyMap<string, string>) => {
      const percent = Number(keywords.get("PROGRESS") ?? 0);
      options.onProgress?.(percent, keywords.get("SUMMARY") ?? "");
      if (percent >= (options.percent ?? 100)) done.resolve();
    };
    await using _subscription = await this.subscribe(
      ["STATUS_CLIENT"],
      (event) => {
        if (event.kind === "STATUS" && event.action === "BOOTSTRAP") look(event.keywords);
      },
      options,
    );
    const now = await this.getInfo(["status/bootstrap-phase"], options);
    look(parseArguments(now["status/bootstrap-phase"]).keywords);
    await this.during(done.promise, options);
  }

  /** Awaits `promise`, but fails when the signal aborts or the connection goes away first. */
  async during<T>(promise: Promise<T>, { signal }: Wait = {}): Promise<T> {
    signal?.throwIfAborted();
    const stop = Promise.withResolvers<never>();
    const onAbort = () => {
      stop.reject(signal?.reason);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    const lost = this.#connection.closed.then((reason) => {
      throw reason;
    });
    try {
      return await Promise.race([promise, stop.promise, lost]);
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#subscribers.clear();
    await this.#connection[Symbol.asyncDispose]();
  }

  #eventNames(): Set<string> {
    return new Set([...this.#subscribers].flatMap(({ names }) => [...names]));
  }

  // control-spec 3.4: SETEVENTS replaces the whole set, so each one names everything that anybody wants now.
  async #setEvents(wait: Wait): Promise<void> {
    await this.command(["SETEVENTS", ...[...this.#eventNames()].map(word)].join(" "), wait);
  }

  async #extend(circuitId: string, path: readonly string[], wait: Wait): Promise<string> {
    const hops = path.map((fingerprint) => {
      if (!/^[0-9A-Fa-f]{40}$/u.test(fingerprint))
        throw new BentoError(
          "tor-circuit-failed",
          `Cannot build circuit: ${quote(fingerprint)} is no fingerprint`,
        );
      return fingerprint.toUpperCase();
    });
    const ended = Promise.withResolvers<CircuitEvent>();
    const extended: { circuitId?: string } = {};
    let early: CircuitEvent[] = [];
    const look = (event: CircuitEvent) => {
      if (event.circuitId === extended.circuitId && ["BUILT", "FAILED", "CLOSED"].includes(event.status))
        ended.resolve(event);
    };
    await using _subscription = await this.subscribe(
      ["CIRC"],
      (event) => {
        if (event.kind !== "CIRC") return;
        // Events may precede the reply that names the circuit.
        if (extended.circuitId === undefined) early.push(event);
        else look(event);
      },
      wait,
    );
    const reply = await this.command(`EXTENDCIRCUIT ${word(circuitId)} ${hops.join(",")}`.trimEnd(), wait);
    const found = /^EXTENDED (\S+)/u.exec(reply.lines[0]?.text ?? "")?.[1];
    if (found === undefined)
      throw new ProtocolError("tor-control-protocol", "Cannot read EXTENDCIRCUIT reply: no circuit id");
    extended.circuitId = found;
    for (const event of early) look(event);
    early = [];
    const last = await this.during(ended.promise, wait).catch(async (error: unknown) => {
      if (!this.isClosed)
        await this.closeCircuit(found).catch(() => {
          // It may have closed by itself meanwhile.
        });
      throw error;
    });
    if (last.status === "BUILT") return found;
    const why = [last.reason, last.remoteReason].filter((reason) => reason !== undefined).join(", ");
    throw new BentoError("tor-circuit-failed", `Cannot build circuit: ${last.status} ${why}`.trimEnd(), {
      advice: "Try again: another path may work.",
    });
  }
}

/** One argument that must not contain separators: names, ids, addresses. */
function word(text: string): string {
  if (!/^[\x21-\x7e]+$/u.test(text) || text.includes('"'))
    throw new BentoError(
      "tor-control-command",
      `Cannot send control command: ${quote(text)} is not one plain word`,
    );
  return text;
}

function firstWord(command: string): string {
  return command.split(" ", 1)[0] ?? "";
}

// Sample: 250-ServiceID=abc..., 250-PrivateKey=ED25519-V3:...
function field(reply: Reply, name: string): string | undefined {
  return reply.lines.find(({ text }) => text.startsWith(`${name}=`))?.text.slice(name.length + 1);
}
