// Session frames over a WebSocket (`GET /v1/open`, spec/wire 4.1): one binary message each. Reading stops while
// the guest does not take input; output stops while the socket is full.

import { WebSocket } from "ws";
import { Channel } from "../../base/channel.ts";
import type { Clock } from "../../base/clock.ts";
import { ProtocolError } from "../../base/errors.ts";
import { Limits } from "../../wire/limits.ts";
import {
  type BoxFrame,
  type ClientFrame,
  decodeClientFrame,
  encodeBoxFrame,
} from "../../wire/session-frame.ts";
import type { SessionTransport } from "../session/session.ts";
import { SERVE_LIMITS } from "./serve-limits.ts";

/** Largest message a client may send: one fragment of input. */
export const CLIENT_MESSAGE_BYTES_MAX = Limits.fragmentBytesMax + 64;
/** Bytes received that wait for the session before reading stops. */
const RECEIVED_BYTES_MAX = 2 * CLIENT_MESSAGE_BYTES_MAX;
/** Counted for every message, so that empty ones are bounded too. */
const MESSAGE_OVERHEAD_BYTES = 256;

export class WebSocketTransport implements SessionTransport {
  readonly canReceive = true;
  readonly #socket: WebSocket;
  readonly #clock: Clock;
  readonly #gone = new AbortController();
  readonly #received = new Channel<Uint8Array>(
    RECEIVED_BYTES_MAX,
    (message) => message.length + MESSAGE_OVERHEAD_BYTES,
  );
  #heardMs: number;
  #cancelPing: () => void;
  #room: PromiseWithResolvers<void> | undefined;

  constructor(socket: WebSocket, clock: Clock) {
    this.#socket = socket;
    this.#clock = clock;
    this.#heardMs = clock.now();
    socket.binaryType = "nodebuffer";
    socket.on("message", (data: Buffer, isBinary) => {
      this.#take(data, isBinary);
    });
    socket.on("pong", () => {
      this.#heardMs = clock.now();
    });
    socket.on("error", () => {
      // Malformed or oversize frames: ws has sent the close code; "close" follows.
    });
    socket.once("close", () => {
      this.#cancelPing();
      this.#received.close();
      this.#gone.abort(new Error("the client has gone"));
      this.#room?.resolve();
    });
    this.#cancelPing = clock.after(SERVE_LIMITS.pingMs, () => {
      this.#ping();
    });
  }

  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  send(frame: BoxFrame): Promise<void> | undefined {
    if (this.#socket.readyState !== WebSocket.OPEN) return undefined;
    this.#socket.send(encodeBoxFrame(frame), { binary: true }, () => {
      if (this.#socket.bufferedAmount > SERVE_LIMITS.sendBufferBytes / 2) return;
      this.#room?.resolve();
      this.#room = undefined;
    });
    if (this.#socket.bufferedAmount <= SERVE_LIMITS.sendBufferBytes) return undefined;
    this.#room ??= Promise.withResolvers();
    return this.#room.promise;
  }

  async receive(): Promise<ClientFrame | undefined> {
    const message = await this.#received.receive();
    if (this.#socket.isPaused && this.#received.cost < RECEIVED_BYTES_MAX) {
      // Silence that we caused does not count.
      this.#heardMs = this.#clock.now();
      this.#socket.resume();
    }
    return message && decodeClientFrame(message);
  }

  async close(lingerMs: number): Promise<void> {
    if (this.signal.aborted) return;
    const cancel = this.#clock.after(lingerMs, () => {
      this.#socket.terminate();
    });
    const closed = new Promise<void>((resolve) => {
      this.signal.addEventListener("abort", () => resolve(), { once: true });
    });
    this.#socket.resume();
    this.#socket.close(1000);
    await closed;
    cancel();
  }

  #take(data: Buffer, isBinary: boolean): void {
    this.#heardMs = this.#clock.now();
    if (this.#received.isClosed) return;
    if (!isBinary) {
      this.#received.fail(new ProtocolError("bad-request", "Cannot read session frame: a text message"));
      return;
    }
    if (!this.#received.push(data)) this.#socket.pause();
  }

  #ping(): void {
    const silentMs = this.#clock.now() - this.#heardMs;
    if (silentMs >= SERVE_LIMITS.silenceMs && !this.#socket.isPaused) {
      this.#socket.terminate();
      return;
    }
    this.#socket.ping();
    this.#cancelPing = this.#clock.after(SERVE_LIMITS.pingMs, () => {
      this.#ping();
    });
  }
}
