import assert from "node:assert/strict";
import { test } from "node:test";
import { ShardSink } from "./shard-sink.ts";

const record = (value: number, length = 10) => new Uint8Array(length).fill(value);

test("ShardSink: waits at its bound, goes on when records are confirmed, and ends at its size", async () => {
  const sink = new ShardSink(40, 20);
  await sink.push(record(1));
  await sink.push(record(2));
  let pushed = false;
  const third = (async () => {
    await sink.push(record(3));
    pushed = true;
  })();
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(pushed, false, "20 of 20 bytes are held");
  sink.confirm(9);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(pushed, false, "11 of 20 bytes are held: one too many");
  sink.confirm(10);
  await third;
  const reader = sink.read(10);
  assert.deepEqual((await reader.next()).value, record(2));
  assert.deepEqual((await reader.next()).value, record(3));
  sink.confirm(30);
  await sink.push(record(4));
  assert.deepEqual((await reader.next()).value, record(4));
  assert.equal((await reader.next()).done, true);
});

test("ShardSink: read again from the middle of what is not confirmed, never from before it", async () => {
  const sink = new ShardSink(30, 100);
  for (const value of [1, 2, 3]) await sink.push(record(value));
  sink.confirm(10);
  const again = sink.read(15);
  assert.deepEqual((await again.next()).value, record(2, 5));
  assert.deepEqual((await again.next()).value, record(3));
  await assert.rejects(sink.read(5).next(), /lost what it had confirmed/);
});

test("ShardSink: one that failed holds nobody up", async () => {
  const sink = new ShardSink(1000, 10);
  await sink.push(record(1));
  const waiting = sink.push(record(2));
  const reading = sink.read(10).next();
  sink.fail();
  await waiting;
  await sink.push(record(3));
  assert.equal((await reading).done, true);
});
