import assert from "node:assert/strict";
import { test } from "node:test";
import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { equal, random, verifyEd25519 } from "../crypto/primitives.ts";
import { hex } from "../fields.ts";
import { decodeMaterial, encodeMaterial } from "./handover.ts";
import { hsMac, hsNtorClient } from "./hs-ntor.ts";
import {
  encodeEstablishIntro,
  encodePlaintext,
  exportIntroductionSecrets,
  generateIntroductionSecrets,
  importIntroductionSecrets,
  introduceHeader,
  ReplayCache,
  readIntroduction,
} from "./introduction.ts";

const subcredential = random(32);
const rendezvousPoint = {
  host: "192.0.2.9",
  port: 443,
  identity: { rsa: random(20), ed25519: random(32) },
  ntorKey: random(32),
};

function introduce(secrets = generateIntroductionSecrets(), wantsCongestionControl = true) {
  const keys = { authKey: secrets.auth.publicKey, encryptionKey: secrets.encryption.publicKey };
  const client = hsNtorClient(keys, subcredential);
  const cookie = random(20);
  const header = introduceHeader(keys.authKey);
  const plaintext = encodePlaintext({ cookie, rendezvousPoint, wantsCongestionControl });
  return { secrets, client, cookie, body: concat([header, client.encrypt(header, plaintext)]) };
}

test("an introduction opens, and its material lets a replica answer this client", () => {
  for (const wants of [true, false]) {
    const { secrets, client, cookie, body } = introduce(undefined, wants);
    const introduction = readIntroduction(body, secrets, [random(32), subcredential], new ReplayCache());
    assert.equal(JSON.stringify(introduction.rendezvousPoint), JSON.stringify(rendezvousPoint));
    assert.equal(introduction.wantsCongestionControl, wants);
    const sent = encodeMaterial(introduction.finish());
    const material = decodeMaterial(sent);
    assert.deepEqual(material.cookie, cookie);
    assert.equal(JSON.stringify(material.rendezvousPoint), JSON.stringify(rendezvousPoint));
    assert.equal(material.usesCongestionControl, wants);
    assert.ok(equal(client.finish(material.handshake), material.keySeed));
    assert.ok(sent.length < 300);
  }
});

test("the material holds no key of the introduction point or of the service", () => {
  const { secrets, body } = introduce();
  const sent = hex(
    encodeMaterial(readIntroduction(body, secrets, [subcredential], new ReplayCache()).finish()),
  );
  const all = hex(exportIntroductionSecrets(secrets));
  for (const secret of [all.slice(0, 64), all.slice(64), hex(subcredential), hex(secrets.auth.publicKey)])
    assert.ok(!sent.includes(secret));
});

test("material is read strictly", () => {
  const { secrets, body } = introduce();
  const sent = encodeMaterial(readIntroduction(body, secrets, [subcredential], new ReplayCache()).finish());
  for (let length = 0; length < sent.length; length++)
    assert.throws(() => decodeMaterial(sent.subarray(0, length)), ProtocolError);
  assert.throws(() => decodeMaterial(concat([sent, random(1)])), ProtocolError);
  for (const [at, value] of [
    [0, 2],
    [1, 2],
  ] as const) {
    const changed = sent.slice();
    changed[at] = value;
    assert.throws(() => decodeMaterial(changed), { code: "onion-handover" });
  }
});

test("a replayed introduction is refused, also after others; a new one is not", () => {
  const { secrets, body } = introduce();
  const replays = new ReplayCache();
  readIntroduction(body, secrets, [subcredential], replays);
  readIntroduction(introduce(secrets).body, secrets, [subcredential], replays);
  assert.throws(() => readIntroduction(body, secrets, [subcredential], replays), { code: "onion-replay" });
  readIntroduction(body, secrets, [subcredential], new ReplayCache());
});

test("a replay cache takes as many as it may, then nothing; what does not open takes no place", () => {
  const secrets = generateIntroductionSecrets();
  const replays = new ReplayCache({ entriesMax: 2 });
  const garbage = introduce(secrets).body;
  garbage[garbage.length - 1] = (garbage.at(-1) ?? 0) ^ 1;
  assert.throws(() => readIntroduction(garbage, secrets, [subcredential], replays), {
    code: "onion-introduction",
  });
  readIntroduction(introduce(secrets).body, secrets, [subcredential], replays);
  assert.equal(replays.isFull, false);
  readIntroduction(introduce(secrets).body, secrets, [subcredential], replays);
  assert.equal(replays.isFull, true);
  assert.throws(() => readIntroduction(introduce(secrets).body, secrets, [subcredential], replays), {
    code: "onion-replay-full",
  });
});

test("introductions for another point, of the old kind, or cut are refused", () => {
  const { secrets, body } = introduce();
  const read = (changed: Uint8Array, own = secrets) =>
    readIntroduction(changed, own, [subcredential], new ReplayCache());
  assert.throws(() => read(body, generateIntroductionSecrets()), { code: "onion-introduction" });
  const old = body.slice();
  old[3] = 1;
  assert.throws(() => read(old), { code: "onion-introduction" });
  for (let length = 0; length < body.length; length += 5)
    assert.throws(() => read(body.subarray(0, length)), ProtocolError);
});

test("ESTABLISH_INTRO: tied to the circuit, signed by the point's key", () => {
  const secrets = generateIntroductionSecrets();
  const nonce = random(20);
  const body = encodeEstablishIntro(secrets, nonce);
  assert.equal(body.length, 1 + 2 + 32 + 1 + 32 + 2 + 64);
  assert.ok(equal(body.subarray(36, 68), hsMac(nonce, body.subarray(0, 36))));
  const signed = concat([utf8("Tor establish-intro cell v1"), body.subarray(0, 68)]);
  assert.ok(verifyEd25519(secrets.auth.publicKey, signed, body.subarray(70)));
});

test("an introduction point's keys survive a restart, and a move to a standby", () => {
  const secrets = generateIntroductionSecrets();
  const restored = importIntroductionSecrets(exportIntroductionSecrets(secrets));
  assert.deepEqual(restored.auth.publicKey, secrets.auth.publicKey);
  readIntroduction(introduce(secrets).body, restored, [subcredential], new ReplayCache());
});
