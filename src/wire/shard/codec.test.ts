// The shard code: any k of n give the data back. Checked against arithmetic written a second time, bit by bit, and
// the vector kernel against the plain one.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { ShardCodec } from "./codec.ts";
import { inverse, multiply } from "./gf256.ts";
import { multiplyBlocksPlain } from "./kernel.ts";
import { multiplyBlocksSimd } from "./kernel-simd.ts";
import { generatorRow, generatorRows, inverted, product } from "./matrix.ts";

/** a × b by shifts alone: the oracle. */
function slowMultiply(a: number, b: number): number {
  let sum = 0;
  for (let bit = 7; bit >= 0; bit--) {
    sum = (sum << 1) ^ (sum & 0x80 ? 0x11d : 0);
    if ((b >> bit) & 1) sum ^= a;
  }
  return sum;
}

test("gf256: agrees with multiplication by shifts, and inverses invert", () => {
  for (let a = 0; a < 256; a++) {
    for (let b = 0; b < 256; b++) assert.equal(multiply(a, b), slowMultiply(a, b));
    if (a > 0) assert.equal(multiply(a, inverse(a)), 1);
  }
  assert.throws(() => inverse(0), RangeError);
});

test("generator: identity, then parity whose first row and column are ones (XOR, replication)", () => {
  assert.deepEqual([...generatorRow(4, 2)], [0, 0, 1, 0]);
  assert.deepEqual([...generatorRow(4, 4)], [1, 1, 1, 1]);
  for (let shard = 4; shard < 255; shard++) assert.equal(generatorRow(4, shard)[0], 1);
  for (let shard = 0; shard < 255; shard++) assert.deepEqual([...generatorRow(1, shard)], [1]);
  // Frozen: receipts of older versions must stay readable.
  assert.deepEqual([...generatorRow(3, 4)], [1, 196, 83]);
});

function* subsets(n: number, k: number, from = 0): Generator<number[]> {
  if (k === 0) yield [];
  else
    for (let at = from; at <= n - k; at++) for (const rest of subsets(n, k - 1, at + 1)) yield [at, ...rest];
}

test("generator: every k rows of n <= 9 are independent", () => {
  let count = 0;
  for (let n = 1; n <= 9; n++) {
    for (let k = 1; k <= n; k++) {
      for (const shards of subsets(n, k)) {
        const rows = generatorRows(k, shards);
        const identity = product(rows, inverted(rows));
        for (let at = 0; at < k * k; at++)
          assert.equal(identity.cells[at], at % (k + 1) === 0 ? 1 : 0, `k ${k} of ${shards.join()}`);
        count++;
      }
    }
  }
  // The sum of 2^n - 1 over n = 1 to 9.
  assert.equal(count, 1013);
});

const shape = fc
  .integer({ min: 1, max: 255 })
  .chain((n) => fc.tuple(fc.integer({ min: 1, max: n }), fc.constant(n)));

test("codec: any k of n shards give the data back, for every size", () => {
  fc.assert(
    fc.property(
      shape,
      fc.integer({ min: 0, max: 300 }),
      fc.infiniteStream(fc.nat(255)),
      fc.infiniteStream(fc.nat(1_000_000)),
      ([k, n], length, bytes, choices) => {
        const data = Array.from({ length: k }, () =>
          Uint8Array.from({ length }, () => bytes.next().value ?? 0),
        );
        const codec = new ShardCodec(k, n);
        const shards = [...data, ...codec.parity(data)];
        const left = shards.map((_, index) => index);
        while (left.length > k) left.splice((choices.next().value ?? 0) % left.length, 1);
        const have = new Map(left.map((index) => [index, shards[index] as Uint8Array]));
        const all = codec.rebuild(
          have,
          shards.map((_, index) => index),
        );
        for (const [index, shard] of shards.entries()) assert.deepEqual(all[index], shard);
      },
    ),
    { numRuns: 60 },
  );
});

test("codec: parity is what the definition says, byte by byte", () => {
  const [k, n, length] = [5, 9, 77];
  const data = Array.from({ length: k }, (_, row) =>
    Uint8Array.from({ length }, (_, at) => (row * 89 + at * 31) & 255),
  );
  for (const kernel of [multiplyBlocksPlain, multiplyBlocksSimd]) {
    const parity = new ShardCodec(k, n, kernel).parity(data);
    for (const [index, block] of parity.entries()) {
      for (let at = 0; at < length; at++) {
        let sum = 0;
        const row = generatorRow(k, k + index);
        for (let column = 0; column < k; column++)
          sum ^= slowMultiply(row[column] ?? 0, data[column]?.[at] ?? 0);
        assert.equal(block[at], sum);
      }
    }
  }
});

test("kernel-simd: agrees with the plain kernel at every length around a slab, and for the largest matrix", () => {
  for (const [k, n, length] of [
    [3, 5, 0],
    [3, 5, 1],
    [3, 5, 63],
    [3, 5, 64],
    [2, 3, 8191],
    [2, 3, 8192],
    [2, 3, 8193],
    [2, 4, 20_000],
    [128, 255, 130],
    [127, 255, 70],
  ] as const) {
    const data = Array.from({ length: k }, (_, row) =>
      Uint8Array.from({ length }, (_, at) => (row * 57 + at * at * 13 + 7) & 255),
    );
    assert.deepEqual(
      new ShardCodec(k, n, multiplyBlocksSimd).parity(data),
      new ShardCodec(k, n, multiplyBlocksPlain).parity(data),
      `k ${k}, n ${n}, ${length} bytes`,
    );
  }
});

test("codec: refuses shapes and numbers of shards that cannot be", () => {
  for (const [k, n] of [
    [0, 1],
    [2, 1],
    [1, 256],
    [1.5, 3],
    [Number.NaN, 3],
  ] as const)
    assert.throws(() => new ShardCodec(k, n), RangeError);
  assert.ok(new ShardCodec(255, 255));
  const codec = new ShardCodec(2, 3);
  assert.throws(() => codec.rebuild(new Map([[1, new Uint8Array(4)]]), [0]), RangeError);
  const two = new Map([
    [0, new Uint8Array(4)],
    [1, new Uint8Array(4)],
  ]);
  assert.throws(() => codec.rebuild(two, [3]), RangeError);
  two.set(1, new Uint8Array(5));
  assert.throws(() => codec.rebuild(two, [2]), RangeError);
});
