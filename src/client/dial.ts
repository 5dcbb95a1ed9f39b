// How the client gets a byte stream to a box: a Dial is given to it, one for Tor's SOCKS port, one for direct TCP.
// DialedStream is the stream that node:http and ws write to: it dials when the first bytes are there, so that
// they travel with the connection request and the first answer costs one round trip (spec/wire 1).

import net from "node:net";
import { Duplex } from "node:stream";
import { concat } from "../base/bytes.ts";
import type { Clock } from "../base/clock.ts";
import { BentoError } from "../base/errors.ts";
import type { BoxAddress } from "./address.ts";

export interface DialOptions {
  /** Streams with different text never share a circuit. */
  readonly isolation: string;
  /** Sent together with the connection request, before the answer to it is known. */
  readonly firstBytes?: Uint8Array;
  readonly signal: AbortSignal;
}

/** Opens one byte stream. Rejects with BentoError; whoever gets the stream owns it. */
export type Dial = (target: BoxAddress, options: DialOptions) => Promise<Duplex>;

/** TCP without Tor: for `--direct` and tests. Isolation has no meaning here. */
export const directDial: Dial = async (target, { firstBytes, signal }) => {
  signal.throwIfAborted();
  const socket = net.connect({
    host: target.host,
    port: target.port,
    noDelay: true,
    keepAlive: true,
    signal,
  });
  if (firstBytes && firstBytes.length > 0) socket.write(firstBytes);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once("connect", resolve);
  socket.once("error", reject);
  try {
    await promise;
  } catch (cause) {
    socket.destroy();
    throw cause;
  } finally {
    socket.off("connect", resolve);
    socket.off("error", reject);
  }
  return socket;
};

/**
 * A dial that starts a second attempt, on circuits of its own, when the first has not succeeded after `afterMs`
 * (20 s by default: onion services seen in practice answer within 22 s on average, but some attempts hang).
 * The first stream wins. Only for requests that may reach the box twice.
 */
export function hedgedDial(dial: Dial, clock: Clock, afterMs = 20_000): Dial {
  return async (target, options) => {
    let winner: AbortController | undefined;
    const attempts: AbortController[] = [];
    const start = async (isolation: string): Promise<Duplex> => {
      const own = new AbortController();
      attempts.push(own);
      const stream = await dial(target, {
        ...options,
        isolation,
        signal: AbortSignal.any([options.signal, own.signal]),
      });
      if (winner) {
        stream.destroy();
        throw new BentoError("closed", "Cannot connect: the other attempt was faster");
      }
      winner = own;
      return stream;
    };
    const waiting = new AbortController();
    const first = start(options.isolation);
    const second = clock
      .sleep(afterMs, AbortSignal.any([options.signal, waiting.signal]))
      .then(() => start(`${options.isolation}-hedge`));
    try {
      // A first attempt that fails before the second began is reported at once: only slowness is hedged.
      return await Promise.race([
        first.catch((error: unknown) => {
          if (attempts.length === 1) throw error;
          return second;
        }),
        second.catch(() => first),
      ]);
    } finally {
      waiting.abort(new BentoError("closed", "Cannot connect: the attempt was given up"));
      for (const attempt of attempts) if (attempt !== winner) attempt.abort(waiting.signal.reason);
    }
  };
}

/** A Duplex that dials `target` when first written to. Quacks enough like a socket for node:http's agent. */
export class DialedStream extends Duplex {
  readonly #target: BoxAddress;
  readonly #dial: Dial;
  readonly #isolation: string;
  readonly #abort = new AbortController();
  #first: Uint8Array[] = [];
  #dialing = false;
  #socket: Duplex | undefined;
  /** The write or end that waits for the dial to succeed; Duplex issues one at a time. */
  #waiting: (() => void) | undefined;

  constructor(target: BoxAddress, dial: Dial, isolation: string) {
    super({ allowHalfOpen: true, emitClose: true });
    this.#target = target;
    this.#dial = dial;
    this.#isolation = isolation;
  }

  override _write(chunk: Uint8Array, _encoding: string, done: (error?: Error | null) => void): void {
    if (this.#socket) {
      this.#socket.write(chunk, done);
      return;
    }
    if (this.#dialing) {
      this.#waiting = () => {
        this._write(chunk, _encoding, done);
      };
      return;
    }
    // Everything written in this turn of the event loop (request head, start frame) becomes the first bytes.
    this.#first.push(chunk);
    if (this.#first.length === 1) setImmediate(() => void this.#connect());
    done();
  }

  /** A frame of node:http is three writes: as one they fill one cell of Tor rather than three. */
  override _writev(
    chunks: readonly { readonly chunk: Uint8Array; readonly encoding: string }[],
    done: (error?: Error | null) => void,
  ): void {
    this._write(concat(chunks.map(({ chunk }) => chunk)), "buffer", done);
  }

  override _final(done: (error?: Error | null) => void): void {
    if (this.#socket) this.#socket.end(done);
    else if (this.#dialing || this.#first.length > 0) {
      this.#waiting = () => {
        this._final(done);
      };
    } else done();
  }

  override _read(): void {
    this.#socket?.resume();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#abort.abort(error ?? new BentoError("closed", "Cannot connect: the request was given up"));
    this.#socket?.destroy();
    this.#waiting = undefined;
    done(error);
  }

  // node:http tells its sockets these; over a circuit none of them has a meaning.
  setTimeout(): this {
    return this;
  }
  setNoDelay(): this {
    return this;
  }
  setKeepAlive(): this {
    return this;
  }
  ref(): this {
    return this;
  }
  unref(): this {
    return this;
  }

  async #connect(): Promise<void> {
    this.#dialing = true;
    const firstBytes = concat(this.#first);
    this.#first = [];
    try {
      this.#abort.signal.throwIfAborted();
      const socket = await this.#dial(this.#target, {
        isolation: this.#isolation,
        firstBytes,
        signal: this.#abort.signal,
      });
      if (this.destroyed) {
        socket.destroy();
        return;
      }
      this.#attach(socket);
    } catch (error) {
      this.destroy(error as Error);
    }
  }

  #attach(socket: Duplex): void {
    this.#socket = socket;
    this.#dialing = false;
    socket.on("data", (chunk: Uint8Array) => {
      if (!this.push(chunk)) socket.pause();
    });
    socket.on("end", () => this.push(null));
    socket.on("error", (error) => this.destroy(error));
    socket.on("close", () => {
      if (!socket.readableEnded) this.destroy(new BentoError("connection-lost", "Connection lost"));
    });
    this.emit("connect");
    this.#waiting?.();
    this.#waiting = undefined;
  }
}
