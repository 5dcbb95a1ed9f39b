// The guest's end of the one channel out of its sandbox: frames on stdin and stdout, calls, windows (spec/guest 2).
// The host at the other end is trusted; the function that runs in this same process is its own enemy only.

import type { Refusal } from "../../wire/error-code.ts";
import {
  encodeGuestFrame,
  GUEST_FRAME,
  GUEST_PAYLOAD_BYTES_MAX,
  GUEST_START_BYTES_MAX,
  type GuestFrame,
  GuestFrameSplitter,
  guestFrameCost,
} from "../../wire/guest-frame.ts";
import { type Direction, HostStream } from "./stream.ts";
import { HostError, SendWindow } from "./window.ts";

const { parse, stringify } = JSON;
const encoder = new TextEncoder();
const decoder = new TextDecoder();
const READ_BYTES = 128 * 1024;
/** Frames are written together up to about this many bytes. */
const WRITE_BYTES = 256 * 1024;

/**
 * Bytes of all that leave in writes which block this thread rather than pass through another one and back, which costs a
 * function's first answer half a millisecond. A new pipe holds two pages at least, whoever reads it or not: these never wait.
 */
const DIRECT_BYTES_MAX = 4096;

/** Standard input and output, each in two ways. */
export interface ChannelIo {
  read(into: Uint8Array): Promise<number | null>;
  readSync(into: Uint8Array): number | null;
  write(bytes: Uint8Array): Promise<number>;
  writeSync(bytes: Uint8Array): number;
}

interface PendingCall {
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

export class HostChannel {
  readonly #io: ChannelIo;
  #directBytes = 0;
  #queue: Uint8Array[] = [];
  #writing: Promise<void> | undefined;
  #lastId = 0;
  readonly #calls = new Map<number, PendingCall>();
  readonly #streams = new Map<number, HostStream>();
  readonly outputWindow = new SendWindow();
  #queuedBytes = 0;

  constructor(io: ChannelIo) {
    this.#io = io;
  }

