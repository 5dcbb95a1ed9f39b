// Bytes that arrived and wait to be cut into frames, or were sent and wait to be confirmed. Copies only what spans
// chunks, and only that.

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
    if (bytes) this.drop(count);
    return bytes;
  }

  /** Removes the first `count` bytes. Throws RangeError when fewer are held. */
  drop(count: number): void {
    if (!(count >= 0 && count <= this.#length))
      throw new RangeError(`Cannot drop ${count} bytes: ${this.#length} are held`);
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
  }

  /** A view of the bytes from `offset` on, to the end of their chunk; undefined while none is held there. */
  viewFrom(offset: number): Uint8Array | undefined {
    if (!(offset >= 0)) throw new RangeError(`Cannot read from ${offset}: expected 0 or more`);
    let start = 0;
    for (const part of this.#parts) {
      if (offset < start + part.length) return part.subarray(offset - start);
      start += part.length;
    }
    return undefined;
  }
}
