import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { CATCH_UP_CELLS, CellSchedule, cellIntervalMs, type PaceClock, pace } from "./pace.ts";

/** Sleeping is all that moves it, and whoever `spend`s. `lateMs` is by how much timers are late, one after the other. */
class FakeClock implements PaceClock {
  #now = 0;
  readonly #lateMs: number[];

  constructor(lateMs: readonly number[] = []) {
    this.#lateMs = [...lateMs];
  }
  now(): number {
    return this.#now;
  }
  spend(ms: number): void {
    this.#now += ms;
  }
  async sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.#now += delayMs + (this.#lateMs.shift() ?? 0);
  }
}

/** When each of `count` cells left. `blockedMs`: how long the receiver took for each. */
async function timesOf(
  count: number,
  clock: FakeClock,
  blockedMs: readonly number[] = [],
): Promise<number[]> {
  const times: number[] = [];
  await pace({
    clock,
    schedule: new CellSchedule(10, 0),
    next: () => (times.length < count ? new Uint8Array(1) : undefined),
    send: (_cell) => {
      times.push(clock.now());
      const blocked = blockedMs[times.length - 1] ?? 0;
      if (blocked === 0) return undefined;
      clock.spend(blocked);
      return Promise.resolve();
    },
  });
  return times;
}

test("pace: one cell each interval, whatever the cells are", async () => {
  assert.equal(cellIntervalMs(4096, 409_600), 10);
  assert.deepEqual(await timesOf(5, new FakeClock()), [0, 10, 20, 30, 40]);
});

test("pace: late timers delay a cell and not those after it", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 35 }), { maxLength: 40 }), async (late) => {
      const times = await timesOf(60, new FakeClock(late));
      for (const [at, time] of times.entries()) assert.ok(time >= 10 * at, `cell ${at} at ${time}`);
      assert.equal(times.at(-1), 590);
    }),
  );
});

test("pace: a sender that stood still catches up without a burst", async () => {
  const clock = new FakeClock([1000]);
  const times = await timesOf(400, clock);
  assert.equal(times.at(-1), 3990);
  for (const [at, time] of times.entries()) {
    const atOnce = times.filter((other) => other >= time && other < time + 5).length;
    assert.ok(atOnce <= CATCH_UP_CELLS + 1, `${atOnce} cells at once after cell ${at}`);
  }
});

test("pace: a sender whose timers are all late catches up all the same", async () => {
  // Later than twice the rate would have the next cell: with one cell for each of them it would never be on time again.
  const clock = new FakeClock([1000, ...Array.from({ length: 1000 }, () => 9)]);
  const times = await timesOf(400, clock);
  const [last = Number.NaN] = times.slice(-1);
  assert.ok(last >= 3990 && last < 3990 + 10, `the last cell left at ${last}`);
  for (const time of times) assert.ok(times.filter((other) => other === time).length <= CATCH_UP_CELLS);
});

test("pace: a slow receiver moves the whole schedule, and gets no burst afterwards", async () => {
  const times = await timesOf(5, new FakeClock(), [0, 500]);
  assert.deepEqual(times, [0, 10, 520, 530, 540]);
});

test("pace: ends when it is told to", async () => {
  const controller = new AbortController();
  let sent = 0;
  const endless = pace({
    clock: new FakeClock(),
    schedule: new CellSchedule(10, 0),
    next: () => new Uint8Array(1),
    send: () => {
      if (++sent === 3) controller.abort(new Error("enough"));
      return undefined;
    },
    signal: controller.signal,
  });
  await assert.rejects(endless, /enough/);
  assert.equal(sent, 3);
});
