import assert from "node:assert/strict";
import { test } from "node:test";
import { AUTHORIZED, OPEN } from "../../../test/vectors/onion-descriptor.ts";
import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { fromHex, hex } from "../fields.ts";
import {
  blindKey,
  blindPublicKey,
  expandKey,
  generateExpandedKey,
  readExpandedKey,
  signExpanded,
  writeExpandedKey,
} from "./blinding.ts";
import { exportEd25519, generateEd25519, random, signEd25519, verifyEd25519 } from "./primitives.ts";

test("blinded keys are those of C tor", () => {
  for (const { key, period, blindedKey } of [OPEN, AUTHORIZED]) {
    const identity = readExpandedKey(Buffer.from(key, "base64"));
    assert.equal(hex(blindKey(identity, period).publicKey), blindedKey);
    assert.equal(hex(blindPublicKey(identity.publicKey, period)), blindedKey);
    const other = { ...period, number: period.number + 1 };
    assert.notEqual(hex(blindPublicKey(identity.publicKey, other)), blindedKey);
  }
});

test("signatures with blinded keys are ordinary Ed25519 signatures", () => {
  const message = utf8("message");
  for (let period = 0; period < 5; period++) {
    const blinded = blindKey(generateExpandedKey(), { number: period, minutes: 1440 });
    const signature = signExpanded(blinded, message);
    assert.ok(verifyEd25519(blinded.publicKey, message, signature));
    assert.ok(!verifyEd25519(blinded.publicKey, utf8("messagf"), signature));
  }
});

test("an expanded seed signs as the seed does", () => {
  const key = generateEd25519();
  const expanded = expandKey(exportEd25519(key));
  assert.deepEqual(expanded.publicKey, key.publicKey);
  assert.equal(hex(signExpanded(expanded, utf8("x"))), hex(signEd25519(key, utf8("x"))));
});

test("key files of C tor are read and written; others are refused", () => {
  const key = generateExpandedKey();
  const file = writeExpandedKey(key);
  assert.equal(file.length, 96);
  assert.deepEqual(readExpandedKey(file), key);
  assert.deepEqual(readExpandedKey(file.subarray(32)), key);
  for (const bad of [
    file.subarray(0, 95),
    concat([file, random(1)]),
    concat([random(32), file.subarray(32)]),
  ])
    assert.throws(() => readExpandedKey(bad), { code: "onion-key" });
});

test("keys off the curve or with a small-order part are refused", () => {
  const period = { number: 1, minutes: 1440 };
  const smallOrder = fromHex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05");
  for (const bad of [
    new Uint8Array(32),
    new Uint8Array(32).fill(2),
    new Uint8Array(32).fill(0xff),
    smallOrder,
  ])
    assert.throws(() => blindPublicKey(bad, period), ProtocolError);
});
