import assert from "node:assert/strict";
import { once } from "node:events";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { drained } from "./drained.ts";

function full(): PassThrough {
  const stream = new PassThrough({ highWaterMark: 1 });
  while (stream.write("more"));
  return stream;
}

test("drained: resolves when there is room, not before, and leaves no listener", async () => {
  const stream = full();
  const before = ["drain", "close"].map((name) => stream.listenerCount(name));
  let isDrained = false;
  const waiting = drained(stream).finally(() => {
    isDrained = true;
  });
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(isDrained, false);
  stream.resume();
  await waiting;
  assert.deepEqual(
    ["drain", "close"].map((name) => stream.listenerCount(name)),
    before,
  );
});

test("drained: a stream that is closed is waited for no longer, nor one that was closed before", async () => {
  const stream = full();
  const waiting = drained(stream);
  stream.destroy();
  await waiting;
  const closed = full();
  closed.destroy();
  await once(closed, "close");
  await drained(closed);
});
