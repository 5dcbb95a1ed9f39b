import assert from "node:assert/strict";
import { test } from "node:test";
import {
  AUTHORIZED,
  CLIENT_SECRET,
  DESCRIPTOR_TIME_MS,
  OPEN,
} from "../../../test/vectors/onion-descriptor.ts";
import { utf8 } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import { blindKey, ed25519FromX25519, generateExpandedKey } from "../crypto/blinding.ts";
import { parseCertificate } from "../crypto/ed25519-certificate.ts";
import {
  generateEd25519,
  generateX25519,
  importX25519,
  random,
  type X25519Key,
} from "../crypto/primitives.ts";
import { documentText, readItems } from "../directory/document.ts";
import { fromBase64, fromHex, hex } from "../fields.ts";
import { AUTHORIZED_CLIENTS_MAX, DESCRIPTOR_BYTES_MAX, INTRODUCTION_POINTS_MAX } from "../limits.ts";
import { subcredentialOf } from "./credentials.ts";
import { encodeDescriptor, openDescriptor } from "./descriptor.ts";
import { type DescriptorContent, encodeContent, parseContent } from "./descriptor-content.ts";
import { openLayer, sealLayer } from "./descriptor-layer.ts";
import { onionAddress, readOnionAddress } from "./onion-address.ts";

const nowMs = 1_700_000_000_000;

function contentWith(points: number): DescriptorContent {
  return {
    introductionPoints: Array.from({ length: points }, () => ({
      relay: {
        host: "192.0.2.7",
        port: 9001,
        identity: { rsa: random(20), ed25519: random(32) },
        ntorKey: random(32),
      },
      authKey: generateEd25519().publicKey,
      encryptionKey: generateX25519().publicKey,
    })),
    sendmeIncrement: 31,
    isSingle: false,
  };
}

function service() {
  const identity = generateExpandedKey();
  const blinded = blindKey(identity, { number: 19_000, minutes: 1440 });
  const subcredential = subcredentialOf(identity.publicKey, blinded.publicKey);
  return { blinded, subcredential };
}

function plain(content: DescriptorContent): string {
  return JSON.stringify(content, (_, value: unknown) => (value instanceof Uint8Array ? hex(value) : value));
}

test("descriptors of C tor open: for everybody, and for the one client that is authorized", () => {
  const open = (vector: typeof OPEN, client?: X25519Key) => {
    const blindedKey = fromHex(vector.blindedKey);
    const subcredential = subcredentialOf(readOnionAddress(vector.address), blindedKey);
    return openDescriptor(vector.document, { blindedKey, subcredential, client, nowMs: DESCRIPTOR_TIME_MS });
  };
  for (const { content } of [open(OPEN), open(AUTHORIZED, importX25519(fromHex(CLIENT_SECRET)))]) {
    assert.equal(content.introductionPoints.length, 3);
    assert.equal(content.sendmeIncrement, 31);
    assert.equal(content.isSingle, false);
    assert.match(content.introductionPoints[0]?.relay.host ?? "", /^127\./u);
  }
  for (const client of [undefined, generateX25519()])
    assert.throws(() => open(AUTHORIZED, client), { code: "onion-not-authorized" });
});

test("the certificate of an encryption key is C tor's: its Ed25519 form", () => {
  const signing = generateEd25519();
  const text = documentText(encodeContent(contentWith(1), signing, nowMs));
  const items = [...readItems(text)];
  const key = fromBase64(items.find(({ keyword }) => keyword === "enc-key")?.args[1] ?? "");
  const certificate = parseCertificate(
    items.find(({ keyword }) => keyword === "enc-key-cert")?.object?.bytes ?? key,
  );
  assert.equal(hex(certificate.certified), hex(ed25519FromX25519(key)));
});

test("what a service writes, a client reads; with authorization only those who have it", () => {
  const { blinded, subcredential } = service();
  const content = contentWith(3);
  const trust = { blindedKey: blinded.publicKey, subcredential, nowMs };
  const open = encodeDescriptor({ blinded, subcredential, revision: 5, content, nowMs });
  const read = openDescriptor(open, trust);
  assert.equal(plain(read.content), plain(content));
  assert.equal(read.revision, 5);
  assert.equal(plain(openDescriptor(open, { ...trust, client: generateX25519() }).content), plain(content));

  const [alice, bob, eve] = [generateX25519(), generateX25519(), generateX25519()];
  const clients = [alice.publicKey, bob.publicKey];
  const closed = encodeDescriptor({ blinded, subcredential, revision: 6, content, clients, nowMs });
  for (const client of [alice, bob])
    assert.equal(plain(openDescriptor(closed, { ...trust, client }).content), plain(content));
  for (const client of [eve, undefined])
    assert.throws(() => openDescriptor(closed, { ...trust, client }), { code: "onion-not-authorized" });
  assert.equal(closed.length, open.length, "its length does not tell whether clients are authorized");
});

