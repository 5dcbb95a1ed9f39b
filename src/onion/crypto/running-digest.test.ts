import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import * as fc from "fast-check";
import { random } from "./primitives.ts";
import { RunningDigest } from "./running-digest.ts";

const algorithms = ["sha1", "sha3-256"] as const;

test("is the digest of everything so far, at every point, whatever the pieces", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...algorithms),
      fc.array(fc.uint8Array({ maxLength: 600 }), { minLength: 1, maxLength: 20 }),
      (algorithm, pieces) => {
        const seed = random(20);
        const digest = new RunningDigest(algorithm, seed);
        const reference = createHash(algorithm).update(seed);
        for (const piece of pieces) {
          reference.update(piece);
          assert.deepEqual(digest.update(piece), new Uint8Array(reference.copy().digest()));
        }
      },
    ),
  );
});

test("every length around a block, as one piece", () => {
  for (const algorithm of algorithms) {
    for (let length = 0; length <= 300; length++) {
      const bytes = random(length);
      assert.deepEqual(
        new RunningDigest(algorithm, new Uint8Array(0)).update(bytes),
        new Uint8Array(createHash(algorithm).update(bytes).digest()),
        `${algorithm} of ${String(length)} bytes`,
      );
    }
  }
});

test("a wrong start changes nothing, the right one goes on; digests take turns without disturbing each other", () => {
  for (const algorithm of algorithms) {
    const reference = createHash(algorithm);
    const digest = new RunningDigest(algorithm, new Uint8Array(0));
    const other = new RunningDigest(algorithm, random(32));
    for (let turn = 0; turn < 50; turn++) {
      const cell = random(509);
      other.update(random(509));
      const expected = reference.copy().update(cell).digest();
      const wrong = Uint8Array.from(expected.subarray(0, 4), (byte, index) =>
        index === turn % 4 ? byte ^ 1 : byte,
      );
      assert.equal(digest.updateIf(cell, wrong), undefined);
      other.update(random(1));
      assert.deepEqual(digest.updateIf(cell, expected.subarray(0, 4)), new Uint8Array(expected));
      reference.update(cell);
    }
  }
});
