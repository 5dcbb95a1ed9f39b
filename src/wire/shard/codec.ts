// The shard code: k data blocks -> n shard blocks, any k of which give the data back (spec/shard 2). Systematic
// Reed-Solomon over GF(2^8), block by block, no state beside matrices. Client and functions use the same code, so
// that what one computes the other can check.

import type { MultiplyBlocks } from "./kernel.ts";
import { bestMultiplyBlocks } from "./kernel-simd.ts";
import { checkShape, generatorRows, inverted, type Matrix, product } from "./matrix.ts";

/** Matrices of this many sets of shards are kept: a retrieval works with a few. */
const MATRICES_MAX = 32;

export class ShardCodec {
  readonly k: number;
  readonly n: number;
  readonly #multiply: MultiplyBlocks;
  readonly #matrices = new Map<string, Matrix>();

  /** @param multiply defaults to the fastest that this machine has. Throws RangeError unless 1 <= k <= n <= 255. */
  constructor(k: number, n: number, multiply: MultiplyBlocks = bestMultiplyBlocks()) {
    checkShape(k, n);
    this.k = k;
    this.n = n;
    this.#multiply = multiply;
  }

  /**
   * The blocks of `shards` (indices 0 to n-1) from any k blocks of others. `have` maps indices to blocks of one
   * length; of more than k the lowest are used. Blocks that are at hand are returned as they are.
   * Throws RangeError with fewer than k.
   */
  rebuild(have: ReadonlyMap<number, Uint8Array>, shards: readonly number[]): Uint8Array[] {
    const given = [...have.keys()].sort((a, b) => a - b).slice(0, this.k);
    if (given.length < this.k) {
      throw new RangeError(`Cannot rebuild: ${given.length} shards, expected ${this.k}`);
    }
    const sources = given.map((shard) => have.get(shard) as Uint8Array);
    const missing = shards.filter((shard) => !have.has(shard));
    const made = new Map<number, Uint8Array>();
    if (missing.length > 0) {
      const length = sources[0]?.length ?? 0;
      for (const shard of missing) made.set(shard, new Uint8Array(length));
      this.#multiply(this.#matrix(given, missing), sources, [...made.values()]);
    }
    return shards.map((shard) => (have.get(shard) ?? made.get(shard)) as Uint8Array);
  }

  /** The blocks of the shards k to n-1 from the k blocks of data. */
  parity(data: readonly Uint8Array[]): Uint8Array[] {
    const shards = Array.from({ length: this.n - this.k }, (_, index) => this.k + index);
    return this.rebuild(new Map(data.entries()), shards);
  }

  /** What takes the blocks of `given` to those of `wanted`. */
  #matrix(given: readonly number[], wanted: readonly number[]): Matrix {
    const name = `${given.join()}>${wanted.join()}`;
    const known = this.#matrices.get(name);
    if (known) return known;
    for (const shard of [...given, ...wanted]) {
      if (!Number.isInteger(shard) || shard < 0 || shard >= this.n)
        throw new RangeError(`Cannot rebuild: shard ${shard}, expected 0 to ${this.n - 1}`);
    }
    const rows = generatorRows(this.k, wanted);
    const isData = given.every((shard, index) => shard === index);
    const matrix = isData ? rows : product(rows, inverted(generatorRows(this.k, given)));
    if (this.#matrices.size >= MATRICES_MAX) this.#matrices.clear();
    this.#matrices.set(name, matrix);
    return matrix;
  }
}