test("a descriptor of another key, another period, another time or with a byte changed is refused", () => {
  const { blinded, subcredential } = service();
  const document = encodeDescriptor({ blinded, subcredential, revision: 5, content: contentWith(3), nowMs });
  const trust = { blindedKey: blinded.publicKey, subcredential, nowMs };
  assert.throws(
    () => openDescriptor(document, { ...trust, blindedKey: service().blinded.publicKey }),
    BentoError,
  );
  assert.throws(() => openDescriptor(document, { ...trust, subcredential: random(32) }), BentoError);
  assert.throws(() => openDescriptor(document, { ...trust, nowMs: nowMs + 100 * 3_600_000 }), BentoError);
  let accepted = 0;
  for (let at = 0; at < document.length; at += 41) {
    const changed = document.slice();
    changed[at] = (changed[at] ?? 0) ^ 1;
    try {
      openDescriptor(changed, trust);
      accepted++;
    } catch (error) {
      assert.ok(error instanceof BentoError, String(error));
    }
  }
  assert.equal(accepted, 0);
  assert.throws(() => openDescriptor(utf8(`${documentText(document)}more\n`), trust), BentoError);
});

test("limits: clients, introduction points, bytes", () => {
  const { blinded, subcredential } = service();
  const make = (points: number, clients: number) =>
    encodeDescriptor({
      blinded,
      subcredential,
      revision: 1,
      content: contentWith(points),
      clients: Array.from({ length: clients }, () => generateX25519().publicKey),
      nowMs,
    });
  assert.ok(make(3, AUTHORIZED_CLIENTS_MAX).length <= DESCRIPTOR_BYTES_MAX);
  assert.throws(() => make(3, AUTHORIZED_CLIENTS_MAX + 1), { code: "onion-descriptor" });
  assert.ok(make(INTRODUCTION_POINTS_MAX, 0).length <= DESCRIPTOR_BYTES_MAX);
  assert.throws(() => make(INTRODUCTION_POINTS_MAX + 1, 0), { code: "onion-descriptor" });
  const trust = { blindedKey: blinded.publicKey, subcredential, nowMs };
  assert.throws(() => openDescriptor(new Uint8Array(DESCRIPTOR_BYTES_MAX + 1), trust), {
    code: "onion-descriptor",
  });
  const text = documentText(encodeContent(contentWith(1), generateEd25519(), nowMs));
  const point = text.slice(text.indexOf("introduction-point"));
  const many = (count: number) => parseContent(utf8(`create2-formats 2\n${point.repeat(count)}`));
  assert.equal(many(INTRODUCTION_POINTS_MAX).introductionPoints.length, INTRODUCTION_POINTS_MAX);
  assert.throws(() => many(INTRODUCTION_POINTS_MAX + 1), { code: "onion-descriptor" });
});

test("content: unknown lines are skipped, what is needed is needed", () => {
  const text = documentText(encodeContent(contentWith(2), generateEd25519(), nowMs));
  assert.equal(
    parseContent(utf8(text.replaceAll("onion-key", "future-line 1\nonion-key"))).introductionPoints.length,
    2,
  );
  for (const keyword of ["create2-formats", "onion-key ntor", "auth-key", "enc-key ntor"])
    assert.throws(() => parseContent(utf8(text.replaceAll(keyword, "x"))), BentoError, keyword);
  const flow = (line: string) =>
    parseContent(utf8(text.replace(/flow-control [^\n]*/u, line))).sendmeIncrement;
  assert.deepEqual(
    [
      "flow-control 1-2 31",
      "flow-control 1 31",
      "flow-control 2-3 7",
      "flow-control 1-2 0",
      "flow-control 1-2 256",
      "x",
    ].map(flow),
    [31, undefined, 7, undefined, undefined, undefined],
  );
});

test("a layer opens with its own secrets only", () => {
  const secrets = {
    name: "hsdir-encrypted-data",
    secretData: random(32),
    subcredential: random(32),
    revision: 3,
  } as const;
  const sealed = sealLayer(secrets, utf8("text"));
  assert.equal(documentText(openLayer(secrets, sealed)), "text");
  for (const change of [
    { name: "hsdir-superencrypted-data" },
    { secretData: random(32) },
    { subcredential: random(32) },
    { revision: 4 },
  ] as const)
    assert.throws(() => openLayer({ ...secrets, ...change }, sealed), { code: "onion-descriptor" });
  assert.throws(() => openLayer(secrets, sealed.subarray(0, 47)), { code: "onion-descriptor" });
});

test("onion addresses", () => {
  const { publicKey } = generateExpandedKey();
  const address = onionAddress(publicKey);
  assert.match(address, /^[a-z2-7]{56}\.onion$/u);
  assert.deepEqual(readOnionAddress(address.toUpperCase()), publicKey);
  assert.deepEqual(readOnionAddress(address.slice(0, 56)), publicKey);
  assert.equal(onionAddress(readOnionAddress(OPEN.address)), OPEN.address);
  const mistyped = `${address[0] === "a" ? "b" : "a"}${address.slice(1)}`;
  for (const bad of [mistyped, address.slice(1), "", "x.onion", `a.${address}`])
    assert.throws(() => readOnionAddress(bad), { code: "onion-address" });
});
