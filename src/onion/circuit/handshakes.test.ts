// The three handshakes with a relay. Vectors: proposal 332 X.2.

import assert from "node:assert/strict";
import { test } from "node:test";
import { concat, fromUtf8, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import {
  aesCtr,
  generateX25519,
  importX25519,
  random,
  sha3,
  shake256,
  type X25519Key,
  x25519,
} from "../crypto/primitives.ts";
import { fromHex, hex, u64 } from "../fields.ts";
import { createFast, kdfTor } from "./create-fast.ts";
import { ntorDerive, ntorHandshake } from "./ntor.ts";
import { ntorV3Client, ntorV3Handshake } from "./ntor-v3.ts";

const V3 = {
  b: "4051daa5921cfa2a1c27b08451324919538e79e788a81b38cbed097a5dff454a",
  B: "f8307a2bc1870b00b828bb74dbb8fd88e632a6375ab3bcd1ae706aaa8b6cdd1d",
  id: "9fad2af287ef942632833d21f946c6260c33fae6172b60006e86e4a6911753a2",
  x: "b825a3719147bcbe5fb1d0b0fcb9c09e51948048e2e3283d2ab7b45b5ef38b49",
  clientMessage: "68656c6c6f20776f726c64",
  verification: "78797a7a79",
  serverMessage: "486f6c61204d756e646f",
  clientHandshake:
    "9fad2af287ef942632833d21f946c6260c33fae6172b60006e86e4a6911753a2f8307a2bc1870b00b828bb74dbb8fd88e632a6375ab3bcd1ae706aaa8b6cdd1d252fe9ae91264c91d4ecb8501f79d0387e34ad8ca0f7c995184f7d11d5da4f463bebd9151fd3b47c180abc9e044d53565f04d82bbb3bebed3d06cea65db8be9c72b68cd461942088502f67",
  serverHandshake:
    "4bf4814326fdab45ad5184f5518bd7fae25dc59374062698201a50a22954246d2fc5f8773ca824542bc6cf6f57c7c29bbf4e5476461ab130c5b18ab0a91276651202c3e1e87c0d32054c",
  keystream:
    "9c19b631fd94ed86a817e01f6c80b0743a43f5faebd39cfaa8b00fa8bcc65c3bfeaa403d91acbd68a821bf6ee8504602b094a254392a07737d5662768c7a9fb1b2814bb34780eaee6e867c773e28c212ead563e98a1cd5d5b4576f5ee61c59bde025ff2851bb19b721421694f263818e3531e43a9e4e3e2c661e2ad547d8984caa28ebecd3e4525452299be26b9185a20a90ce1eac20a91f2832d731b54502b09749b5a2a2949292f8cfcbeffb790c7790ed935a9d251e7e336148ea83b063a5618fcff674a44581585fd22077ca0e52c59a24347a38d1a1ceebddbf238541f226b8f88d0fb9c07a1bcd2ea764bbbb5dacdaf5312a14c0b9e4f06309b0333b4a",
};

test("ntor-v3 agrees with the vectors of proposal 332, both ways", () => {
  const client = ntorV3Client(
    { ed25519: fromHex(V3.id), ntorKey: fromHex(V3.B) },
    fromHex(V3.clientMessage),
    fromHex(V3.verification),
    importX25519(fromHex(V3.x)),
  );
  assert.equal(hex(client.body), V3.clientHandshake);
  const { message, keystream } = client.finish(fromHex(V3.serverHandshake), 256);
  assert.equal(hex(message), V3.serverMessage);
  assert.equal(hex(keystream), V3.keystream);
});

test("ntor-v3 refuses a reply with any bit changed, cut or of small order", () => {
  const finish = (reply: Uint8Array) =>
    ntorV3Client(
      { ed25519: fromHex(V3.id), ntorKey: fromHex(V3.B) },
      fromHex(V3.clientMessage),
      fromHex(V3.verification),
      importX25519(fromHex(V3.x)),
    ).finish(reply, 32);
  const good = fromHex(V3.serverHandshake);
  for (let at = 0; at < good.length; at++) {
    const changed = good.slice();
    changed[at] = (changed[at] ?? 0) ^ 1;
    assert.throws(() => finish(changed), ProtocolError, `byte ${String(at)}`);
  }
  assert.throws(() => finish(good.subarray(0, 63)), { code: "onion-format" });
  assert.throws(() => finish(concat([new Uint8Array(32), good.subarray(32)])), { code: "onion-crypto" });
});

/** A relay's half of ntor-v3, for the negotiation. */
function v3Reply(
  body: Uint8Array,
  b: X25519Key,
  serverMessage: Uint8Array,
  verification: Uint8Array,
): Uint8Array {
  const PROTO = utf8("ntor3-curve25519-sha3_256-1");
  const encap = (bytes: Uint8Array) => concat([u64(bytes.length), bytes]);
  const tweak = (name: string) => encap(concat([PROTO, utf8(`:${name}`)]));
  const [id, B, X] = [body.subarray(0, 32), body.subarray(32, 64), body.subarray(64, 96)];
  const mac = body.subarray(body.length - 32);
  const y = generateX25519();
  const secret = concat([x25519(y, X), x25519(b, X), id, B, X, y.publicKey, PROTO, encap(verification)]);
  const raw = shake256(64, tweak("kdf_final"), sha3(tweak("key_seed"), secret));
  const sealed = aesCtr(raw.subarray(0, 32)).update(serverMessage);
  const auth = sha3(
    tweak("auth_final"),
    concat([sha3(tweak("verify"), secret), id, B, y.publicKey, X, mac, encap(sealed), PROTO, utf8("Server")]),
  );
  return concat([y.publicKey, auth, sealed]);
}

test("congestion control is agreed only when asked for, and only near our own view", () => {
  const b = generateX25519();
  const answer = (wanted: number | undefined, message: readonly number[]) => {
    const handshake = ntorV3Handshake({ ed25519: random(32), ntorKey: b.publicKey }, wanted);
    const reply = v3Reply(handshake.body, b, Uint8Array.from(message), utf8("circuit extend"));
    return handshake.finish(reply).sendmeIncrement;
  };
  assert.equal(answer(31, [1, 2, 1, 31]), 31);
  assert.equal(answer(31, [2, 9, 2, 0, 0, 2, 1, 16]), 16, "unknown extensions are ignored");
  assert.equal(answer(31, [1, 2, 1, 62]), 62);
  assert.equal(answer(31, [0]), undefined);
  assert.equal(answer(undefined, [0]), undefined);
  for (const refused of [
    [1, 2, 1, 15],
    [1, 2, 1, 63],
    [1, 2, 1, 0],
    [1, 2, 2, 31, 0],
  ])
    assert.throws(() => answer(31, refused), { code: "onion-handshake" });
  assert.throws(() => answer(undefined, [1, 2, 1, 31]), { code: "onion-handshake" });
  assert.throws(() => answer(31, [1, 2, 5]), { code: "onion-format" });
});

test("ntor: both sides get the same keys; a changed reply or another relay's key does not pass", () => {
  const b = generateX25519();
  const relay = { rsa: random(20), ntorKey: b.publicKey };
  const handshake = ntorHandshake(relay);
  assert.deepEqual(handshake.body.subarray(0, 52), concat([relay.rsa, relay.ntorKey]));
  const X = handshake.body.subarray(52);
  const y = generateX25519();
  const { material, expected } = ntorDerive(concat([x25519(y, X), x25519(b, X)]), relay, X, y.publicKey);
  const reply = concat([y.publicKey, expected]);
  const { keys } = handshake.finish(reply);
  assert.deepEqual(keys.forwardDigest, material.subarray(0, 20));
  assert.deepEqual(keys.nonce, material.subarray(72));
  for (let at = 0; at < reply.length; at++) {
    const changed = reply.slice();
    changed[at] = (changed[at] ?? 0) ^ 0x10;
    assert.throws(() => handshake.finish(changed), ProtocolError, `byte ${String(at)}`);
  }
  assert.throws(() => handshake.finish(concat([new Uint8Array(32), expected])), { code: "onion-crypto" });
  const wrong = generateX25519();
  const other = ntorDerive(concat([x25519(y, X), x25519(wrong, X)]), relay, X, y.publicKey);
  assert.throws(() => handshake.finish(concat([y.publicKey, other.expected])), { code: "onion-handshake" });
});

test("CREATE_FAST: the check value is checked", () => {
  const own = random(20);
  const theirs = random(20);
  const { expected, material } = kdfTor(concat([own, theirs]));
  const { keys } = createFast(own).finish(concat([theirs, expected, new Uint8Array(469)]));
  assert.deepEqual(keys.backwardKey, material.subarray(56, 72));
  assert.throws(() => createFast(own).finish(concat([theirs, random(20)])), { code: "onion-handshake" });
  assert.throws(() => createFast(own).finish(theirs), { code: "onion-format" });
  assert.equal(fromUtf8(fromHex(V3.clientMessage)), "hello world");
});
