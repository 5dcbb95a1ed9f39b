import assert from "node:assert/strict";
import { test } from "node:test";
import { twoSample } from "./two-sample.ts";

test("twoSample: the critical values of the tables", () => {
  // 1.36 and 1.63 are where the asymptotic distribution leaves 5 % and 1 %.
  const at = (distance: number, n: number) => {
    const first = Array.from({ length: n }, (_, index) => index);
    return twoSample(
      first,
      first.map((value) => value + distance * n),
    ).p;
  };
  const n = 20_000;
  assert.ok(Math.abs(at(1.36 * Math.sqrt(2 / n), n) - 0.05) < 0.006);
  assert.ok(Math.abs(at(1.63 * Math.sqrt(2 / n), n) - 0.01) < 0.002);
});

test("twoSample: the same twice, nothing in common, ties", () => {
  assert.deepEqual(twoSample([1, 2, 3], [1, 2, 3]), { distance: 0, p: 1 });
  const far = twoSample(
    Array.from({ length: 50 }, (_, at) => at),
    Array.from({ length: 50 }, (_, at) => at + 100),
  );
  assert.equal(far.distance, 1);
  assert.ok(far.p < 1e-9);
  assert.equal(twoSample([5, 5, 5, 5], [5, 5]).distance, 0);
});
