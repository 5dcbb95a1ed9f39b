// An owner's streams: made through tor's SOCKS port under user names that only the firewall knows, so that tor's
// events name their owner, and that no stream of one owner shares a circuit of tor's choice with another's.
// Streams on the owner's circuits have a name each; those that tor places share one for each isolation of the owner.

import { randomBytes } from "node:crypto";
import type { Duplex } from "node:stream";
import { BentoError } from "../../base/errors.ts";
import type { StreamEvent } from "../control-event.ts";
import { type Isolation, socksResolve, socksStream } from "../socks.ts";
import type { StreamSink, TorFirewall } from "./firewall.ts";
import { MeteredStream } from "./metered-stream.ts";
import { type OwnedCircuit, reasonOf } from "./owned-circuit.ts";
import type { OwnerAccount } from "./owner-account.ts";
import type { OwnerEvent, OwnerWatch } from "./owner-watch.ts";

export interface OwnerShared {
  readonly firewall: TorFirewall;
  readonly account: OwnerAccount;
  readonly watch: OwnerWatch;
  /** Aborted with the reason when the owner has ended. */
  readonly ended: AbortSignal;
}

export interface Target {
  /** Name or address; goes to tor as text. At most 255 bytes. */
  readonly host: string;
  readonly port: number;
  /** Streams with different labels share no circuit. */
  readonly isolation?: string | undefined;
}

export interface OpenStream {
  readonly stream: number;
  readonly duplex: Duplex;
}

export interface StreamView {
  readonly stream: number;
  /** null where tor chose it, and for connections to an onion service. */
  readonly circuit: number | null;
}

/** Labels of an owner that it used within the last minutes. Beyond this the one used longest ago is forgotten. */
const ISOLATIONS_MAX = 64;
/** For a stream to be connected or refused: milliseconds. Tor's own limit is 2 minutes (SocksTimeout). */
export const CONNECT_TIMEOUT_MS = 150_000;

const STATUSES: Readonly<Record<string, Extract<OwnerEvent, { kind: "stream" }>["status"]>> = {
  NEW: "new",
  NEWRESOLVE: "new",
  SENTCONNECT: "sent",
  SENTRESOLVE: "sent",
  SUCCEEDED: "succeeded",
  FAILED: "failed",
  CLOSED: "closed",
};

type Placed = Target & { readonly circuit?: OwnedCircuit };

export class OwnerStreams {
  readonly #shared: OwnerShared;
  readonly #open = new Map<number, { view: StreamView; end: (error: BentoError) => void }>();
  /** User name of each isolation label, least recently used first. */
  readonly #isolations = new Map<string, string>();

  constructor(shared: OwnerShared) {
    this.#shared = shared;
  }

  views(): StreamView[] {
    return [...this.#open.values()].map(({ view }) => view);
  }

  async connect(target: Placed, signal: AbortSignal): Promise<OpenStream> {
    return this.#during(target, signal, async (options, id, release) => {
      const { stream: inner, connected } = socksStream(options);
      const ignore = () => {
        // `connected` rejects with the same error.
      };
      inner.on("error", ignore);
      await connected;
      if (options.signal?.aborted) inner.destroy();
      options.signal?.throwIfAborted();
      return { stream: id, duplex: this.adopt(id, inner, release, target.circuit?.id ?? null) };
    });
  }

  async resolve(target: Placed, signal: AbortSignal): Promise<{ address: string }> {
    return this.#during(target, signal, async (options, id, release) => {
      const address = await socksResolve(options);
      this.#open.delete(id);
      release();
      return { address };
    });
  }

  /** Makes a stream that exists the owner's: counted, listed, ended with the owner. */
  adopt(id: number, inner: Duplex, release: () => void, circuit: number | null): Duplex {
    const metered = new MeteredStream(inner, this.#shared.account);
    const end = (error: BentoError) => {
      metered.destroy(error);
    };
    this.#open.set(id, { view: { stream: id, circuit }, end });
    // Whoever reads it hears of its errors; one that waits to be accepted has no reader yet.
    metered.on("error", () => undefined);
    metered.once("close", () => {
      this.#open.delete(id);
      release();
    });
    return metered;
  }

  close(id: number): void {
    const found = this.#open.get(id);
    if (!found)
      throw new BentoError("tor-unknown", `Cannot close stream ${String(id)}: there is no such stream`);
    found.end(new BentoError("tor-stream-closed", "Stream closed"));
  }

  end(reason: BentoError): void {
    for (const { end } of this.#open.values()) end(reason);
  }

  /** Counts, names and awaits one stream; `make` speaks with the SOCKS port. */
  async #during<T>(
    target: Placed,
    signal: AbortSignal,
    make: (options: Parameters<typeof socksStream>[0], id: number, release: () => void) => Promise<T>,
  ): Promise<T> {
    const { firewall, account, watch, ended } = this.#shared;
    const release = account.take("streams");
    const id = account.nextId();
    const stop = new AbortController();
    let forget: (() => void) | undefined;
    const cancel = account.clock.after(CONNECT_TIMEOUT_MS, () => {
      stop.abort(new BentoError("tor-timeout", "Cannot connect: the circuit or the far end took too long"));
    });
    try {
      account.takeAttempt();
      const isolation = this.#isolationOf(target);
      const options = {
        proxy: firewall.options.socks,
        host: target.host,
        port: target.port,
        isolation,
        signal: AbortSignal.any([signal, ended, stop.signal]),
      };
      const view: StreamView = { stream: id, circuit: target.circuit?.id ?? null };
      const fail = (error: BentoError) => {
        stop.abort(error);
      };
      this.#open.set(id, { view, end: fail });
      const sink = sinkOf(id, target.circuit, watch, fail);
      forget = await firewall.expect(isolation.username, sink, options.signal);
      return await make(options, id, release);
    } catch (error) {
      this.#open.delete(id);
      release();
      throw error;
    } finally {
      cancel();
      forget?.();
    }
  }

  #isolationOf({ circuit, host, isolation = "" }: Placed): Isolation {
    const { firewall, account } = this.#shared;
    if (circuit) return { username: firewall.userName(), password: randomBytes(8).toString("hex") };
    const known = this.#isolations.get(isolation);
    // What makes tor build circuits counts as such.
    if (known === undefined || host.toLowerCase().endsWith(".onion")) account.takeExtends();
    const username = known ?? firewall.userName();
    this.#isolations.delete(isolation);
    this.#isolations.set(isolation, username);
    const [oldest] = this.#isolations.keys();
    if (oldest !== undefined && this.#isolations.size > ISOLATIONS_MAX) this.#isolations.delete(oldest);
    return { username, password: "0" };
  }
}

function sinkOf(
  id: number,
  circuit: OwnedCircuit | undefined,
  watch: OwnerWatch,
  fail: (error: BentoError) => void,
): StreamSink {
  return {
    circuit: () => {
      if (!circuit) return "0";
      return circuit.isBuilt ? circuit.torId : undefined;
    },
    onEvent: (event: StreamEvent) => {
      if (circuit && event.status === "DETACHED")
        // Tor would look for another exit, and no other will do.
        fail(new BentoError("tor-exit-refused", "Cannot connect: the last relay of the circuit refused"));
      const status = STATUSES[event.status];
      if (status === undefined) return;
      const reason = reasonOf(event);
      const shown = { kind: "stream", stream: id, status, circuit: circuit?.id ?? null } as const;
      watch.tell({ ...shown, ...(reason ? { reason } : {}) });
    },
    fail,
  };
}
