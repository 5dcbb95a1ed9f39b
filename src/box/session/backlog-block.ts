// A run of output bytes with the places where messages end. One bit per byte marks an end, so the memory of a
// block does not depend on how small the messages are that a hostile guest sends.

import { view } from "../../base/bytes.ts";

/** Bytes of output in one block at most. */
export const BLOCK_BYTES_MAX = 64 * 1024;
/** A block as it is spooled: length, end bits, bytes. */
export const SPOOLED_BLOCK_BYTES_MAX = 4 + BLOCK_BYTES_MAX / 8 + BLOCK_BYTES_MAX;
const FIRST_BLOCK_BYTES = 1024;

export class Block {
  /** Bytes held; the rest of `data` is room. */
  length = 0;
  readonly data: Uint8Array;
  readonly #ends: Uint8Array;

  private constructor(data: Uint8Array, ends: Uint8Array) {
    this.data = data;
    this.#ends = ends;
  }

  /** An empty block for at least `bytes`, larger than the last one was, so that small outputs cost little. */
  static forBytes(bytes: number, lastCapacity: number): Block {
    const wanted = Math.max(FIRST_BLOCK_BYTES, bytes, lastCapacity * 2);
    const capacity = Math.min(wanted, BLOCK_BYTES_MAX);
    return new Block(new Uint8Array(capacity), new Uint8Array(Math.ceil(capacity / 8)));
  }

  /** A full block made of the caller's bytes without copying them. */
  static adopt(bytes: Uint8Array): Block {
    const block = new Block(bytes, new Uint8Array(Math.ceil(bytes.length / 8)));
    block.length = bytes.length;
    return block;
  }

  static deserialize(bytes: Uint8Array): Block {
    const length = view(bytes).getUint32(0);
    const endBytes = Math.ceil(length / 8);
    const block = new Block(
      bytes.subarray(4 + endBytes, 4 + endBytes + length),
      bytes.subarray(4, 4 + endBytes),
    );
    block.length = length;
    return block;
  }

  serialize(): Uint8Array {
    const endBytes = Math.ceil(this.length / 8);
    const out = new Uint8Array(4 + endBytes + this.length);
    view(out).setUint32(0, this.length);
    out.set(this.#ends.subarray(0, endBytes), 4);
    out.set(this.data.subarray(0, this.length), 4 + endBytes);
    return out;
  }

  get room(): number {
    return this.data.length - this.length;
  }

  push(bytes: Uint8Array): void {
    this.data.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** A message ends with the last byte held. */
  markEnd(): void {
    this.#setEnd(this.length - 1);
  }

  endsAt(index: number): boolean {
    return ((this.#ends[index >> 3] ?? 0) & (1 << (index & 7))) !== 0;
  }

  /** Index of the first byte from `from` on that ends a message, below `until`; -1 without one. */
  nextEnd(from: number, until: number): number {
    for (let index = from; index < until; ) {
      if ((index & 7) === 0 && this.#ends[index >> 3] === 0) {
        index += 8;
        continue;
      }
      if (this.endsAt(index)) return index;
      index++;
    }
    return -1;
  }

  #setEnd(index: number): void {
    const at = index >> 3;
    this.#ends[at] = (this.#ends[at] ?? 0) | (1 << (index & 7));
  }
}
