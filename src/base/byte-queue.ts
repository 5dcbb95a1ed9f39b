// Bytes that arrived and wait to be cut into frames. Copies only what spans chunks, and only that.

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

  /** The first `count` bytes without removing them; undefined while fewer are held. A view where one chunk holds them. */
  peek(count: number): Uint8Array | undefined {
    if (this.#length < count) return undefined;
    const first = this.#parts[0];
    if (first && first.length >= count) return first.subarray(0, count);
    const joined = new Uint8Array(count);
    let at = 0;
    for (const part of this.#parts) {
      if (at === count) break;
      const piece = part.subarray(0, count - at);
      joined.set(piece, at);
      at += piece.length;
    }
    return joined;
  }

  /** Removes and returns the first `count` bytes; undefined while fewer are held. */
  take(count: number): Uint8Array | undefined {
    const bytes = this.peek(count);
    if (!bytes) return undefined;
    let whole = 0;
    let left = count;
    for (const part of this.#parts) {
      if (part.length > left) break;
      left -= part.length;
      whole += 1;
    }
    this.#parts.splice(0, whole);
    const first = this.#parts[0];
    if (first && left > 0) this.#parts[0] = first.subarray(left);
    this.#length -= count;
    return bytes;
  }
}
