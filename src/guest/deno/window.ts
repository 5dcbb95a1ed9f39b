// Flow control and refusals, shared by the channel and the streams on it (spec/guest 2.3).

import type { Refusal } from "../../wire/error-code.ts";
import { Limits } from "../../wire/limits.ts";

/** Credit is given back in steps of this size: a sender never waits for less, and frames are saved. */
export const CREDIT_STEP_BYTES = Limits.streamWindowBytes / 4;

/** What the box refused or could not do: rejects the function's promise, with the box's code. */
export class HostError extends Error {
  override readonly name = "HostError";
  readonly code: string;
  /** The rules of a far box's policy that stand against a manifest. */
  readonly refusals: readonly Refusal[];

  constructor(code: string, message: string, refusals: readonly Refusal[] = []) {
    super(message);
    this.code = code;
    this.refusals = refusals;
  }
}

/** Bytes that may be sent before the other end consumed some of them. */
export class SendWindow {
  #free: number = Limits.streamWindowBytes;
  #waiting: { bytes: number; resolve: () => void; reject: (error: unknown) => void }[] = [];
  #error: unknown;

  /** Takes at once and returns undefined, or a promise of the bytes; in the order asked. */
  take(bytes: number): Promise<void> | undefined {
    if (this.#error !== undefined) return Promise.reject(this.#error);
    if (this.#waiting.length === 0 && this.#free >= bytes) {
      this.#free -= bytes;
      return undefined;
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ bytes, resolve, reject });
    });
  }

  give(bytes: number): void {
    this.#free += bytes;
    for (let first = this.#waiting[0]; first && first.bytes <= this.#free; first = this.#waiting[0]) {
      this.#waiting.shift();
      this.#free -= first.bytes;
      first.resolve();
    }
  }

  fail(error: unknown): void {
    this.#error ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#error);
  }
}

export function creditFrame(bytes: number): Uint8Array {
  const payload = new Uint8Array(4);
  new DataView(payload.buffer).setUint32(0, bytes);
  return payload;
}
