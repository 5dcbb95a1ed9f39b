// One connection of a session: frames to and from a box, whole, in order, with back-pressure (spec/wire 4).
// Two kinds: the body of `POST /v1/run`, and a WebSocket of `GET /v1/open`. The box is untrusted: a frame is at
// most BOX_FRAME_BYTES_MAX, and no more than one window of them is held here.

import type { ClientRequest, IncomingMessage } from "node:http";
import { WebSocket } from "ws";
import { concat } from "../base/bytes.ts";
import { Channel } from "../base/channel.ts";
import type { Clock } from "../base/clock.ts";
import { BentoError } from "../base/errors.ts";
import { MEDIA, PATHS } from "../wire/api.ts";
import { Limits } from "../wire/limits.ts";
import {
  type ClientFrame,
  encodeClientFrame,
  FrameSplitter,
  prefixLength,
  type Start,
} from "../wire/session-frame.ts";
import type { InstanceId } from "../wire/token.ts";
import { formatAddress } from "./address.ts";
import { type BoxHttp, problemFrom, readAnswer, timeoutError } from "./box-http.ts";

/** Largest frame a box may send: an outcome whose texts are all escapes in JSON, or one fragment. */
const BOX_FRAME_BYTES_MAX = 8 * Limits.errorTextBytesMax + Limits.fragmentBytesMax;
/** Frames of a WebSocket that wait for the session: bytes. */
const WINDOW_BYTES = 256 * 1024;
/** How long leaving waits for the box to have read everything: milliseconds. */
const LEAVE_MS = 10_000;

export interface Link {
  /** The next frame; undefined when the connection ended. Throws when it broke. */
  receive(): Promise<Uint8Array | undefined>;
  /** Resolves when the connection has taken the frame. */
  send(frame: Uint8Array): Promise<void>;
  /** Says that nothing more will be sent, and lets go. */
  finish(): void;
  /** Leaves once the other side has what was sent, as far as that can be known. */
  leave(): Promise<void>;
  /** Breaks the connection at once. */
  destroy(): void;
}

/** Starts `POST /v1/run` with `start` as first frame, then the messages that are there already and, if so, the end of the input. */
export async function openRunLink(
  boxHttp: BoxHttp,
  start: Start,
  options: {
    token?: string;
    input?: readonly Uint8Array[] | undefined;
    endInput: boolean;
    signal?: AbortSignal | undefined;
  },
): Promise<Link> {
  const frames = [prefixLength(encodeClientFrame({ kind: "start", start }))];
  for (const message of options.input ?? []) {
    for (const frame of inputFrames(message)) frames.push(prefixLength(encodeClientFrame(frame)));
  }
  if (options.endInput) frames.push(prefixLength(encodeClientFrame({ kind: "input-end" })));
  const head = concat(frames);
  const { request, response } = await boxHttp.duplex(PATHS.run, MEDIA.session, head, options);
  return new BodyLink(request, response);
}

/** One message as fragments. */
export function* inputFrames(message: Uint8Array): Generator<ClientFrame & { kind: "input" }> {
  for (let at = 0; at === 0 || at < message.length; at += Limits.fragmentBytesMax) {
    const end = Math.min(at + Limits.fragmentBytesMax, message.length);
    yield { kind: "input", bytes: message.subarray(at, end), last: end === message.length };
  }
}

class BodyLink implements Link {
  readonly #request: ClientRequest;
  readonly #response: IncomingMessage;
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #splitter = new FrameSplitter(BOX_FRAME_BYTES_MAX);
  #frames: Uint8Array[] = [];
  /** Sends that the connection has not taken; one listener for all of them. */
  readonly #sending = new Set<(error: Error) => void>();

  constructor(request: ClientRequest, response: IncomingMessage) {
    request.once("close", () => {
      for (const reject of this.#sending) reject(new BentoError("connection-lost", "Connection lost"));
    });
    this.#request = request;
    this.#response = response;
    this.#chunks = (response as AsyncIterable<Uint8Array>)[Symbol.asyncIterator]();
  }

  async receive(): Promise<Uint8Array | undefined> {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame) return frame;
      const next = await this.#chunks.next();
      if (next.done) {
        this.#splitter.end();
        return undefined;
      }
      this.#frames = this.#splitter.push(next.value);
    }
  }

  async send(frame: Uint8Array): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    if (this.#request.closed) throw new BentoError("connection-lost", "Connection lost");
    this.#sending.add(reject);
    this.#request.write(prefixLength(frame), (error) => {
      if (error) reject(error);
      else resolve();
    });
    try {
      await promise;
    } finally {
      this.#sending.delete(reject);
    }
  }

  finish(): void {
    this.#request.end();
    this.#response.resume();
  }

  async leave(): Promise<void> {
    this.destroy();
  }

  destroy(): void {
    this.#request.destroy();
    this.#response.destroy();
  }
}

