import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { TestClock } from "../../base/clock.ts";
import { silentLog } from "../../base/log.ts";
import type { Instance } from "./instance.ts";
import { SANDBOX_LIMITS } from "./sandbox-limits.ts";
import { WarmPool } from "./warm-pool.ts";

const plan = { image: "deno", profile: "strict", tmpBytes: 1, openFilesMax: 1, count: 2 } as const;

/** What a pool uses of an instance. */
function readyMember(): Instance {
  const stdout = new PassThrough();
  stdout.write("ready");
  const exited = Promise.withResolvers<unknown>();
  return {
    stdout,
    exited: exited.promise,
    stderrTail: () => "",
    async [Symbol.asyncDispose]() {
      exited.resolve({ kind: "killed", reason: "disposed" });
    },
  } as unknown as Instance;
}

test("WarmPool.take: the successor starts when the member has had its time, one start for each taken", async () => {
  const clock = new TestClock();
  let started = 0;
  const start = async () => {
    started++;
    return readyMember();
  };
  await using pool = new WarmPool({ plan, start, clock, log: silentLog });
  await pool.filled();
  assert.equal(started, 2);
  await using first = pool.take();
  await using second = pool.take();
  assert.ok(first && second);
  assert.equal(pool.take(), undefined);
  await clock.advance(SANDBOX_LIMITS.refillDelayMs - 1);
  assert.equal(started, 2);
  await clock.advance(1);
  assert.equal(started, 4);
  await pool.filled();
  assert.equal(pool.ready, 2);
});

test("WarmPool: members that were started with another file stand in for nobody else; their successors wait as planned", async () => {
  const clock = new TestClock();
  let started = 0;
  const start = async () => {
    started++;
    return readyMember();
  };
  const ready = { ...plan, main: "ready.js", count: 1, refillDelayMs: 250 };
  await using pool = new WarmPool({ plan: ready, start, clock, log: silentLog });
  assert.ok(pool.matches({ ...plan, main: "ready.js" }));
  for (const wanted of [plan, { ...plan, main: "other.js" }, { ...plan, main: "ready.js", tmpBytes: 2 }])
    assert.ok(!pool.matches(wanted));
  await using plain = new WarmPool({ plan, start, clock, log: silentLog });
  assert.ok(plain.matches(plan) && !plain.matches({ ...plan, main: "ready.js" }));
  await Promise.all([pool.filled(), plain.filled()]);
  assert.equal(started, 3);
  await using _ = pool.take();
  await clock.advance(249);
  assert.equal(started, 3);
  await clock.advance(1);
  assert.equal(started, 4);
  // When the member's work is over sooner, so is the wait.
  await pool.filled();
  await using __ = pool.take();
  await clock.advance(100);
  pool.refill();
  pool.refill(500);
  await clock.advance(SANDBOX_LIMITS.refillDelayMs);
  assert.equal(started, 5);
});

test("WarmPool: a pool that is closed starts nothing more", async () => {
  const clock = new TestClock();
  let started = 0;
  const pool = new WarmPool({
    plan,
    clock,
    log: silentLog,
    start: async () => {
      started++;
      return readyMember();
    },
  });
  await pool.filled();
  await using _member = pool.take();
  await pool[Symbol.asyncDispose]();
  pool.refill();
  await clock.advance(60_000);
  assert.equal(started, 2);
  assert.equal(clock.pending, 0);
});
