import assert from "node:assert/strict";
import { test } from "node:test";
import { turnsTest, twoSample } from "./two-sample.ts";

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

test("turnsTest: turns of one kind give no small p too often, however their values depend on each other", () => {
  let state = 1;
  const random = () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
  // Within a turn all values share one shift, which the plain test takes for a difference.
  const turns = () =>
    Array.from({ length: 8 }, (_, at) => {
      const shift = random();
      return { isFirst: at % 2 === 0, values: Array.from({ length: 20 }, () => 2 * shift + random()) };
    });
  const runs = Array.from({ length: 200 }, turns);
  const below = (p: number) => runs.filter((run) => turnsTest(run).p <= p).length / runs.length;
  // Equal distances make p larger, never smaller.
  assert.ok(below(0.1) <= 0.15, `${below(0.1)} of p are below 0.1`);
  assert.ok(below(0.5) > 0.3 && below(0.5) <= 0.6, `${below(0.5)} of p are below 0.5`);
  const plain = (side: boolean, run: ReturnType<typeof turns>) =>
    run.filter(({ isFirst }) => isFirst === side).flatMap(({ values }) => values);
  const fooled = runs.filter((run) => twoSample(plain(true, run), plain(false, run)).p <= 0.1).length;
  assert.ok(fooled / runs.length > 0.5, "the plain test errs with such values");
});

test("turnsTest: turns of two kinds are told apart as well as so many turns can be", () => {
  const turns = Array.from({ length: 8 }, (_, at) => ({
    isFirst: at % 2 === 0,
    values: [at % 2, 1 + (at % 2)],
  }));
  // C(8, 4) ways, and the one with the sides exchanged is as far.
  assert.deepEqual(turnsTest(turns), { distance: 0.5, p: 2 / 70 });
});
