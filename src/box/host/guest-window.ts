// The two windows of one stream as the box sees them: what it may send, and what a hostile guest may have sent.

import { view } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { Limits } from "../../wire/limits.ts";

/** What the box may still send to the guest on one stream. One sender at a time. */
export class SendWindow {
  #free: number = Limits.streamWindowBytes;
  #waiting: { bytes: number; resolve: () => void; reject: (error: unknown) => void } | undefined;
  #error: unknown;

  /** Takes at once and returns undefined, or a promise of the bytes. Rejects after `fail`. */
  take(bytes: number): Promise<void> | undefined {
    if (this.#error !== undefined) return Promise.reject(this.#error);
    if (this.#free >= bytes) {
      this.#free -= bytes;
      return undefined;
    }
    return new Promise((resolve, reject) => {
      this.#waiting = { bytes, resolve, reject };
    });
  }

  /** Takes the payload of a credit frame. Throws ProtocolError when it gives back more than was sent. */
  credit(payload: Uint8Array): void {
    const bytes = payload.length === 4 ? view(payload).getUint32(0) : 0;
    if (bytes === 0 || this.#free + bytes > Limits.streamWindowBytes) {
      throw new ProtocolError(
        "guest-frame",
        `Cannot take credit: ${bytes} bytes, expected at most those sent`,
      );
    }
    this.#free += bytes;
    const waiting = this.#waiting;
    if (!waiting || this.#free < waiting.bytes) return;
    this.#waiting = undefined;
    this.#free -= waiting.bytes;
    waiting.resolve();
  }

  /** Gives the present wait up, without taking anything. */
  cancelWait(reason: unknown): void {
    this.#waiting?.reject(reason);
    this.#waiting = undefined;
  }

  fail(error: unknown): void {
    this.#error ??= error;
    this.#waiting?.reject(this.#error);
    this.#waiting = undefined;
  }
}

/** What the guest has under way on one stream. */
export class ReceiveWindow {
  #heldBytes = 0;

  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Throws ProtocolError when the guest sends more than its window. */
  receive(bytes: number): void {
    this.#heldBytes += bytes;
    if (this.#heldBytes <= Limits.streamWindowBytes) return;
    throw new ProtocolError(
      "guest-frame",
      `Cannot take fragment: ${this.#heldBytes} bytes under way, expected at most ${Limits.streamWindowBytes}`,
    );
  }

  consume(bytes: number): void {
    this.#heldBytes -= bytes;
  }
}
