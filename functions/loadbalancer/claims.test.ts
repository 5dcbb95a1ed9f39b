import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../src/base/clock.ts";
import { Claims } from "./claims.ts";

const settled = async () => new Promise((resolve) => setImmediate(resolve));

function watched(claims: Claims, clock: TestClock) {
  const state = { isDone: false };
  const waiting = async () => {
    await claims.all(clock, new AbortController().signal);
    state.isDone = true;
  };
  void waiting();
  return state;
}

test("all points that there were are ours: one that is new counts for none of them", async () => {
  const claims = new Claims();
  claims.expect(["a", "b"]);
  const state = watched(claims, new TestClock());
  claims.add("a");
  claims.add("new");
  claims.add("a");
  await settled();
  assert.equal(state.isDone, false);
  claims.add("b");
  await settled();
  assert.equal(state.isDone, true);
});

test("one that does not come is waited for 10 s", async () => {
  const clock = new TestClock();
  const claims = new Claims();
  claims.expect(["a", "b"]);
  const state = watched(claims, clock);
  claims.add("a");
  await clock.advance(9999);
  await settled();
  assert.equal(state.isDone, false);
  await clock.advance(1);
  await settled();
  assert.equal(state.isDone, true);
});
