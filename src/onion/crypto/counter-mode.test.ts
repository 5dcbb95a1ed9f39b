import assert from "node:assert/strict";
import { createCipheriv } from "node:crypto";
import { test } from "node:test";
import * as fc from "fast-check";
import { counterMode } from "./counter-mode.ts";

function blockCipher(key: Uint8Array) {
  const cipher = createCipheriv(key.length === 16 ? "aes-128-ecb" : "aes-256-ecb", key, null);
  cipher.setAutoPadding(false);
  return (blocks: Uint8Array) => cipher.update(blocks);
}

// NIST SP 800-38A, F.5.1 and F.5.5: CTR-AES128 and CTR-AES256, first block.
test("counterMode: the examples of the specification", () => {
  const iv = Buffer.from("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", "hex");
  const plain = Buffer.from("6bc1bee22e409f96e93d7e117393172a", "hex");
  for (const [key, encrypted] of [
    ["2b7e151628aed2a6abf7158809cf4f3c", "874d6191b620e3261bef6864990db6ce"],
    ["603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", "601ec313775789a5b7a7f504bbf3d228"],
  ] as const)
    assert.equal(
      Buffer.from(counterMode(blockCipher(Buffer.from(key, "hex")), iv).update(plain)).toString("hex"),
      encrypted,
    );
});

test("counterMode: as the library's, however the bytes are cut and wherever they lie; counters carry into all words", () => {
  const iv = fc.oneof(
    fc.uint8Array({ minLength: 16, maxLength: 16 }),
    // About to carry, by so many blocks, into so many bytes.
    fc
      .record({ ones: fc.integer({ min: 1, max: 16 }), left: fc.integer({ min: 0, max: 99 }) })
      .map(({ ones, left }) => {
        const bytes = new Uint8Array(16).fill(0xff, 16 - ones);
        bytes[15] = 0xff - left;
        return bytes;
      }),
  );
  const cuts = fc.array(fc.record({ length: fc.nat(2100), offset: fc.nat(3) }), { maxLength: 8 });
  fc.assert(
    fc.property(fc.constantFrom(16, 32), iv, cuts, (keyBytes, first, lengths) => {
      const key = new Uint8Array(keyBytes).fill(7);
      const ours = counterMode(blockCipher(key), first);
      const theirs = createCipheriv(keyBytes === 16 ? "aes-128-ctr" : "aes-256-ctr", key, first);
      for (const { length, offset } of lengths) {
        const bytes = new Uint8Array(length + offset).map((_, index) => index * 31).subarray(offset);
        assert.deepEqual(ours.update(bytes), new Uint8Array(theirs.update(bytes)));
      }
    }),
  );
});
