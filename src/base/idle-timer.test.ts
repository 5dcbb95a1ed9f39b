import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "./clock.ts";
import { IdleTimer } from "./idle-timer.ts";

function timer(idleMs: number) {
  const clock = new TestClock();
  const seen = { calls: 0 };
  const idle = new IdleTimer(clock, idleMs, () => seen.calls++);
  return { clock, seen, idle };
}

test("IdleTimer: calls once, at its time and not a millisecond before", async () => {
  const { clock, seen } = timer(100);
  await clock.advance(99);
  assert.equal(seen.calls, 0);
  await clock.advance(1);
  assert.equal(seen.calls, 1);
  await clock.advance(1000);
  assert.equal(seen.calls, 1);
});

test("IdleTimer: counts from the last touch", async () => {
  const { clock, seen, idle } = timer(100);
  for (let touches = 0; touches < 5; touches++) {
    await clock.advance(70);
    idle.touch();
  }
  await clock.advance(99);
  assert.equal(seen.calls, 0);
  await clock.advance(1);
  assert.equal(seen.calls, 1);
});

test("IdleTimer: stopped, it does not call, and leaves no timer", async () => {
  const { clock, seen, idle } = timer(100);
  await clock.advance(70);
  idle.touch();
  // The first timer has found that time is left, and set another.
  await clock.advance(30);
  idle.stop();
  await clock.advance(1000);
  assert.equal(seen.calls, 0);
});
