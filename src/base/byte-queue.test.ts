import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { ByteQueue } from "./byte-queue.ts";
import { concat } from "./bytes.ts";

test("ByteQueue: any chunks come out in any pieces as the same bytes", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 20 })), fc.array(fc.nat(30)), (chunks, counts) => {
      const queue = new ByteQueue();
      for (const chunk of chunks) queue.push(chunk);
      const all = concat(chunks);
      let at = 0;
      for (const count of counts) {
        const peeked = queue.peek(count);
        const taken = queue.take(count);
        assert.deepEqual(taken, peeked);
        assert.equal(taken === undefined, at + count > all.length);
        if (!taken) continue;
        assert.deepEqual([...taken], [...all.subarray(at, at + count)]);
        at += count;
      }
      assert.equal(queue.length, all.length - at);
    }),
  );
});

test("ByteQueue: from any byte on, views give what is held there, and what was dropped is not", () => {
  const chunks = fc.array(fc.uint8Array({ maxLength: 20 }));
  fc.assert(
    fc.property(chunks, fc.nat(200), fc.nat(200), (chunks, dropped, offset) => {
      const queue = new ByteQueue();
      for (const chunk of chunks) queue.push(chunk);
      const all = concat(chunks);
      if (dropped > all.length) {
        assert.throws(() => queue.drop(dropped), RangeError);
        dropped = 0;
      }
      queue.drop(dropped);
      assert.equal(queue.length, all.length - dropped);
      const seen: number[] = [];
      let at = offset;
      for (let view = queue.viewFrom(at); view; view = queue.viewFrom(at)) {
        assert.ok(view.length > 0);
        seen.push(...view);
        at += view.length;
      }
      assert.deepEqual(seen, [...all.subarray(dropped + offset)]);
      assert.equal(queue.length, all.length - dropped, "looking takes nothing");
    }),
  );
});

test("ByteQueue: neither more than is held nor less than nothing", () => {
  const queue = new ByteQueue();
  queue.push(Uint8Array.of(1, 2, 3));
  for (const count of [4, -1, Number.NaN]) assert.throws(() => queue.drop(count), RangeError);
  for (const offset of [-1, Number.NaN]) assert.throws(() => queue.viewFrom(offset), RangeError);
  assert.equal(queue.viewFrom(3), undefined);
  queue.drop(3);
  assert.deepEqual([queue.length, queue.viewFrom(0)], [0, undefined]);
});
