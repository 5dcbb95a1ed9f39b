import assert from "node:assert/strict";
import test from "node:test";
import * as fc from "fast-check";
import { untilGoodStartMs } from "./boot.ts";

test("untilGoodStartMs: after the wait, it is a good time", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1_700_000_000_000, max: 1_700_000_100_000 }), (now) => {
      const wait = untilGoodStartMs(now);
      assert.ok(wait >= 0 && wait < 5000);
      assert.equal(untilGoodStartMs(now + wait), 0);
    }),
  );
});
