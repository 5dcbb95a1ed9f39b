import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { Keystream } from "./keystream.ts";
import { aesCtr, random } from "./primitives.ts";

test("is AES in counter mode, whatever the pieces, wherever they lie in memory", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(16, 32),
      fc.array(fc.tuple(fc.integer({ min: 0, max: 3000 }), fc.integer({ min: 0, max: 7 })), {
        maxLength: 40,
      }),
      (keyBytes, pieces) => {
        const key = random(keyBytes);
        const stream = new Keystream(key);
        const reference = aesCtr(key);
        for (const [length, offset] of pieces) {
          const around = random(offset + length + 4);
          const plain = around.slice();
          const bytes = around.subarray(offset, offset + length);
          const expected = reference.update(bytes);
          stream.xor(bytes);
          assert.deepEqual(bytes, new Uint8Array(expected));
          // Nothing beside it was touched.
          assert.deepEqual(around.subarray(0, offset), plain.subarray(0, offset));
          assert.deepEqual(around.subarray(offset + length), plain.subarray(offset + length));
        }
      },
    ),
  );
});

test("streams that take turns do not disturb each other", () => {
  const keys = [random(16), random(32)];
  const streams = keys.map((key) => new Keystream(key));
  const references = keys.map((key) => aesCtr(key));
  for (let turn = 0; turn < 50; turn++) {
    const index = turn % 2;
    const bytes = random(509);
    const expected = references[index]?.update(bytes);
    streams[index]?.xor(bytes);
    assert.deepEqual(bytes, expected && new Uint8Array(expected));
  }
});

test("counts from zero: the encryption of 0, 1, 2, ... (tor-spec 0.3), as FIPS 197 gives it for the zero key", () => {
  const bytes = new Uint8Array(32);
  new Keystream(new Uint8Array(16)).xor(bytes);
  assert.equal(Buffer.from(bytes.subarray(0, 16)).toString("hex"), "66e94bd4ef8a2c3b884cfa59ca342b2e");
  assert.equal(Buffer.from(bytes.subarray(16)).toString("hex"), "58e2fccefa7e3061367f1d57a4e7455a");
});
