import { Buffer } from "node:buffer";

// A digest over everything so far, readable at any point: what relay cells carry four bytes of. No allocation but the
// digest itself; the state lies here between calls and in the hash module's memory during one.
// Spec: tor-spec 6.1 (running digests); FIPS 180-4 5.1.1 (padding of SHA-1), FIPS 202 5.1, B.2 (of SHA3-256).

import { view } from "../../base/bytes.ts";
import { assert } from "../../base/errors.ts";
import {
  type Absorb,
  HASH_MEMORY_FROM,
  makeHashModule,
  SHA1_BLOCK_BYTES,
  SHA3_256_BLOCK_BYTES,
} from "./hash-module.ts";

/** More than any cell has. */
export const DIGEST_INPUT_BYTES_MAX = 4096;

interface Algorithm {
  readonly absorb: Absorb;
  readonly blockBytes: number;
  readonly stateBytes: number;
  readonly initial: Uint8Array;
  /** Padding after `tailBytes` at `at`; `length`: bytes hashed in all. Returns how many blocks that makes. */
  readonly pad: (at: number, tailBytes: number, length: number) => number;
  /** The digest that is at `at`. */
  readonly read: (at: number) => Uint8Array;
}

const module = makeHashModule();
const memory = module.memory;
const words = view(memory);

/** State that goes on, state that ends here, then data: the only layout, since no two calls overlap. */
const STATE_AT = HASH_MEMORY_FROM;
const FINAL_AT = STATE_AT + 256;
const DATA_AT = FINAL_AT + 256;

const ALGORITHMS: { readonly sha1: Algorithm; readonly "sha3-256": Algorithm } = {
  sha1: {
    absorb: module.sha1,
    blockBytes: SHA1_BLOCK_BYTES,
    stateBytes: 20,
    // FIPS 180-4 5.3.1, little-endian here.
    initial: Uint8Array.from(Buffer.from("0123456789abcdeffedcba9876543210f0e1d2c3", "hex")),
    pad: (at, tailBytes, length) => {
      const blocks = tailBytes + 9 > SHA1_BLOCK_BYTES ? 2 : 1;
      const end = at + blocks * SHA1_BLOCK_BYTES;
      memory.fill(0, at + tailBytes, end);
      memory[at + tailBytes] = 0x80;
      words.setUint32(end - 8, Math.floor(length / 0x2000_0000));
      words.setUint32(end - 4, (length * 8) % 0x1_0000_0000);
      return blocks;
    },
    read: (at) => {
      const digest = memory.slice(at, at + 20);
      const out = view(digest);
      for (let word = 0; word < 20; word += 4) out.setUint32(word, out.getUint32(word, true));
      return digest;
    },
  },
  "sha3-256": {
    absorb: module.keccak,
    blockBytes: SHA3_256_BLOCK_BYTES,
    stateBytes: 200,
    initial: new Uint8Array(200),
    pad: (at, tailBytes) => {
      memory.fill(0, at + tailBytes, at + SHA3_256_BLOCK_BYTES);
      memory[at + tailBytes] = 0x06;
      const last = at + SHA3_256_BLOCK_BYTES - 1;
      memory[last] = (memory[last] ?? 0) | 0x80;
      return 1;
    },
    read: (at) => memory.slice(at, at + 32),
  },
};

export class RunningDigest {
  readonly #algorithm: Algorithm;
  /** After the last whole block. */
  readonly #state: Uint8Array;
  /** What came after that, #length % blockBytes bytes; the rest of it means nothing. */
  readonly #tail: Uint8Array;
  #length = 0;

  constructor(algorithm: keyof typeof ALGORITHMS, seed: Uint8Array) {
    this.#algorithm = ALGORITHMS[algorithm];
    this.#state = this.#algorithm.initial.slice();
    this.#tail = new Uint8Array(this.#algorithm.blockBytes);
    this.update(seed);
  }

  /** Takes `bytes` in, DIGEST_INPUT_BYTES_MAX at most, and returns the digest of everything so far. */
  update(bytes: Uint8Array): Uint8Array {
    const tailAt = this.#absorb(bytes);
    const digest = this.#digest(tailAt, bytes.length);
    this.#commit(tailAt, bytes.length);
    return digest;
  }

  /**
   * Takes `bytes` in if the digest then begins with `start`, and returns it; otherwise nothing has changed. For cells of which
   * it is not known yet whether they are meant for us (tor-spec 6.1).
   */
  updateIf(bytes: Uint8Array, start: Uint8Array): Uint8Array | undefined {
    const tailAt = this.#absorb(bytes);
    const digest = this.#digest(tailAt, bytes.length);
    if (start.some((byte, index) => byte !== digest[index])) return undefined;
    this.#commit(tailAt, bytes.length);
    return digest;
  }

  /** Works the tail and `bytes` into the state in memory. Returns where the new tail is. */
  #absorb(bytes: Uint8Array): number {
    assert(bytes.length <= DIGEST_INPUT_BYTES_MAX, "cells are shorter");
    const { absorb, blockBytes } = this.#algorithm;
    const tailBytes = this.#length % blockBytes;
    memory.set(this.#state, STATE_AT);
    memory.set(this.#tail, DATA_AT);
    memory.set(bytes, DATA_AT + tailBytes);
    const blocks = Math.floor((tailBytes + bytes.length) / blockBytes);
    absorb(STATE_AT, DATA_AT, blocks);
    return DATA_AT + blocks * blockBytes;
  }

  /** The digest if this were the end. */
  #digest(tailAt: number, added: number): Uint8Array {
    const { absorb, blockBytes, stateBytes, pad, read } = this.#algorithm;
    const length = this.#length + added;
    memory.copyWithin(FINAL_AT, STATE_AT, STATE_AT + stateBytes);
    absorb(FINAL_AT, tailAt, pad(tailAt, length % blockBytes, length));
    return read(FINAL_AT);
  }

  #commit(tailAt: number, added: number): void {
    const { blockBytes, stateBytes } = this.#algorithm;
    this.#state.set(memory.subarray(STATE_AT, STATE_AT + stateBytes));
    this.#tail.set(memory.subarray(tailAt, tailAt + blockBytes));
    this.#length += added;
  }
}
