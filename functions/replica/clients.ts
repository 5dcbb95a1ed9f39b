// The clients that this replica has met: a circuit each, their streams, what they were sent, and when a circuit counts as
// somebody there. Boundary: clients, strangers all; each has a share of circuits and streams that it cannot exceed.

import type { Clock } from "../../src/base/clock.ts";
import type { Circuit, IncomingStream } from "../../src/onion/circuit/circuit.ts";
import { END_REASON } from "../../src/onion/circuit/relay-message.ts";
import type { TorStream } from "../../src/onion/circuit/stream.ts";
import { LoadBalancerLimits } from "../../src/wire/loadbalancer.ts";
import type { ByteStream } from "./http-server.ts";
import type { ClientLoad } from "./protocol.ts";

/** Circuits of clients, idle ones included: the longest idle goes when another comes. */
export const CIRCUITS_MAX = 2048;
/** Of one client. Browsers open some six to one host. */
export const STREAMS_PER_CLIENT_MAX = 64;
export const STREAMS_MAX = 4096;
/**
 * A circuit without stream counts as a client for this long. C tor keeps circuits for many minutes after the last stream:
 * they cost nothing, and closing one costs its client nothing but another introduction.
 */
export const FRESH_MS = 10_000;

interface Client {
  readonly id: number;
  readonly circuit: Circuit;
  readonly sinceMs: number;
  /** Of its last stream, or of its coming. */
  idleSinceMs: number;
  streams: number;
  bytesTotal: number;
  /** When its rate was last taken, and what it was. */
  bytesThen: number;
  bytesPerSecond: number;
}

export interface ClientsOptions {
  readonly clock: Clock;
  /** The port that clients name. */
  readonly virtualPort: number;
  /** Serves one stream and closes it; what it rejects with ends this stream alone. */
  readonly serve: (stream: ByteStream) => Promise<void>;
}

export class Clients {
  readonly #options: ClientsOptions;
  readonly #clients = new Set<Client>();
  #nextId = 1;
  #streams = 0;
  #bytesTotal = 0;
  #bytesThen = 0;
  #bytesPerSecond = 0;
  #ratedMs: number;

  constructor(options: ClientsOptions) {
    this.#options = options;
    this.#ratedMs = options.clock.now();
  }

  /** Circuits with a stream, and those that had one, or came, less than FRESH_MS ago. */
  get active(): number {
    const sinceMs = this.#options.clock.now() - FRESH_MS;
    let count = 0;
    for (const client of this.#clients) if (client.streams > 0 || client.idleSinceMs > sinceMs) count++;
    return count;
  }

  get circuits(): number {
    return this.#clients.size;
  }

  get bytesTotal(): number {
    return this.#bytesTotal;
  }

  get bytesPerSecond(): number {
    return this.#bytesPerSecond;
  }

  /** No room for another circuit: each of CIRCUITS_MAX has streams. */
  get isFull(): boolean {
    return this.#clients.size >= CIRCUITS_MAX && !this.#longestIdle();
  }

  /** Takes the circuit over, and returns what takes its streams. Not when full. */
  add(circuit: Circuit): (stream: IncomingStream) => void {
    if (this.#clients.size >= CIRCUITS_MAX) this.#drop(this.#longestIdle());
    const nowMs = this.#options.clock.now();
    const client: Client = {
      id: this.#nextId++,
      circuit,
      sinceMs: nowMs,
      idleSinceMs: nowMs,
      streams: 0,
      bytesTotal: 0,
      bytesThen: 0,
      bytesPerSecond: 0,
    };
    this.#clients.add(client);
    void circuit.closed.then(() => this.#clients.delete(client));
    return (stream) => {
      this.#take(client, stream);
    };
  }

  /** Takes the rates since the last call. */
  measure(): void {
    const nowMs = this.#options.clock.now();
    const seconds = (nowMs - this.#ratedMs) / 1000;
    if (seconds <= 0) return;
    this.#ratedMs = nowMs;
    this.#bytesPerSecond = (this.#bytesTotal - this.#bytesThen) / seconds;
    this.#bytesThen = this.#bytesTotal;
    for (const client of this.#clients) {
      client.bytesPerSecond = (client.bytesTotal - client.bytesThen) / seconds;
      client.bytesThen = client.bytesTotal;
    }
  }

  /** Those that were sent most of late, at most `clientsShownMax`. */
  loads(): ClientLoad[] {
    const nowMs = this.#options.clock.now();
    return [...this.#clients]
      .filter(({ streams, idleSinceMs }) => streams > 0 || idleSinceMs > nowMs - FRESH_MS)
      .toSorted((a, b) => b.bytesPerSecond - a.bytesPerSecond)
      .slice(0, LoadBalancerLimits.clientsShownMax)
      .map(({ id, bytesPerSecond, bytesTotal, sinceMs }) => ({
        id,
        bytesPerSecond,
        bytesTotal,
        ageMs: nowMs - sinceMs,
      }));
  }

  /** Ends every circuit. */
  close(): void {
    for (const { circuit } of this.#clients) circuit.destroy();
    this.#clients.clear();
  }

  #longestIdle(): Client | undefined {
    let longest: Client | undefined;
    for (const client of this.#clients)
      if (client.streams === 0 && client.idleSinceMs < (longest?.idleSinceMs ?? Number.POSITIVE_INFINITY))
        longest = client;
    return longest;
  }

  #drop(client: Client | undefined): void {
    if (!client) return;
    client.circuit.destroy();
    this.#clients.delete(client);
  }

  #take(client: Client, incoming: IncomingStream): void {
    if (incoming.port !== this.#options.virtualPort) {
      incoming.refuse(END_REASON.exitPolicy);
      return;
    }
    if (client.streams >= STREAMS_PER_CLIENT_MAX || this.#streams >= STREAMS_MAX) {
      incoming.refuse(END_REASON.resourceLimit);
      return;
    }
    void this.#serve(client, incoming.accept());
  }

  async #serve(client: Client, stream: TorStream): Promise<void> {
    client.streams++;
    this.#streams++;
    try {
      await this.#options.serve(this.#counted(client, stream));
    } catch {
      // The client left in the middle, or its target did: nobody is there to be told.
    } finally {
      stream.close();
      client.streams--;
      this.#streams--;
      client.idleSinceMs = this.#options.clock.now();
    }
  }

  #counted(client: Client, stream: TorStream): ByteStream {
    return {
      read: async (options) => stream.read(options),
      write: async (bytes) => {
        await stream.write(bytes);
        client.bytesTotal += bytes.length;
        this.#bytesTotal += bytes.length;
      },
      close: () => {
        stream.close();
      },
    };
  }
}