/** Attaches to `instance` from `offset` (or from what is left) over a WebSocket. */
export async function openWebSocketLink(
  boxHttp: BoxHttp,
  instance: InstanceId,
  options: { offset?: number | undefined; signal?: AbortSignal | undefined; clock: Clock },
): Promise<Link> {
  const query = options.offset === undefined ? "" : `?offset=${options.offset}`;
  options.signal?.throwIfAborted();
  const socket = new WebSocket(`ws://${formatAddress(boxHttp.address)}${PATHS.open}${query}`, {
    headers: { authorization: `Bearer ${instance}` },
    createConnection: () => boxHttp.stream(),
    perMessageDeflate: false,
    followRedirects: false,
    maxPayload: BOX_FRAME_BYTES_MAX,
  });
  const link = new WebSocketLink(socket, options.clock);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once("open", resolve);
  socket.on("error", (error) => {
    reject(error);
    link.fail(error);
  });
  socket.once("unexpected-response", (_request, response) => {
    refusal(response, options.clock)
      .catch((error: unknown) => error)
      .then((error) => {
        reject(error);
        return socket.terminate();
      })
      .catch(reject);
  });
  const waitMs = boxHttp.waitMs(0);
  const cancel = options.clock.after(waitMs, () => {
    reject(timeoutError(boxHttp.address, waitMs));
  });
  const onAbort = () => {
    reject(options.signal?.reason);
  };
  options.signal?.addEventListener("abort", onAbort, { once: true });
  try {
    await promise;
    boxHttp.noteAnswer();
    return link;
  } catch (error) {
    socket.terminate();
    options.signal?.throwIfAborted();
    throw boxHttp.reached(error);
  } finally {
    cancel();
    options.signal?.removeEventListener("abort", onAbort);
  }
}

async function refusal(response: IncomingMessage, clock: Clock): Promise<BentoError> {
  return problemFrom(response.statusCode, await readAnswer(response, clock));
}

class WebSocketLink implements Link {
  readonly #socket: WebSocket;
  readonly #clock: Clock;
  readonly #frames = new Channel<Uint8Array>(WINDOW_BYTES, (frame) => frame.length);

  constructor(socket: WebSocket, clock: Clock) {
    this.#socket = socket;
    this.#clock = clock;
    socket.on("message", (data: Buffer, isBinary: boolean) => {
      if (this.#frames.isClosed) return;
      if (!isBinary)
        this.fail(new BentoError("bad-answer", "Cannot read session frame: text, expected binary"));
      else if (!this.#frames.push(data)) socket.pause();
    });
    socket.on("close", () => {
      this.#frames.close();
    });
  }

  async receive(): Promise<Uint8Array | undefined> {
    const frame = await this.#frames.receive();
    if (this.#socket.isPaused && this.#frames.cost < WINDOW_BYTES / 2) this.#socket.resume();
    return frame;
  }

  async send(frame: Uint8Array): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onClose = () => {
      reject(new BentoError("connection-lost", "Connection lost"));
    };
    this.#socket.once("close", onClose);
    this.#socket.send(frame, (error) => {
      if (error) reject(error);
      else resolve();
    });
    try {
      await promise;
    } finally {
      this.#socket.off("close", onClose);
    }
  }

  fail(error: Error): void {
    this.#frames.fail(error);
    this.#socket.terminate();
  }

  finish(): void {
    this.#socket.close(1000);
  }

  async leave(): Promise<void> {
    // The closing handshake comes after all that was sent: breaking the stream at once could overtake it.
    const closed = new Promise<void>((resolve) => this.#socket.once("close", () => resolve()));
    const cancel = this.#clock.after(LEAVE_MS, () => {
      this.#socket.terminate();
    });
    this.#frames.close();
    this.#socket.resume();
    this.#socket.close(1000);
    if (this.#socket.readyState !== WebSocket.CLOSED) await closed;
    cancel();
  }

  destroy(): void {
    this.#frames.close();
    this.#socket.terminate();
  }
}
