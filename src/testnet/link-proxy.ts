// Links with delay and limited rate, in user space: a relay's advertised address is a proxy here, so every connection
// into the relay, from clients and relays alike, passes it once. Bytes are opaque (TLS between relays).
// Memory is bounded: a full delay queue stops reading, which TCP passes on to the sender.

import { createWriteStream, type WriteStream } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { type Clock, systemClock } from "../base/clock.ts";
import type { LinkShape } from "./plan.ts";

export interface LinkProxyOptions extends LinkShape {
  /** The relay's name, for traces. */
  readonly name: string;
  readonly host: string;
  readonly port: number;
  readonly targetPort: number;
  /** Appends one line per chunk, see TRACE_HEADER. */
  readonly tracePath?: string | undefined;
}

/** Columns of a trace, separated by tabs. `direction` is seen from the relay; times are of arrival at the proxy. */
const TRACE_HEADER = "unixMs\trelay\tpeer\tconnection\tdirection\tbytes\n";
/** A trace ends here: a day of a busy relay, and not the whole disk. */
const TRACE_BYTES_MAX = 1_073_741_824;
/** Bytes in one delay queue beyond what the link itself holds in flight. */
export const QUEUE_SLACK_BYTES = 262_144;
/** In flight at most where the rate is not limited: 200 ms at 10 Gbit/s would be 250 MB per link. */
export const QUEUE_UNLIMITED_BYTES = 8_388_608;
/** Of one link where all links into a relay share a rate: what waits here, waits for the others. */
const SHARED_QUEUE_BYTES = 32_768;
/** Connections into one relay; each peer keeps one or two. */
const CONNECTIONS_MAX = 1000;

export class LinkProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #trace: WriteStream | undefined;
  /** What all links share towards the relay. */
  readonly #into: Line | undefined;

  private constructor(server: Server, trace: WriteStream | undefined, intoMbit: number | undefined) {
    this.#server = server;
    this.#trace = trace;
    this.#into = intoMbit === undefined ? undefined : new Line(intoMbit);
  }

  static async start(options: LinkProxyOptions, clock: Clock = systemClock): Promise<LinkProxy> {
    const trace =
      options.tracePath === undefined
        ? undefined
        : createWriteStream(options.tracePath, { flags: "a", mode: 0o600 });
    trace?.write(TRACE_HEADER);
    const server = createServer({ noDelay: true, pauseOnConnect: true, allowHalfOpen: true });
    server.maxConnections = CONNECTIONS_MAX;
    const proxy = new LinkProxy(server, trace, options.intoMbit);
    let connections = 0;
    server.on("connection", (incoming: Socket) => {
      proxy.#carry(incoming, options, connections++, clock);
    });
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once("error", reject);
    server.listen({ host: options.host, port: options.port }, resolve);
    await promise;
    return proxy;
  }

  #carry(incoming: Socket, options: LinkProxyOptions, connection: number, clock: Clock): void {
    const peer = incoming.remoteAddress ?? "";
    this.#track(incoming);
    // A TCP handshake over the real link would take one round trip before the first byte.
    const cancel = clock.after(2 * options.latencyMs, () => {
      // From the peer's own address: the relay checks it against the one its peer claims to have.
      const outgoing = connect({
        host: options.host,
        port: options.targetPort,
        localAddress: peer,
        noDelay: true,
        allowHalfOpen: true,
      });
      this.#track(outgoing);
      // A connection that ended well in both directions leaves the other side its delayed bytes; a broken one does not.
      for (const [one, other] of [
        [incoming, outgoing],
        [outgoing, incoming],
      ] as const)
        one.once("close", () => {
          if (!one.readableEnded || !one.writableFinished) other.destroy();
        });
      shape(incoming, outgoing, { link: options, line: this.#into, clock }, (bytes) => {
        this.#record(options.name, peer, connection, "in", bytes, clock);
      });
      shape(outgoing, incoming, { link: options, line: undefined, clock }, (bytes) => {
        this.#record(options.name, peer, connection, "out", bytes, clock);
      });
    });
    incoming.once("close", cancel);
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => {
      socket.destroy();
    });
    socket.once("close", () => {
      this.#sockets.delete(socket);
    });
  }

  #record(
    relay: string,
    peer: string,
    connection: number,
    direction: string,
    bytes: number,
    clock: Clock,
  ): void {
    if (!this.#trace || this.#trace.bytesWritten >= TRACE_BYTES_MAX) return;
    this.#trace.write(`${[clock.now(), relay, peer, connection, direction, bytes].join("\t")}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    const trace = this.#trace;
    if (trace && !trace.closed) await new Promise<void>((resolve) => trace.end(resolve));
  }
}

