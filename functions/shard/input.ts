// The input of a session as one stream of bytes, taken in the sizes that are wanted.

import type { Session } from "bento/function";
import { ByteQueue } from "../../src/base/byte-queue.ts";

export class Input {
  readonly #messages: AsyncIterator<Uint8Array>;
  readonly #queue = new ByteQueue();
  #ended = false;

  constructor(session: Session) {
    this.#messages = session[Symbol.asyncIterator]();
  }

  /** The next message as JSON; before any `bytes`. */
  async json(): Promise<unknown> {
    const { value, done } = await this.#messages.next();
    if (done) throw new Error("the input ended early");
    return JSON.parse(new TextDecoder().decode(value));
  }

  async bytes(count: number): Promise<Uint8Array> {
    for (;;) {
      const taken = this.#queue.take(count);
      if (taken) return taken;
      await this.#next();
    }
  }

  /** Takes the empty message that ends the file. */
  async end(): Promise<void> {
    while (!this.#ended && this.#queue.length === 0) await this.#next();
    if (this.#queue.length > 0) throw new Error("more came than was announced");
  }

  async #next(): Promise<void> {
    const { value, done } = await this.#messages.next();
    if (done || this.#ended) throw new Error("the input ended early");
    if (value.length === 0) this.#ended = true;
    else this.#queue.push(value);
  }
}
