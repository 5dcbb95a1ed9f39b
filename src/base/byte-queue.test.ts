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
