// AES in counter mode for many small pieces: the keystream is worked out ahead, for several cells at once, and XORed
// into the bytes where they lie. A call of the cryptographic library costs as much as encrypting ten cells, and four layers
// of a circuit are four calls for each cell.
// Spec: tor-spec 0.3 (counter mode, all-zero IV), 5.5 (one stream of it for each layer and direction).

import { view } from "../../base/bytes.ts";
import { type AesBlocks, aesBlocks } from "./primitives.ts";

const BLOCK_BYTES = 16;
/** A circuit that carries little holds little: the first step is two cells. Powers of two, multiples of a block. */
const AHEAD_BYTES_MIN = 1024;
/** What a busy layer holds for one direction. Longer steps save nothing measurable. */
const AHEAD_BYTES_MAX = 8192;

/** Counter blocks of the step that is being encrypted: shared, since nothing waits between filling and using them. */
const counters = new Uint32Array(AHEAD_BYTES_MAX / 4);
const counterBytes = new Uint8Array(counters.buffer);

export class Keystream {
  readonly #encrypt: AesBlocks;
  /** Number of the next block: 2^53 of them are 128 PiB. */
  #block = 0;
  #ahead: DataView = new DataView(new ArrayBuffer(0));
  #at = 0;

  /** @param key 16 or 32 bytes. */
  constructor(key: Uint8Array) {
    this.#encrypt = aesBlocks(key);
  }

  /** Encrypts or decrypts `bytes` in place: the stream goes on from call to call. */
  xor(bytes: Uint8Array): void {
    const target = view(bytes);
    for (let at = 0; at < bytes.length; ) {
      if (this.#at === this.#ahead.byteLength) this.#workAhead();
      const count = Math.min(bytes.length - at, this.#ahead.byteLength - this.#at);
      xorInto(target, at, this.#ahead, this.#at, count);
      at += count;
      this.#at += count;
    }
  }

  #workAhead(): void {
    // As much as there was so far.
    const length = Math.min(AHEAD_BYTES_MAX, Math.max(AHEAD_BYTES_MIN, this.#block * BLOCK_BYTES));
    const blocks = length / BLOCK_BYTES;
    // No step goes across a multiple of 2^32: each begins at a multiple of its own length.
    const high = bigEndian(Math.floor(this.#block / 0x1_0000_0000));
    const low = this.#block % 0x1_0000_0000;
    for (let index = 0; index < blocks; index++) {
      counters[4 * index + 2] = high;
      counters[4 * index + 3] = bigEndian(low + index);
    }
    this.#block += blocks;
    this.#ahead = view(this.#encrypt(counterBytes.subarray(0, length)));
    this.#at = 0;
  }
}

/** As typed arrays have it, whose numbers are little-endian wherever V8 runs. */
function bigEndian(word: number): number {
  return (word << 24) | ((word & 0xff00) << 8) | ((word >>> 8) & 0xff00) | (word >>> 24);
}

/** Four bytes at a time: several times as fast as one by one, wherever both begin. */
function xorInto(target: DataView, at: number, key: DataView, keyAt: number, count: number): void {
  const words = count & ~3;
  let index = 0;
  for (; index < words; index += 4)
    target.setUint32(
      at + index,
      target.getUint32(at + index, true) ^ key.getUint32(keyAt + index, true),
      true,
    );
  for (; index < count; index++)
    target.setUint8(at + index, target.getUint8(at + index) ^ key.getUint8(keyAt + index));
}