/** Bytes a delay queue may hold: what the link has in flight, and slack. */
export function queueBytesMax({ latencyMs, rateMbit }: LinkShape): number {
  if (rateMbit === 0) return QUEUE_UNLIMITED_BYTES;
  return Math.min(QUEUE_UNLIMITED_BYTES, Math.ceil(bytesPerMs(rateMbit) * latencyMs)) + QUEUE_SLACK_BYTES;
}

function bytesPerMs(rateMbit: number): number {
  return (rateMbit * 1_000_000) / 8 / 1000;
}

/** Sends bytes one after the other at its rate. */
class Line {
  readonly #rateMbit: number;
  #freeAtMs = 0;

  constructor(rateMbit: number) {
    this.#rateMbit = rateMbit;
  }

  /** When the last of these bytes is through, which are there at `atMs`. */
  send(byteCount: number, atMs: number): number {
    const sendingMs = this.#rateMbit > 0 ? byteCount / bytesPerMs(this.#rateMbit) : 0;
    this.#freeAtMs = Math.max(atMs, this.#freeAtMs) + sendingMs;
    return this.#freeAtMs;
  }
}

/** Carries bytes from one socket to the other: each waits for its turn at the link's rate, then for the latency. */
function shape(
  from: Socket,
  to: Socket,
  { link, line, clock }: { link: LinkShape; line: Line | undefined; clock: Clock },
  onBytes: (bytes: number) => void,
): void {
  const own = new Line(link.rateMbit);
  const bytesMax = line ? SHARED_QUEUE_BYTES : queueBytesMax(link);
  // A chunk of undefined stands for the end of the stream.
  const queue: { dueMs: number; chunk: Buffer | undefined }[] = [];
  let queuedBytes = 0;
  let cancel: (() => void) | undefined;
  let isBlocked = false;

  const release = () => {
    cancel = undefined;
    while (!isBlocked && queue[0] && queue[0].dueMs <= clock.now()) {
      const { chunk } = queue.shift() ?? {};
      if (!chunk) {
        to.end();
        return;
      }
      queuedBytes -= chunk.length;
      if (!to.write(chunk)) {
        isBlocked = true;
        to.once("drain", () => {
          isBlocked = false;
          release();
        });
      }
    }
    if (from.isPaused() && queuedBytes < bytesMax) from.resume();
    const next = queue[0];
    if (next && !isBlocked) cancel ??= clock.after(Math.max(0, next.dueMs - clock.now()), release);
  };
  const enqueue = (chunk: Buffer | undefined) => {
    const bytes = chunk?.length ?? 0;
    const through = own.send(bytes, clock.now());
    queue.push({ dueMs: (line?.send(bytes, through) ?? through) + link.latencyMs, chunk });
    queuedBytes += chunk?.length ?? 0;
    if (queuedBytes >= bytesMax) from.pause();
    if (!isBlocked && !cancel) release();
  };
  from.on("data", (chunk: Buffer) => {
    onBytes(chunk.length);
    enqueue(chunk);
  });
  from.once("end", () => {
    enqueue(undefined);
  });
  to.once("close", () => {
    cancel?.();
  });
  from.resume();
}
