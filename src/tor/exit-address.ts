// Reaching a port of a relay's own address through a circuit that ends at that very relay, so that the last hop never
// leaves its machine. For servers beside a relay that have no onion service.
// Where the relay's published policy summary has the port, MAPADDRESS to `address.FINGERPRINT.exit` does it. A relay that
// accepts nothing but this one port publishes no summary; then we build the circuit and attach the stream ourselves.
// Spec: control-spec 3.10 (EXTENDCIRCUIT), 3.13 (ATTACHSTREAM), 3.8 (MAPADDRESS), tor(1) __LeaveStreamsUnattached.

import { randomBytes } from "node:crypto";
import type { Duplex } from "node:stream";
import { BentoError } from "../base/errors.ts";
import { formatIp, parseIp } from "../base/ip-address.ts";
import type { ControlClient, Wait } from "./control-client.ts";
import type { StreamEvent } from "./control-event.ts";
import { choosePath } from "./exit-path.ts";
import { acceptsPort, parseExitSummary } from "./relay-list.ts";
import { type Isolation, type SocksAddress, socksConnect } from "./socks.ts";

export interface ExitTarget {
  /** 40 hex digits. */
  readonly fingerprint: string;
  /** The relay's own address, as text. */
  readonly address: string;
  readonly port: number;
}

interface Circuit {
  readonly id: string;
  readonly isolationKey: string;
}

/** Circuits kept for further streams; beyond this the one used longest ago is closed. */
const CIRCUITS_MAX = 32;
/** Tries at building a circuit before giving up: each takes another middle relay. */
const BUILDS_MAX = 3;
/** Tries at getting a stream of ours from tor: see #connectAttached. */
const ATTACHES_MAX = 10;
/** SOCKS user names of streams that a dialer waits for, in this process or another: nobody else places them. */
const USER_PREFIX = "exit-address-";

type ConnectOptions = Wait & { readonly isolation: Isolation; readonly optimisticData?: Uint8Array };

/** A stream of ours that waits for its circuit. */
interface Waiting {
  readonly circuitId: string;
  readonly abort: AbortController;
  /** Whether it was on its circuit: what goes wrong from then on is the circuit's or the relay's doing. */
  isPlaced: boolean;
}

export class ExitAddressDialer implements AsyncDisposable {
  readonly #control: ControlClient;
  readonly #proxy: SocksAddress;
  /** By isolation key, least recently used first. */
  readonly #circuits = new Map<string, Promise<Circuit>>();
  /** Tells of circuits that close; there from the first circuit on. */
  #watch: Promise<AsyncDisposable> | undefined;
  /** Streams of ours that wait for their circuit, by SOCKS user name. */
  readonly #waiting = new Map<string, Waiting>();
  #unattached: Promise<AsyncDisposable> | undefined;
  #unattachedUsers = 0;

  /**
   * `control` and `proxy` belong to the same tor. While a stream is being attached, tor leaves all new streams to
   * controllers; those that are not ours are handed back at once. One dialer per tor.
   */
  constructor(control: ControlClient, proxy: SocksAddress) {
    this.#control = control;
    this.#proxy = proxy;
  }

