import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../src/base/clock.ts";
import { MemoryStorage } from "../../test/support/in-process-boxes.ts";
import { hasSuccessor, isFencedOff } from "./fencing.ts";
import { KEYS } from "./state.ts";

/** A point was lost; what else is known a test sets, and changes as time passes. */
class Loss {
  readonly clock = new TestClock();
  readonly standby = { heardMs: Number.NEGATIVE_INFINITY, silentMs: 5000, isUncertain: false };
  isEvident = false;
  isOver = false;
  result: boolean | undefined;

  constructor() {
    void this.#look();
  }

  async #look(): Promise<void> {
    const { clock, standby } = this;
    const isEvident = () => this.isEvident;
    this.result = await isFencedOff({ clock, standby, isEvident, isOver: () => this.isOver });
  }

  async pass(ms: number, heard = false): Promise<void> {
    for (let left = ms; left > 0; left -= 200) {
      await this.clock.advance(200);
      if (heard) this.standby.heardMs = this.clock.now();
      for (let turns = 0; turns < 3; turns++) await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

test("a standby that says that it waits has not taken over: the point is replaced, whatever others say", async () => {
  const loss = new Loss();
  loss.isEvident = true;
  await loss.pass(1000, true);
  assert.equal(loss.result, false);
});

test("a standby that is silent, and what only a takeover brings about: fenced off, after as long as it waits itself", async () => {
  const loss = new Loss();
  loss.isEvident = true;
  await loss.pass(4800);
  assert.equal(loss.result, undefined);
  await loss.pass(400);
  assert.equal(loss.result, true);
});

test("a relay alone does not bring us to leave: without more the point is replaced after a minute", async () => {
  const loss = new Loss();
  await loss.pass(59_800);
  assert.equal(loss.result, undefined);
  await loss.pass(400);
  assert.equal(loss.result, false);
});

test("a standby that waits does not speak for one that was lost before it, and may have taken over", async () => {
  const loss = new Loss();
  loss.standby.isUncertain = true;
  loss.isEvident = true;
  await loss.pass(6000, true);
  assert.equal(loss.result, true);
  // The same without anything that shows it; and when it is known what became of that one.
  const other = new Loss();
  other.standby.isUncertain = true;
  await other.pass(6000, true);
  assert.equal(other.result, undefined);
  other.standby.isUncertain = false;
  await other.pass(400, true);
  assert.equal(other.result, false);
});

test("hasSuccessor: a higher epoch in the storage, and nothing else", async () => {
  const storage = new MemoryStorage();
  assert.equal(await hasSuccessor(storage, 7), false);
  for (const [epoch, expected] of [
    [7, false],
    [8, true],
  ] as const) {
    await storage.put(KEYS.state, JSON.stringify({ epoch }));
    assert.equal(await hasSuccessor(storage, 7), expected);
  }
  await storage.put(KEYS.state, "broken");
  assert.equal(await hasSuccessor(storage, 7), false);
});
