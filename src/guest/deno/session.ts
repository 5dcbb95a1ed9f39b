// The function's session (function.ts): input messages put together from fragments, output behind the window.

import { GUEST_FRAME, type GuestFrame, guestFrameCost } from "../../wire/guest-frame.ts";
import type { AnswerShape, Answers, Session } from "../function.ts";
import type { HostChannel } from "./channel.ts";
import { CREDIT_STEP_BYTES, creditFrame } from "./window.ts";

const encoder = new TextEncoder();

interface Message {
  parts: Uint8Array[];
  length: number;
  /** Bytes of the window that it still holds. */
  heldBytes: number;
}

/**
 * Input is consumed, and its window given back, when the function takes a message. One message may be larger
 * than the window: while no whole message waits, fragments are given back as they come.
 */
export class SessionState {
  readonly session: Session;
  readonly #channel: HostChannel;
  readonly #stop = new AbortController();
  #messages: Message[] = [];
  #partial: Message = emptyMessage();
  #owedBytes = 0;
  #ended = false;
  #attached = false;
  #arrived: (() => void)[] = [];
  /** The last send that had to wait; undefined when there is room. */
  #sending: Promise<unknown> | undefined;

  constructor(channel: HostChannel) {
    this.#channel = channel;
    this.session = this.#build();
  }

  /** Takes input, input-more, input-end, session and stop frames. */
  onFrame(frame: GuestFrame, attached?: boolean): void {
    switch (frame.type) {
      case GUEST_FRAME.input:
      case GUEST_FRAME.inputMore:
        this.#receive(frame.payload, frame.type === GUEST_FRAME.input);
        break;
      case GUEST_FRAME.inputEnd:
        this.#end();
        break;
      case GUEST_FRAME.session:
        this.#attached = attached ?? false;
        break;
      case GUEST_FRAME.stop:
        this.#end();
        this.#stop.abort(new DOMException("The box asked the instance to stop", "AbortError"));
        break;
    }
  }

  #build(): Session {
    const receive = () => this.#next();
    const send = async (message: Uint8Array | string) => this.#send(message);
    const attached = () => this.#attached;
    let readable: ReadableStream<Uint8Array> | undefined;
    let writable: WritableStream<Uint8Array | string> | undefined;
    return Object.freeze({
      send,
      signal: this.#stop.signal,
      get attached() {
        return attached();
      },
      get readable() {
        readable ??= readableOf(receive);
        return readable;
      },
      get writable() {
        writable ??= new WritableStream<Uint8Array | string>({ write: send }, { highWaterMark: 1 });
        return writable;
      },
      shape: (shape: AnswerShape) => this.#shape(shape),
      async *[Symbol.asyncIterator]() {
        for (;;) {
          const message = await receive();
          if (!message) return;
          yield message;
        }
      },
    });
  }

  async #shape({ bytes, rate, begins }: AnswerShape): Promise<Answers> {
    const channel = this.#channel;
    await channel.call("answers.shape", { bytes, rate, begins });
    return Object.freeze({
      room: async () => ((await channel.call("answers.room", {})) as { bytes: number }).bytes,
      // Content that still waits for room in the window is this answer's.
      finish: async () => {
        await this.sent();
        await channel.call("answers.finish", {});
      },
      ended: async () => {
        await channel.call("answers.ended", {});
      },
    });
  }

  /** Whole messages in the order of the calls, also when the function does not await. */
  #send(message: Uint8Array | string): Promise<void> | undefined {
    const bytes = typeof message === "string" ? encoder.encode(message) : bytesOf(message);
    const { outputMore: more, output: last } = GUEST_FRAME;
    const send = (own: Uint8Array) =>
      this.#channel.sendFragments(this.#channel.outputWindow, 0, own, { more, last });
    const sent = this.#sending ? this.#sendAfter(this.#sending, send, bytes.slice()) : send(bytes);
    if (!sent) return undefined;
    this.#wait(sent);
    return sent;
  }

  /** Lets what is sent later wait for `queued`. */
  #wait(queued: Promise<unknown>): void {
    this.#sending = queued;
    const settle = () => {
      if (this.#sending === queued) this.#sending = undefined;
    };
    void queued.then(settle, settle);
  }

  async #sendAfter(
    previous: Promise<unknown>,
    send: (bytes: Uint8Array) => Promise<void> | undefined,
    bytes: Uint8Array,
  ): Promise<void> {
    await previous;
    await send(bytes);
  }

  /** Calls `queue` when every message sent so far has been queued, and before any that is sent later. */
  async inOrder<T>(queue: () => Promise<T>): Promise<T> {
    if (!this.#sending) return queue();
    // Wrapped, so that later messages wait for the call and not for its answer.
    const called = this.#sending.then(() => ({ answer: queue() }));
    this.#wait(called);
    return (await called).answer;
  }

  /** Resolves when every message sent so far has been queued. */
  async sent(): Promise<void> {
    while (this.#sending) await this.#sending;
  }

  #receive(bytes: Uint8Array, last: boolean): void {
    const message = this.#partial;
    const cost = guestFrameCost(bytes.length);
    message.parts.push(bytes);
    message.length += bytes.length;
    if (this.#messages.length === 0) this.#owe(cost);
    else message.heldBytes += cost;
    if (!last) return;
    this.#messages.push(message);
    this.#partial = emptyMessage();
    this.#arrived.shift()?.();
  }

  #end(): void {
    this.#ended = true;
    for (const wake of this.#arrived.splice(0)) wake();
  }

  async #next(): Promise<Uint8Array | undefined> {
    while (this.#messages.length === 0 && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#arrived.push(resolve);
      });
    }
    const message = this.#messages.shift();
    if (!message) return undefined;
    this.#owe(message.heldBytes);
    if (this.#messages.length === 0) {
      this.#owe(this.#partial.heldBytes);
      this.#partial.heldBytes = 0;
    }
    return wholeMessage(message);
  }

  #owe(bytes: number): void {
    this.#owedBytes += bytes;
    if (this.#owedBytes < CREDIT_STEP_BYTES) return;
    this.#channel.send(GUEST_FRAME.credit, 0, creditFrame(this.#owedBytes));
    this.#owedBytes = 0;
  }
}

function emptyMessage(): Message {
  return { parts: [], length: 0, heldBytes: 0 };
}

function wholeMessage(message: Message): Uint8Array {
  const [only] = message.parts;
  if (only && message.parts.length === 1) return only;
  const all = new Uint8Array(message.length);
  let at = 0;
  for (const part of message.parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function bytesOf(message: unknown): Uint8Array {
  if (message instanceof Uint8Array) return message;
  throw new TypeError("Cannot send: a message is a string or a Uint8Array");
}

function readableOf(receive: () => Promise<Uint8Array | undefined>): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const message = await receive();
        if (message) controller.enqueue(message);
        else controller.close();
      },
    },
    { highWaterMark: 0 },
  );
}
