// What a guest sends on a call, to be read piece by piece: a piece's window is given back when the next one is asked
// for, so that the guest is as fast as its reader. The guest is hostile; the window of the stream bounds what waits.

import { Channel } from "../../base/channel.ts";
import type { OpenCall } from "./guest-call-state.ts";

/** Iterate it once; iteration throws the call's reason when the call ends first. Close it when done. */
export class CallInput implements AsyncIterable<Uint8Array> {
  readonly #pieces = new Channel<{ bytes: Uint8Array; taken: () => void }>(Number.POSITIVE_INFINITY);
  readonly #signal: AbortSignal;

  constructor(open: OpenCall) {
    this.#signal = open.signal;
    this.#signal.addEventListener("abort", this.#onAbort, { once: true });
    open.connectSink({
      data: (bytes, taken) => {
        if (!this.#pieces.isClosed) this.#pieces.push({ bytes, taken });
      },
      end: () => {
        this.#pieces.close();
      },
    });
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for await (const { bytes, taken } of this.#pieces) {
      yield bytes;
      taken();
    }
  }

  /** Takes nothing more. */
  close(): void {
    this.#pieces.close();
    this.#signal.removeEventListener("abort", this.#onAbort);
  }

  readonly #onAbort = () => {
    this.#pieces.fail(this.#signal.reason);
  };
}