  /**
   * Hands frames to `onFrame` in order until the host closes its end. Calls and their streams are kept here. Blocks this
   * thread until the first frame is there: before that there is nothing to do, and no other thread to be woken by.
   */
  async run(onFrame: (frame: GuestFrame) => void): Promise<void> {
    const splitter = new GuestFrameSplitter(GUEST_START_BYTES_MAX);
    const buffer = new Uint8Array(READ_BYTES);
    let hasBegun = false;
    for (;;) {
      const count = hasBegun ? await this.#io.read(buffer) : this.#io.readSync(buffer);
      if (count === null) return;
      for (const frame of splitter.push(buffer.slice(0, count))) {
        hasBegun = true;
        if (!this.#take(frame)) onFrame(frame);
      }
    }
  }

  /** Bytes queued and not yet written. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** Queues a frame; frames leave in the order queued. `payload` is copied. */
  send(type: number, id: number, payload?: Uint8Array): void {
    const frame = encodeGuestFrame(type, id, payload);
    this.#queue.push(frame);
    this.#queuedBytes += frame.length;
    this.#writing ??= this.#drain();
  }

  sendJson(type: number, id: number, value: unknown): void {
    this.send(type, id, encoder.encode(stringify(value)));
  }

  /** Resolves when everything queued so far has left. */
  async flush(): Promise<void> {
    while (this.#writing) await this.#writing;
  }

  /**
   * Sends one message or piece of a stream in fragments. Returns undefined when `window` had room for all of it,
   * else a promise.
   */
  sendFragments(
    window: SendWindow,
    id: number,
    bytes: Uint8Array,
    types: { readonly more: number; readonly last: number },
  ): Promise<void> | undefined {
    let at = 0;
    do {
      const part = bytes.subarray(at, at + GUEST_PAYLOAD_BYTES_MAX);
      const wait = window.take(guestFrameCost(part.length));
      // What waits is a copy: the function may change its array right after the call.
      if (wait) return this.#sendLater(wait, window, id, bytes.slice(at), types);
      at += part.length;
      this.send(at < bytes.length ? types.more : types.last, id, part);
    } while (at < bytes.length);
    return undefined;
  }

  /** @param wait for the first fragment of `bytes`. */
  async #sendLater(
    wait: Promise<void>,
    window: SendWindow,
    id: number,
    bytes: Uint8Array,
    types: { readonly more: number; readonly last: number },
  ): Promise<void> {
    await wait;
    for (let at = 0; ; ) {
      const part = bytes.subarray(at, at + GUEST_PAYLOAD_BYTES_MAX);
      at += part.length;
      this.send(at < bytes.length ? types.more : types.last, id, part);
      if (at >= bytes.length) return;
      const next = window.take(guestFrameCost(Math.min(bytes.length - at, GUEST_PAYLOAD_BYTES_MAX)));
      if (next) await next;
    }
  }

  /** A call with one answer. Rejects with HostError. */
  call(method: string, params: unknown): Promise<unknown> {
    return this.#call(this.#nextId(), method, params);
  }

  /** A call that opens a byte stream on its id. */
  open(
    method: string,
    params: unknown,
    direction: Direction,
  ): { readonly answer: Promise<unknown>; readonly stream: HostStream } {
    const id = this.#nextId();
    const stream = new HostStream(this, id, direction, () => this.#streams.delete(id));
    this.#streams.set(id, stream);
    const answer = this.#call(id, method, params);
    answer.catch((error: unknown) => stream.fail(error));
    return { answer, stream };
  }

  #nextId(): number {
    this.#lastId += 1;
    return this.#lastId;
  }

  #call(id: number, method: string, params: unknown): Promise<unknown> {
    const payload = encoder.encode(stringify({ method, params }));
    if (payload.length > GUEST_PAYLOAD_BYTES_MAX) {
      return Promise.reject(new HostError("bad-call", `Cannot call ${method}: parameters are too large`));
    }
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.send(GUEST_FRAME.call, id, payload);
    });
  }

  /** Whether the frame belonged to a call or its stream. */
  #take(frame: GuestFrame): boolean {
    switch (frame.type) {
      case GUEST_FRAME.reply:
      case GUEST_FRAME.refuse: {
        const call = this.#calls.get(frame.id);
        this.#calls.delete(frame.id);
        if (frame.type === GUEST_FRAME.reply) call?.resolve(jsonOf(frame));
        else call?.reject(errorOf(frame));
        return true;
      }
      case GUEST_FRAME.data:
        this.#streams.get(frame.id)?.receive(frame.payload);
        return true;
      case GUEST_FRAME.dataEnd:
        this.#streams.get(frame.id)?.receiveEnd();
        return true;
      case GUEST_FRAME.reset:
        this.#streams.get(frame.id)?.fail(errorOf(frame));
        return true;
      case GUEST_FRAME.credit: {
        const bytes = creditOf(frame);
        if (frame.id === 0) this.outputWindow.give(bytes);
        else this.#streams.get(frame.id)?.window.give(bytes);
        return true;
      }
      default:
        return false;
    }
  }

  async #drain(): Promise<void> {
    // Frames queued in the same turn leave in one write.
    await Promise.resolve();
    try {
      while (this.#queue.length > 0) {
        let bytes = this.#queue.length === 1 ? this.#queue.pop() : joined(this.#queue);
        this.#queuedBytes -= bytes?.length ?? 0;
        while (bytes && bytes.length > 0) {
          const direct = this.#directBytes + bytes.length <= DIRECT_BYTES_MAX;
          if (direct) this.#directBytes += bytes.length;
          bytes = bytes.subarray(direct ? this.#io.writeSync(bytes) : await this.#io.write(bytes));
        }
      }
    } finally {
      this.#writing = undefined;
    }
  }
}

export function jsonOf(frame: GuestFrame): unknown {
  return parse(decoder.decode(frame.payload));
}

function creditOf(frame: GuestFrame): number {
  return new DataView(frame.payload.buffer, frame.payload.byteOffset, frame.payload.byteLength).getUint32(0);
}

function errorOf(frame: GuestFrame): HostError {
  const { code, message, refusals } = jsonOf(frame) as {
    code: string;
    message: string;
    refusals?: readonly Refusal[];
  };
  return new HostError(code, message, refusals);
}

/** Takes frames from the front of `queue`, about WRITE_BYTES of them, as one array. */
function joined(queue: Uint8Array[]): Uint8Array {
  let count = 0;
  let length = 0;
  while (count < queue.length && (count === 0 || length < WRITE_BYTES)) length += queue[count++]?.length ?? 0;
  const frames = queue.splice(0, count);
  const all = new Uint8Array(length);
  let at = 0;
  for (const frame of frames) {
    all.set(frame, at);
    at += frame.length;
  }
  return all;
}
