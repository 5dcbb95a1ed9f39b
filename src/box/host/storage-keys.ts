// The keys of all functions' storage, side by side in memory and nowhere else (spec/storage 3.2). A buffer of its own for
// each would take ten times the key, for as long as the function is installed. Holds secrets; knows nothing of functions.

import { randomFillSync } from "node:crypto";

const KEY_BYTES = 32;
/** Keys of one block of memory: a page. */
const BLOCK_KEYS = 128;

/** Where a key lies. */
export type KeyPlace = number;

export class StorageKeys {
  readonly #blocks: Uint8Array[] = [];
  /** Places of keys that were erased. */
  readonly #free: KeyPlace[] = [];
  #count = 0;

  /** Makes a new key. It stays until `erase`. */
  create(): KeyPlace {
    const place = this.#free.pop() ?? this.#count++;
    if (place === this.#blocks.length * BLOCK_KEYS) this.#blocks.push(new Uint8Array(BLOCK_KEYS * KEY_BYTES));
    randomFillSync(this.bytes(place));
    return place;
  }

  /** A view of the key, for the moment: after `erase` it shows zeros, and later another key. */
  bytes(place: KeyPlace): Uint8Array {
    const block = this.#blocks[Math.floor(place / BLOCK_KEYS)];
    if (!block) throw new RangeError(`Cannot use key: there is none at ${place}`);
    const from = (place % BLOCK_KEYS) * KEY_BYTES;
    return block.subarray(from, from + KEY_BYTES);
  }

  /** Overwrites the key. Once for each `create`. */
  erase(place: KeyPlace): void {
    this.bytes(place).fill(0);
    this.#free.push(place);
  }
}
