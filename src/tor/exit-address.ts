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
import {
  acceptsPort,
  isUsable,
  type ListedRelay,
  parseExitSummary,
  parseGuards,
  parseRelays,
  pickByBandwidth,
  subnetOf,
} from "./relay-list.ts";
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

export class ExitAddressDialer implements AsyncDisposable {
  readonly #control: ControlClient;
  readonly #proxy: SocksAddress;
  /** By isolation key, least recently used first. */
  readonly #circuits = new Map<string, Promise<Circuit>>();
  /** Tells of circuits that close; there from the first circuit on. */
  #watch: Promise<AsyncDisposable> | undefined;
  /** Streams of ours that wait for their circuit, by SOCKS user name. */
  readonly #waiting = new Map<string, { circuitId: string; reject: (error: unknown) => void }>();
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
  async connect(
    target: ExitTarget,
    options: Wait & { readonly isolation: Isolation; readonly optimisticData?: Uint8Array },
  ): Promise<Duplex> {
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

  async #connectMapped(
    target: ExitTarget,
    options: Wait & { readonly isolation: Isolation; readonly optimisticData?: Uint8Array },
  ): Promise<Duplex> {
    // A name of its own per call: another caller's mapping can neither be seen nor removed.
    const name = `${randomBytes(10).toString("hex")}.exit-address.invalid`;
    await this.#control.mapAddress(name, `${target.address}.${target.fingerprint}.exit`, options);
    try {
      return await socksConnect({
        proxy: this.#proxy,
        host: name,
        port: target.port,
        isolation: options.isolation,
        optimisticData: options.optimisticData,
        signal: options.signal,
      });
    } finally {
      await this.#control.mapAddress(name, name).catch(() => {
        // The connection to tor was lost, and the mapping with it matters no more.
      });
    }
  }

  async #connectAttached(
    target: ExitTarget,
    options: Wait & { readonly isolation: Isolation; readonly optimisticData?: Uint8Array },
  ): Promise<Duplex> {
    const circuit = await this.#circuitTo(target, options);
    const username = `exit-address-${randomBytes(10).toString("hex")}`;
    const abort = new AbortController();
    this.#waiting.set(username, {
      circuitId: circuit.id,
      reject: (error) => {
        abort.abort(error);
      },
    });
    await this.#holdUnattached(options);
    try {
      return await socksConnect({
        proxy: this.#proxy,
        host: target.address,
        port: target.port,
        isolation: { username, password: "x" },
        optimisticData: options.optimisticData,
        signal: options.signal ? AbortSignal.any([options.signal, abort.signal]) : abort.signal,
      });
    } catch (error) {
      // It may have been the circuit: the next stream gets a new one.
      this.#circuits.delete(circuit.isolationKey);
      await this.#close(circuit.id);
      throw error;
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

  /** Attaches a stream of ours to its circuit, hands any other back to tor. */
  async #place(event: StreamEvent): Promise<void> {
    if (!["NEW", "NEWRESOLVE", "DETACHED", "CONTROLLER_WAIT"].includes(event.status)) return;
    const ours = this.#waiting.get(event.socksUsername ?? "");
    try {
      if (ours && event.status === "DETACHED")
        // Tor would look for another exit, and no other will do.
        ours.reject(
          new BentoError(
            "tor-exit-refused",
            `Cannot connect to ${event.target}: the relay refused (${event.remoteReason ?? event.reason ?? "no reason given"})`,
            {
              advice: "Check the port, and that the relay's exit policy accepts it.",
            },
          ),
        );
      else if (ours && event.status === "NEW")
        await this.#control.attachStream(event.streamId, ours.circuitId);
      else if (!ours) await this.#control.attachStream(event.streamId, "0");
    } catch (error) {
      // A foreign stream that tor attached before us, or that has gone (552, 555), is no concern of ours.
      ours?.reject(error);
    }
  }
}

/** A guard of tor's own, a middle relay by bandwidth, the target: three hops, no two in one /16 where tor wants that. */
async function choosePath(control: ControlClient, target: string, wait: Wait): Promise<string[]> {
  const info = await control.getInfo(["entry-guards", "ns/all"], wait);
  const conf = await control.getConf(["EnforceDistinctSubnets"], wait);
  const isDistinct = conf.EnforceDistinctSubnets[0] !== "0";
  const relays = parseRelays(info["ns/all"]).filter(isUsable);
  const last = relays.find(({ fingerprint }) => fingerprint === target);
  const isApart = (one: ListedRelay, other: ListedRelay | undefined) =>
    one.fingerprint !== other?.fingerprint &&
    (!isDistinct || other === undefined || subnetOf(one.address) !== subnetOf(other.address));
  // Tor's guards protect against a first relay that changes all the time; a guard of our own choice would undo that.
  const guard = parseGuards(info["entry-guards"])
    .map((fingerprint) => relays.find((relay) => relay.fingerprint === fingerprint))
    .find((relay) => relay !== undefined && relay.fingerprint !== target && isApart(relay, last));
  if (!guard) throw noPath("none of Tor's guards is usable with this relay");
  const middles = relays.filter(
    (relay) => relay.fingerprint !== target && isApart(relay, guard) && isApart(relay, last),
  );
  const middle = pickByBandwidth(middles);
  if (!middle) throw noPath("no relay is left for the middle");
  return [guard.fingerprint, middle.fingerprint, target];
}

function noPath(why: string): BentoError {
  return new BentoError("tor-circuit-failed", `Cannot build circuit: ${why}`, {
    advice: "Try again in a minute, or use the box's onion address.",
  });
}
