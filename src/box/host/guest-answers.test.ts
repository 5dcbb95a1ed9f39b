// GuestAnswers: sizes and times of answers follow from the shape, whatever the function does and however it ends.

import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { CELL_BYTES } from "../../wire/browse.ts";
import { GUEST_HEADER_BYTES, guestFrameCost } from "../../wire/guest-frame.ts";
import { GuestAnswers } from "./guest-answers.ts";
import type { AnswersShape } from "./services.ts";

const never = new AbortController().signal;
/** 62.5 ms a cell. */
const RATE = 65_536;
const INTERVAL_MS = (1000 * CELL_BYTES) / RATE;
const SIZES = [2, 4, 8];
const SHAPE: AnswersShape = { bytes: SIZES.map((cells) => cells * CELL_BYTES), rate: RATE, begins: "input" };

function setUp(windowCells = 100) {
  const clock = new TestClock();
  const startMs = clock.now();
  const timesMs: number[] = [];
  let consumed = 0;
  const answers = new GuestAnswers({
    clock,
    windowBytes: windowCells * guestFrameCost(CELL_BYTES),
    onCell: (cell) => {
      assert.equal(cell.length, CELL_BYTES);
      timesMs.push(clock.now() - startMs);
    },
    onConsumed: (bytes) => {
      consumed += bytes;
    },
  });
  return { clock, answers, timesMs, consumed: () => consumed };
}

const settle = () => new Promise((resolve) => setImmediate(resolve));
const schedule = (cells: number, fromMs = 0) =>
  Array.from({ length: cells }, (_, at) => fromMs + at * INTERVAL_MS);

test("GuestAnswers: an answer begins with its message, not with the function, and ends at a size", async () => {
  const { clock, answers, timesMs } = setUp();
  answers.shape(SHAPE);
  assert.deepEqual(timesMs, []);
  answers.ask();
  assert.deepEqual(timesMs, [0], "the first cell leaves at once");
  await clock.advance(INTERVAL_MS / 2);
  const finished = answers.finish(never);
  await clock.advance(10_000);
  await finished;
  assert.deepEqual(timesMs, schedule(2));
});

test("GuestAnswers: whenever content is complete, an answer lasts one of K times", async () => {
  for (const [finishMs, cells] of [
    [0, 2],
    [61, 2],
    [63, 4],
    [187, 4],
    [188, 8],
    [400, 8],
    [1e6, 8],
  ] as const) {
    const { clock, answers, timesMs } = setUp();
    answers.shape(SHAPE);
    answers.ask();
    await clock.advance(finishMs);
    const finished = answers.finish(never);
    await clock.advance(10_000);
    await finished;
    assert.deepEqual(timesMs, schedule(cells), `finished after ${finishMs} ms`);
  }
});

test("GuestAnswers: messages that came before the shape count, answers follow each other", async () => {
  const { clock, answers, timesMs } = setUp();
  answers.ask();
  answers.ask();
  answers.shape(SHAPE);
  const ended = [answers.finish(never), answers.finish(never)];
  await clock.advance(10_000);
  await Promise.all(ended);
  // The second was finished before it began.
  assert.deepEqual(timesMs, [...schedule(2), ...schedule(2, 2 * INTERVAL_MS)]);
});

test("GuestAnswers: begins now means one answer, whatever messages come", async () => {
  const { clock, answers, timesMs } = setUp();
  answers.ask();
  answers.shape({ ...SHAPE, begins: "now" });
  answers.ask();
  await clock.advance(10_000);
  assert.equal(timesMs.length, 8);
});

test("GuestAnswers: content takes the window until it leaves, and nothing once its answer has ended", async () => {
  const { clock, answers, consumed } = setUp();
  answers.shape(SHAPE);
  answers.ask();
  const before = answers.room();
  assert.ok(answers.take(new Uint8Array(5000)));
  assert.equal(consumed(), 0);
  assert.equal(answers.room(), before - 5000);
  await clock.advance(INTERVAL_MS);
  assert.ok(consumed() > 4000 && consumed() < 5000);
  await clock.advance(INTERVAL_MS);
  assert.equal(consumed(), GUEST_HEADER_BYTES + 5000);
  await clock.advance(10_000);
  assert.equal(answers.room(), 0);
  assert.ok(answers.take(new Uint8Array(5000)));
  assert.equal(consumed(), 2 * (GUEST_HEADER_BYTES + 5000), "dropped");
});

test("GuestAnswers: content beyond the last size is dropped with it", async () => {
  const { clock, answers, timesMs, consumed } = setUp();
  answers.shape(SHAPE);
  answers.ask();
  answers.take(new Uint8Array(50_000));
  assert.equal(answers.room(), 0);
  const finished = answers.finish(never);
  await clock.advance(10_000);
  await finished;
  assert.equal(timesMs.length, 8);
  assert.equal(consumed(), GUEST_HEADER_BYTES + 50_000);
});

test("GuestAnswers: a receiver that takes no more moves the schedule, not the size", async () => {
  const { clock, answers, timesMs } = setUp(1);
  answers.shape(SHAPE);
  answers.ask();
  await clock.advance(5000);
  assert.deepEqual(timesMs, [0]);
  answers.credit(3 * guestFrameCost(CELL_BYTES));
  await settle();
  await clock.advance(5000);
  assert.equal(timesMs.length, 4);
  assert.ok(timesMs.slice(1).every((time, at) => time >= 5000 + at * INTERVAL_MS));
  answers.credit(100 * guestFrameCost(CELL_BYTES));
  await settle();
  await clock.advance(5000);
  assert.equal(timesMs.length, 8);
});

test("GuestAnswers: a guest that dies leaves an answer that ends at its next size; those after it do not begin", async () => {
  const { clock, answers, timesMs } = setUp();
  answers.shape(SHAPE);
  answers.ask();
  answers.ask();
  await clock.advance(2.5 * INTERVAL_MS);
  const drained = answers.drain();
  await clock.advance(10_000);
  await drained;
  assert.deepEqual(timesMs, schedule(4));
  const idle = setUp();
  await idle.answers.drain();
});

test("GuestAnswers: stops at once when its instance is killed", async () => {
  const { clock, answers, timesMs } = setUp();
  answers.shape(SHAPE);
  answers.ask();
  const drained = answers.drain();
  answers.stop();
  await drained;
  await clock.advance(10_000);
  assert.equal(timesMs.length, 1);
  assert.equal(clock.pending, 0);
});

test("GuestAnswers: refuses a second shape, one behind output, and finishing what has not begun", async () => {
  const { answers } = setUp();
  const isBadCall = (error: unknown) => error instanceof BentoError && error.code === "bad-call";
  answers.shape(SHAPE);
  assert.throws(() => answers.shape(SHAPE), isBadCall);
  await assert.rejects(answers.finish(never), isBadCall);
  const late = setUp().answers;
  assert.equal(late.take(new Uint8Array(1)), false);
  assert.throws(() => late.shape(SHAPE), isBadCall);
});

test("GuestAnswers: a call that the guest drops waits no longer", async () => {
  const { answers } = setUp();
  answers.shape(SHAPE);
  const dropped = new AbortController();
  const ended = answers.ended(dropped.signal);
  dropped.abort(new Error("dropped"));
  await assert.rejects(ended, /dropped/);
});
