// One byte stream that a call opened, as web streams, with the windows of spec/guest 2.3 on both directions.

import { GUEST_FRAME, guestFrameCost } from "../../wire/guest-frame.ts";
import { CREDIT_STEP_BYTES, creditFrame, HostError, SendWindow } from "./window.ts";

/** What a stream needs of the channel (channel.ts). */
interface FrameSender {
  send(type: number, id: number, payload?: Uint8Array): void;
  sendJson(type: number, id: number, value: unknown): void;
  sendFragments(
    window: SendWindow,
    id: number,
    bytes: Uint8Array,
    types: { readonly more: number; readonly last: number },
  ): Promise<void> | undefined;
}

/** Which way bytes flow, as the function sees it. */
export type Direction = "in" | "out" | "both";

export class HostStream {
  readonly window = new SendWindow();
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
  readonly closed: Promise<void>;
  readonly #channel: FrameSender;
  readonly #id: number;
  readonly #forget: () => void;
  readonly #closing = Promise.withResolvers<void>();
  #queue: Uint8Array[] = [];
  #pulled: (() => void) | undefined;
  #reader: ReadableStreamDefaultController<Uint8Array> | undefined;
  #writer: WritableStreamDefaultController | undefined;
  #owedBytes = 0;
  #receivedEnd: boolean;
  #sentEnd: boolean;
  #discards: boolean;
  #over = false;

  constructor(channel: FrameSender, id: number, direction: Direction, forget: () => void) {
    this.#channel = channel;
    this.#id = id;
    this.#forget = forget;
    this.#sentEnd = direction === "in";
    this.#receivedEnd = this.#discards = direction === "out";
    this.closed = this.#closing.promise;
    this.closed.catch(() => {
      /* a function that does not look at `closed` learns of the error from the streams */
    });
    this.readable = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.#reader = controller;
        },
        pull: () => this.#pull(),
        cancel: () => this.#discard(),
      },
      { highWaterMark: 0 },
    );
    this.writable = new WritableStream<Uint8Array>(
      {
        start: (controller) => {
          this.#writer = controller;
        },
        write: (chunk) => this.write(chunk),
        close: () => this.end(),
        abort: () => this.close(),
      },
      // With 0 a pipe into it would wait for ever.
      { highWaterMark: 1 },
    );
  }

  /** Sends bytes; resolves when there is room for more. */
  async write(chunk: Uint8Array): Promise<void> {
    if (chunk.length === 0) return;
    const { data } = GUEST_FRAME;
    await this.#channel.sendFragments(this.window, this.#id, chunk, { more: data, last: data });
  }

  /** Ends the direction towards the host. */
  end(): void {
    if (this.#over || this.#sentEnd) return;
    this.#sentEnd = true;
    this.#channel.send(GUEST_FRAME.dataEnd, this.#id);
    this.#finishIfBothEnded();
  }

  /** Drops the stream in both directions. */
  close(): void {
    if (this.#over) return;
    this.#channel.sendJson(GUEST_FRAME.reset, this.#id, {
      code: "closed",
      message: "Closed by the function",
    });
    this.#finish(new HostError("closed", "Cannot use the stream: it was closed"), true);
  }

  receive(bytes: Uint8Array): void {
    if (this.#over) return;
    if (this.#discards) {
      this.#owe(guestFrameCost(bytes.length));
    } else {
      this.#queue.push(bytes);
      this.#pulled?.();
    }
  }

  receiveEnd(): void {
    if (this.#over) return;
    this.#receivedEnd = true;
    this.#pulled?.();
    if (this.#discards) this.#finishIfBothEnded();
  }

  /** The host ended it: refused the call, or the connection broke. What already arrived can no longer be read. */
  fail(error: unknown): void {
    if (!this.#over) this.#finish(error, false);
  }

  async #pull(): Promise<void> {
    if (this.#queue.length === 0 && !this.#receivedEnd && !this.#over) {
      await new Promise<void>((resolve) => {
        this.#pulled = resolve;
      });
      this.#pulled = undefined;
    }
    const bytes = this.#queue.shift();
    if (bytes) {
      this.#reader?.enqueue(bytes);
      this.#owe(guestFrameCost(bytes.length));
    } else if (this.#receivedEnd) {
      this.#reader?.close();
      this.#discards = true;
      this.#finishIfBothEnded();
    }
  }

  #discard(): void {
    this.#discards = true;
    for (const bytes of this.#queue.splice(0)) this.#owe(guestFrameCost(bytes.length));
    if (this.#receivedEnd) this.#finishIfBothEnded();
  }

  #owe(bytes: number): void {
    this.#owedBytes += bytes;
    if (this.#owedBytes < CREDIT_STEP_BYTES || this.#over) return;
    this.#channel.send(GUEST_FRAME.credit, this.#id, creditFrame(this.#owedBytes));
    this.#owedBytes = 0;
  }

  #finishIfBothEnded(): void {
    if (!this.#over && this.#sentEnd && this.#receivedEnd && this.#discards) {
      this.#over = true;
      this.#forget();
      this.#closing.resolve();
    }
  }

  #finish(error: unknown, wanted: boolean): void {
    this.#over = true;
    this.#forget();
    this.#queue = [];
    this.window.fail(error);
    if (wanted) this.#closing.resolve();
    else this.#closing.reject(error);
    this.#pulled?.();
    // Either may have ended already: then there is nobody to tell.
    try {
      this.#reader?.error(error);
    } catch {}
    try {
      this.#writer?.error(error);
    } catch {}
  }
}