  /**
   * A stream to the target, whose last relay is the target's. Streams with different isolation never share a circuit.
   * Throws BentoError `tor-circuit-failed`, `tor-bad-address` or one of SOCKS.
   */
  async connect(target: ExitTarget, options: ConnectOptions): Promise<Duplex> {
    const address = parseIp(target.address);
    if (!address || !/^[0-9A-Fa-f]{40}$/u.test(target.fingerprint))
      throw new BentoError(
        "tor-bad-address",
        `Cannot connect through relay: ${target.address} with fingerprint ${target.fingerprint.slice(0, 40)} names no relay's address`,
      );
    const exact = {
      fingerprint: target.fingerprint.toUpperCase(),
      address: formatIp(address),
      port: target.port,
    };
    return (await this.#isInSummary(exact, options))
      ? this.#connectMapped(exact, options)
      : this.#connectAttached(exact, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const circuits = [...this.#circuits.values()];
    this.#circuits.clear();
    for (const circuit of circuits)
      await circuit.then(async ({ id }) => this.#close(id)).catch(() => undefined);
    await this.#watch?.then(async (held) => held[Symbol.asyncDispose]()).catch(() => undefined);
    const unattached = this.#unattached;
    this.#unattached = undefined;
    await unattached?.then(async (held) => held[Symbol.asyncDispose]()).catch(() => undefined);
  }

  async #isInSummary({ fingerprint, port }: ExitTarget, wait: Wait): Promise<boolean> {
    const key = `md/id/${fingerprint}` as const;
    const info = await this.#control.getInfo([key], wait).catch((error: unknown) => {
      // Unknown as yet, or no microdescriptors here at all: the other way needs neither.
      if (error instanceof BentoError && error.code === "tor-refused") return undefined;
      throw error;
    });
    const summary = parseExitSummary(info?.[key] ?? "");
    return summary !== undefined && acceptsPort(summary, port);
  }

  async #connectMapped(target: ExitTarget, options: ConnectOptions): Promise<Duplex> {
    return this.#underName(target, options, async (host) =>
      socksConnect({
        proxy: this.#proxy,
        host,
        port: target.port,
        isolation: options.isolation,
        optimisticData: options.optimisticData,
        signal: options.signal,
      }),
    );
  }

  /** A name that tor itself will take to the target relay and nowhere else, for as long as `use` runs. */
  async #underName(target: ExitTarget, wait: Wait, use: (host: string) => Promise<Duplex>): Promise<Duplex> {
    // A name of its own per call: another caller's mapping can neither be seen nor removed.
    const name = `${randomBytes(10).toString("hex")}.exit-address.invalid`;
    await this.#control.mapAddress(name, `${target.address}.${target.fingerprint}.exit`, wait);
    try {
      return await use(name);
    } finally {
      await this.#control.mapAddress(name, name).catch(() => {
        // The connection to tor was lost, and the mapping with it matters no more.
      });
    }
  }

  /**
   * Another program that leaves streams unattached (a second command of ours, say) may end that for both of us in between.
   * Tor then refuses our stream, since the name is good for the target alone: nothing goes elsewhere, and we ask again.
   */
  async #connectAttached(target: ExitTarget, options: ConnectOptions): Promise<Duplex> {
    const circuit = await this.#circuitTo(target, options);
    for (let attempt = 1; ; attempt++) {
      const stream: Waiting = { circuitId: circuit.id, isPlaced: false, abort: new AbortController() };
      try {
        return await this.#connectOver(stream, target, options);
      } catch (error) {
        options.signal?.throwIfAborted();
        if (!stream.isPlaced && attempt < ATTACHES_MAX) continue;
        // It may have been the circuit: the next stream gets a new one.
        this.#circuits.delete(circuit.isolationKey);
        await this.#close(circuit.id);
        throw error;
      }
    }
  }

  async #connectOver(stream: Waiting, target: ExitTarget, options: ConnectOptions): Promise<Duplex> {
    const username = `${USER_PREFIX}${randomBytes(10).toString("hex")}`;
    this.#waiting.set(username, stream);
    await this.#holdUnattached(options);
    try {
      return await this.#underName(target, options, async (host) =>
        socksConnect({
          proxy: this.#proxy,
          host,
          port: target.port,
          isolation: { username, password: "x" },
          optimisticData: options.optimisticData,
          signal: options.signal
            ? AbortSignal.any([options.signal, stream.abort.signal])
            : stream.abort.signal,
        }),
      );
    } finally {
      this.#waiting.delete(username);
      await this.#releaseUnattached();
    }
  }

  async #circuitTo(target: ExitTarget, options: Wait & { readonly isolation: Isolation }): Promise<Circuit> {
    const isolationKey = JSON.stringify([
      target.fingerprint,
      options.isolation.username,
      options.isolation.password,
    ]);
    const kept = this.#circuits.get(isolationKey);
    if (kept) {
      // Last in the map is used latest.
      this.#circuits.delete(isolationKey);
      this.#circuits.set(isolationKey, kept);
      return this.#control.during(kept, options);
    }
    this.#watch ??= this.#watchCircuits();
    await this.#control.during(this.#watch, options);
    const [oldest] = this.#circuits;
    if (oldest && this.#circuits.size >= CIRCUITS_MAX) {
      this.#circuits.delete(oldest[0]);
      await oldest[1].then(async ({ id }) => this.#close(id)).catch(() => undefined);
    }
    const building = this.#build(target.fingerprint, options).then((id) => ({ id, isolationKey }));
    this.#circuits.set(isolationKey, building);
    try {
      return await building;
    } catch (error) {
      if (this.#circuits.get(isolationKey) === building) this.#circuits.delete(isolationKey);
      throw error;
    }
  }

  async #build(fingerprint: string, wait: Wait): Promise<string> {
    for (let attempt = 1; ; attempt++) {
      const path = await choosePath(this.#control, fingerprint, wait);
      try {
        return await this.#control.extendCircuit(path, wait);
      } catch (error) {
        wait.signal?.throwIfAborted();
        const mayRetry = error instanceof BentoError && error.code === "tor-circuit-failed";
        if (!mayRetry || attempt >= BUILDS_MAX) throw error;
      }
    }
  }

  /** Forgets circuits as they end. Asking for the list before each stream would cost a round trip and its delays. */
  async #watchCircuits(): Promise<AsyncDisposable> {
    return this.#control.subscribe(["CIRC"], (event) => {
      if (event.kind !== "CIRC" || !["CLOSED", "FAILED"].includes(event.status)) return;
      for (const [isolationKey, building] of this.#circuits)
        void building.then(
          ({ id }) => {
            if (id === event.circuitId && this.#circuits.get(isolationKey) === building)
              this.#circuits.delete(isolationKey);
            return undefined;
          },
          () => undefined,
        );
    });
  }

  async #close(id: string): Promise<void> {
    await this.#control.closeCircuit(id).catch(() => {
      // Closed already.
    });
  }

  /** From here to the last release, tor leaves new streams to us. */
  async #holdUnattached(wait: Wait): Promise<void> {
    this.#unattachedUsers++;
    this.#unattached ??= this.#leaveUnattached();
    try {
      await this.#control.during(this.#unattached, wait);
    } catch (error) {
      await this.#releaseUnattached();
      throw error;
    }
  }

  async #releaseUnattached(): Promise<void> {
    this.#unattachedUsers--;
    if (this.#unattachedUsers > 0) return;
    const held = this.#unattached;
    this.#unattached = undefined;
    await held?.then(async (one) => one[Symbol.asyncDispose]()).catch(() => undefined);
  }

  async #leaveUnattached(): Promise<AsyncDisposable> {
    const control = this.#control;
    // Listening comes first: no stream may be left alone between the two.
    const subscription = await control.subscribe(["STREAM"], (event) => {
      if (event.kind === "STREAM") void this.#place(event);
    });
    const restore = async () => {
      if (!control.isClosed) await control.setConf([["__LeaveStreamsUnattached", "0"]]);
      await subscription[Symbol.asyncDispose]();
    };
    try {
      await control.setConf([["__LeaveStreamsUnattached", "1"]]);
    } catch (error) {
      await restore();
      throw error;
    }
    return { [Symbol.asyncDispose]: restore };
  }

  /**
   * Attaches a stream of ours to its circuit, hands any other back to tor that waits for it. Tor's own streams to
   * directories do not: ATTACHSTREAM would break them off, and tor would give up the guard that they go to.
   */
  async #place(event: StreamEvent): Promise<void> {
    const { socksUsername, status } = event;
    const ours = this.#waiting.get(socksUsername ?? "");
    try {
      if (ours && status === "DETACHED")
        // Tor would look for another circuit, and no other will do.
        ours.abort.abort(
          new BentoError(
            "tor-exit-refused",
            `Cannot connect to ${event.target}: the relay refused (${event.remoteReason ?? event.reason ?? "no reason given"})`,
            {
              advice: "Check the port, and that the relay's exit policy accepts it.",
            },
          ),
        );
      else if (ours && status === "NEW") {
        await this.#control.attachStream(event.streamId, ours.circuitId);
        ours.isPlaced = true;
      } else if (!ours && status === "CONTROLLER_WAIT" && !socksUsername?.startsWith(USER_PREFIX))
        await this.#control.attachStream(event.streamId, "0");
    } catch (error) {
      // A foreign stream that tor attached before us, or that has gone (552, 555), is no concern of ours.
      ours?.abort.abort(error);
    }
  }
}
