// Bytes that arrived and wait to be cut into frames. Joins chunks only when a frame spans them.

import { concat } from "./bytes.ts";

export class ByteQueue {
  #parts: Uint8Array[] = [];
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    this.#parts.push(chunk);
    this.#length += chunk.length;
  }

  /** The first `count` bytes without removing them; undefined while fewer are held. A view, valid as long as the chunks. */
  peek(count: number): Uint8Array | undefined {
    if (this.#length < count) return undefined;
    const first = this.#parts[0];
    if (first && first.length >= count) return first.subarray(0, count);
    const joined = concat(this.#parts);
    this.#parts = [joined];
    return joined.subarray(0, count);
  }

  /** Removes and returns the first `count` bytes; undefined while fewer are held. */
  take(count: number): Uint8Array | undefined {
    const bytes = this.peek(count);
    if (!bytes) return undefined;
    const first = this.#parts[0];
    if (first) {
      if (first.length === count) this.#parts.shift();
      else this.#parts[0] = first.subarray(count);
    }
    this.#length -= count;
    return bytes;
  }
}
