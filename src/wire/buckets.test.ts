import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { BUCKET_CAP, BUCKET_STEP, bucketSet, LEVELS, webPageSizes } from "./bucket-sets.ts";
import { bucketFor, fitBuckets, POPULATION_MAX, reportOn } from "./buckets.ts";

/** Bytes of all pages, padded to `buckets`. */
function paddedBytes(buckets: readonly number[], sizes: readonly number[]): number {
  return sizes.reduce((sum, size) => sum + (bucketFor(buckets, size) ?? Number.NaN), 0);
}

/** The least that any choice of at most `count` sizes needs: tries them all. */
function bruteForce(sizes: readonly number[], count: number): number {
  const values = [...new Set(sizes)].sort((a, b) => a - b);
  const largest = values.pop() ?? 0;
  let best = Number.POSITIVE_INFINITY;
  for (let choice = 0; choice < 2 ** values.length; choice++) {
    const buckets = values.filter((_, at) => (choice >> at) & 1);
    if (buckets.length < count) best = Math.min(best, paddedBytes([...buckets, largest], sizes));
  }
  return best;
}

test("fitBuckets: nothing that brute force finds is cheaper", () => {
  const population = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 14 });
  fc.assert(
    fc.property(population, fc.integer({ min: 1, max: 6 }), (sizes, count) => {
      const buckets = fitBuckets(sizes, count);
      assert.ok(buckets.length >= 1 && buckets.length <= count);
      assert.deepEqual(
        buckets,
        [...buckets].sort((a, b) => a - b),
      );
      assert.equal(buckets.at(-1), Math.max(...sizes));
      assert.equal(paddedBytes(buckets, sizes), bruteForce(sizes, count));
    }),
    { numRuns: 400 },
  );
});

test("fitBuckets: sizes are multiples of the step, and stop at the cap", () => {
  const buckets = fitBuckets([1, 5, 990, 1000, 5000], 3, { step: 64, cap: 2000 });
  assert.deepEqual(buckets, [64, 1024, 2048]);
});

test("fitBuckets: takes as many pages as it says and not one more", () => {
  const many = Array.from({ length: POPULATION_MAX }, (_, at) => at + 1);
  assert.equal(fitBuckets(many, 2).length, 2);
  assert.throws(() => fitBuckets([...many, 1], 2), RangeError);
  assert.throws(() => fitBuckets([], 2), RangeError);
  assert.throws(() => fitBuckets([1], 0), RangeError);
});

test("reportOn: counts cut pages, used sizes, padding and what a guesser can reach", () => {
  assert.deepEqual(reportOn([10, 20, 40], [5, 10, 35, 50]), {
    pages: 4,
    cut: 1,
    used: 2,
    bound: 0.5,
    overhead: 100 / 90 - 1,
  });
});

test("reportOn: no guesser who sees the size alone is right more often than the bound says", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 30 }), (sizes) => {
      const buckets = [10, 40, 100];
      // The best guess for each size is any one page that has it: one of the pages is right, for each size used.
      const right = new Set(sizes.map((size) => bucketFor(buckets, size))).size;
      assert.equal(reportOn(buckets, sizes).bound, right / sizes.length);
    }),
  );
});

test("bucketSet: the constants are the best for the population they name", () => {
  const population = webPageSizes();
  const byCount = new Map<string, readonly number[]>(
    ["1", "2", "3", "5", "8", "10"].map((count) => [count, bucketSet(count)]),
  );
  for (const [count, buckets] of byCount) {
    assert.deepEqual(buckets, fitBuckets(population, Number(count), { step: BUCKET_STEP, cap: BUCKET_CAP }));
    assert.equal(buckets.length, Number(count));
  }
  for (const [level, count] of Object.entries(LEVELS)) {
    assert.deepEqual(bucketSet(level), byCount.get(String(count)));
  }
  for (const none of ["4", "heavy", "constructor", ""]) assert.throws(() => bucketSet(none), /Cannot find/);
  assert.ok(reportOn(bucketSet("standard"), population).overhead < 0.45);
});
