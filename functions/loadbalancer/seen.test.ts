import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { random } from "../../src/onion/crypto/primitives.ts";
import { hex } from "../../src/onion/fields.ts";
import { ReplayCache } from "../../src/onion/service/introduction.ts";
import { MemoryStorage } from "../../test/support/in-process-boxes.ts";
import { Seen } from "./seen.ts";
import { decodeSeen, encodeSeen } from "./standby-protocol.ts";

const POINT = "ab".repeat(32);

test("what was answered is known to the next instance, however much it is", async () => {
  const storage = new MemoryStorage();
  const clock = new TestClock();
  const first = new Seen(storage, clock, silentLog);
  const entries = Array.from({ length: 2500 }, () => random(16));
  for (const [at, entry] of entries.entries()) {
    first.add(POINT, entry);
    if (at % 700 === 0) await first.flush();
  }
  await first.flush();
  const second = new Seen(storage, clock, silentLog);
  await second.load();
  assert.deepEqual(new Set(second.entries(POINT).map(hex)), new Set(entries.map(hex)));
  // And goes on: what is added later is kept beside it.
  const later = random(16);
  second.add(POINT, later);
  await second.flush();
  const third = new Seen(storage, clock, silentLog);
  await third.load();
  assert.equal(third.entries(POINT).length, 2501);
  third.keepOnly([]);
  assert.deepEqual(third.entries(POINT), []);
  const fourth = new Seen(storage, clock, silentLog);
  await fourth.load();
  assert.deepEqual(fourth.entries(POINT), []);
});

test("it is written a second later without being asked", async () => {
  const storage = new MemoryStorage();
  const clock = new TestClock();
  const seen = new Seen(storage, clock, silentLog);
  seen.add(POINT, random(16));
  await clock.advance(999);
  assert.equal(storage.values.size, 0);
  await clock.advance(1);
  assert.equal(storage.values.size, 1);
});

test("a standby hears of it: a copy of an introduction that the primary answered is refused there", () => {
  const clock = new TestClock();
  const primary = new Seen(new MemoryStorage(), clock, silentLog);
  const standby = new Seen(new MemoryStorage(), clock, silentLog);
  const introduction = random(200);
  const cache = new ReplayCache({ onAdded: (entry) => primary.add(POINT, entry) });
  cache.add(introduction);
  for (const batch of decodeSeen(encodeSeen(primary.takeBatches()))) standby.addBatch(batch);
  assert.deepEqual(primary.takeBatches(), []);
  const heir = new ReplayCache({ seen: standby.entries(POINT) });
  assert.throws(() => heir.add(introduction), { code: "onion-replay" });
  heir.add(random(200));
  // The control: without what was heard it would be answered.
  new ReplayCache().add(introduction);
});
