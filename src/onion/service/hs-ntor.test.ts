// Vectors: rend-spec-v3 G.1.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ProtocolError } from "../../base/errors.ts";
import { importX25519, random } from "../crypto/primitives.ts";
import { fromHex, hex } from "../fields.ts";
import { hsNtorClient, onionHopKeys, openIntroduction } from "./hs-ntor.ts";

const V = {
  authKey: "34E171E4358E501BFF21ED907E96AC6BFEF697C779D040BBAF49ACC30FC5D21F",
  encryptionKey: "8E5127A40E83AABF6493E41F142B6EE3604B85A3961CD7E38D247239AFF71979",
  encryptionSecret: "A0ED5DBF94EEB2EDB3B514E4CF6ABFF6022051CC5F103391F1970A3FCD15296A",
  subcredential: "0085D26A9DEBA252263BF0231AEAC59B17CA11BAD8A218238AD6487CBAD68B57",
  header:
    "000000000000000000000000000000000000000002002034E171E4358E501BFF21ED907E96AC6BFEF697C779D040BBAF49ACC30FC5D21F00",
  plaintext:
    "6BD364C12638DD5C3BE23D76ACA05B04E6CE932C0101000100200DE6130E4FCAC4EDDA24E21220CC3EADAE403EF6B7D11C8273AC71908DE565450300067F00000113890214F823C4F8CC085C792E0AEE0283FE00AD7520B37D0320728D5DF39B7B7077A0118A900FF4456C382F0041300ACF9C58E51C392795EF8700000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
  clientSecret: "60B4D6BF5234DCF87A4E9D7487BDF3F4A69B6729835E825CA29089CFDDA1E341",
  cell: "000000000000000000000000000000000000000002002034E171E4358E501BFF21ED907E96AC6BFEF697C779D040BBAF49ACC30FC5D21F00BF04348B46D09AED726F1D66C618FDEA1DE58E8CB8B89738D7356A0C59111D5DADBECCCB38E378304DCC179D3D9E437B452AF5702CED2CCFEC085BC02C4C175FA446525C1B9D5530563C362FDFFB802DAB8CD9EBC7A5EE17DA62E37DEEB0EB187FBB48C63298B0E83F391B7566F42ADC97C46BA7588278273A44CE96BC68FFDAE31EF5F0913B9A9C7E0F173DBC0BDDCD4ACB4C4600980A7DDD9EAEC6E7F3FA3FC37CD95E5B8BFB3E35717012B78B4930569F895CB349A07538E42309C993223AEA77EF8AEA64F25DDEE97DA623F1AEC0A47F150002150455845C385E5606E41A9A199E7111D54EF2D1A51B7554D8B3692D85AC587FB9E69DF990EFB776D8",
  serviceSecret: "68CB5188CA0CD7924250404FAB54EE1392D3D2B9C049A2E446513875952F8F55",
  handshake:
    "8FBE0DB4D4A9C7FF46701E3E0EE7FD05CD28BE4F302460ADDEEC9E93354EE7004A92E8437B8424D5E5EC279245D5C72B25A0327ACF6DAF902079FCB643D8B208",
  keySeed: "4D0C72FE8AFF35559D95ECC18EB5A36883402B28CDFD48C8A530A5A3D7D578DB",
};
const subcredential = fromHex(V.subcredential);
const keys = { authKey: fromHex(V.authKey), encryptionKey: fromHex(V.encryptionKey) };
const own = { authKey: keys.authKey, encryption: importX25519(fromHex(V.encryptionSecret)) };
const header = fromHex(V.header);
const encrypted = fromHex(V.cell).subarray(header.length);

function client() {
  return hsNtorClient(keys, subcredential, importX25519(fromHex(V.clientSecret)));
}

test("the client's message and what it makes of the answer agree with the vectors", () => {
  const sealed = client().encrypt(header, fromHex(V.plaintext));
  assert.equal(hex(sealed), hex(encrypted));
  assert.equal(hex(client().finish(fromHex(V.handshake))).toUpperCase(), V.keySeed);
});

test("the service's half agrees with the vectors, whichever subcredential fits", () => {
  const opened = openIntroduction(own, [random(32), subcredential], header, encrypted);
  assert.equal(hex(opened.plaintext).toUpperCase(), V.plaintext);
  const { handshake, keySeed } = opened.finish(importX25519(fromHex(V.serviceSecret)));
  assert.equal(hex(handshake).toUpperCase(), V.handshake);
  assert.equal(hex(keySeed).toUpperCase(), V.keySeed);
});

test("an introduction with any byte changed, or under no subcredential of ours, does not open", () => {
  const refused = ProtocolError;
  for (let at = 0; at < encrypted.length; at += 3) {
    const changed = encrypted.slice();
    changed[at] = (changed[at] ?? 0) ^ 0x20;
    assert.throws(() => openIntroduction(own, [subcredential], header, changed), refused, String(at));
  }
  for (let at = 0; at < header.length; at++) {
    const changed = header.slice();
    changed[at] = (changed[at] ?? 0) ^ 1;
    assert.throws(() => openIntroduction(own, [subcredential], changed, encrypted), refused, String(at));
  }
  assert.throws(() => openIntroduction(own, [random(32)], header, encrypted), refused);
  assert.throws(() => openIntroduction(own, [], header, encrypted), refused);
  assert.throws(() => openIntroduction(own, [subcredential], header, encrypted.subarray(0, 63)), refused);
});

test("an answer with any byte changed is no answer", () => {
  const good = fromHex(V.handshake);
  for (let at = 0; at < good.length; at++) {
    const changed = good.slice();
    changed[at] = (changed[at] ?? 0) ^ 1;
    assert.throws(() => client().finish(changed), ProtocolError, String(at));
  }
});

test("the keys of the hop: four of 32 bytes, all different", () => {
  const { forwardDigest, backwardDigest, forwardKey, backwardKey, kind } = onionHopKeys(fromHex(V.keySeed));
  const all = [forwardDigest, backwardDigest, forwardKey, backwardKey].map(hex);
  assert.equal(kind, "onion");
  assert.ok(all.every((key) => key.length === 64));
  assert.equal(new Set(all).size, 4);
});
