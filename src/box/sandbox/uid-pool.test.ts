import assert from "node:assert/strict";
import { test } from "node:test";
import { UidPool } from "./uid-pool.ts";

// A range of its own, so that a box running on this machine is not in the way.
const RANGE = { first: 3_000_000_000 + (process.pid % 10_000) * 10, count: 10 };

test("UidPool: hands out each id once until it is given back, least recently used first", async () => {
  await using pool = await UidPool.lease(RANGE, 3);
  const first = [pool.acquire(), pool.acquire(), pool.acquire()];
  assert.deepEqual(first, [RANGE.first, RANGE.first + 1, RANGE.first + 2]);
  assert.throws(() => pool.acquire(), { code: "full" });
  pool.release(RANGE.first + 1);
  pool.release(RANGE.first);
  pool.release(RANGE.first);
  assert.equal(pool.inUse, 1);
  assert.equal(pool.acquire(), RANGE.first + 1);
  assert.equal(pool.acquire(), RANGE.first);
  assert.throws(() => pool.acquire(), { code: "full" });
});

test("UidPool.lease: two leases never overlap; a third finds the range taken; an ended one is free again", async () => {
  await using one = await UidPool.lease(RANGE, 5);
  const two = await UidPool.lease(RANGE, 5);
  assert.deepEqual([one.range.first, two.range.first], [RANGE.first, RANGE.first + 5]);
  await assert.rejects(UidPool.lease(RANGE, 5), { code: "sandbox-unavailable" });
  await two[Symbol.asyncDispose]();
  await two[Symbol.asyncDispose]();
  await using again = await UidPool.lease(RANGE, 5);
  assert.equal(again.range.first, RANGE.first + 5);
});

test("UidPool.lease: refuses a range smaller than what is wanted", async () => {
  await assert.rejects(UidPool.lease({ first: RANGE.first, count: 4 }, 5), { code: "sandbox-unavailable" });
});
