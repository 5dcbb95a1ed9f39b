// Directory documents against what real authorities signed, and against tampering.

import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import {
  AUTHORITIES,
  CERTIFICATES,
  CONSENSUS,
  DIRECTORY_TIME_MS,
  MICRODESCRIPTORS,
} from "../../../test/vectors/onion-directory.ts";
import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { CONSENSUS_BYTES_MAX, MICRODESCRIPTOR_BYTES_MAX } from "../limits.ts";
import { parseAuthorityCertificates } from "./authority-certificate.ts";
import { parseConsensus, supports, verifyConsensus } from "./consensus.ts";
import { parseAnswer } from "./directory-client.ts";
import { documentText, readItems } from "./document.ts";
import { letsOut, parseMicrodescriptor, parseMicrodescriptors } from "./microdescriptor.ts";
import { Network } from "./network.ts";

const certificates = parseAuthorityCertificates(CERTIFICATES);
const trust = { authorities: AUTHORITIES, certificates, nowMs: DIRECTORY_TIME_MS };
const text = documentText(CONSENSUS);

function consensusOf(changed: string) {
  return parseConsensus(Buffer.from(changed, "latin1"));
}

test("a real consensus is read and its signatures count", () => {
  const consensus = parseConsensus(CONSENSUS);
  verifyConsensus(consensus, trust);
  assert.equal(consensus.relays.length, 9);
  assert.equal(consensus.signatures.length, 3);
  assert.equal(consensus.freshUntilMs - consensus.validAfterMs, 20_000);
  assert.equal(consensus.weights.get("Wgd"), 3333);
  assert.equal(consensus.sharedRandom.current?.length, 32);
  const exit = consensus.relays.find(({ nickname }) => nickname === "e0");
  assert.ok(exit);
  assert.ok(exit.flags.has("Exit"));
  assert.ok(supports(exit, "FlowCtrl", 2));
  assert.equal(supports(exit, "FlowCtrl", 3), false);
  assert.equal(supports(exit, "Nonsense", 1), false);
});

test("more than half of the known authorities must have signed, each once, with a key of today", () => {
  const consensus = parseConsensus(CONSENSUS);
  const [one, two] = consensus.signatures;
  assert.ok(one && two);
  const refused = { code: "onion-consensus" };
  verifyConsensus({ ...consensus, signatures: [one, two] }, trust);
  assert.throws(() => {
    verifyConsensus({ ...consensus, signatures: [one] }, trust);
  }, refused);
  assert.throws(() => {
    verifyConsensus({ ...consensus, signatures: [one, one, one] }, trust);
  }, refused);
  assert.throws(() => {
    verifyConsensus(consensus, { ...trust, authorities: [] });
  }, refused);
  const strangers = ["aa", "bb"].map((byte) => ({ identity: byte.repeat(20) }));
  assert.throws(
    () => {
      verifyConsensus(consensus, {
        ...trust,
        authorities: [...AUTHORITIES, ...strangers, { identity: "cc".repeat(20) }],
      });
    },
    refused,
    "3 of 6 is not more than half",
  );
  verifyConsensus(consensus, { ...trust, authorities: [...AUTHORITIES, ...strangers] });
  assert.throws(() => {
    verifyConsensus(consensus, { ...trust, certificates: certificates.slice(0, 1) });
  }, refused);
  const expired = certificates.map((one) => ({ ...one, expiresMs: DIRECTORY_TIME_MS - 1 }));
  assert.throws(() => {
    verifyConsensus(consensus, { ...trust, certificates: expired });
  }, refused);
});

test("a consensus is of now", () => {
  const consensus = parseConsensus(CONSENSUS);
  for (const nowMs of [consensus.validUntilMs + 1, consensus.validAfterMs - 120_000, Number.NaN])
    assert.throws(() => {
      verifyConsensus(consensus, { ...trust, nowMs });
    }, /not of now/u);
  verifyConsensus(consensus, { ...trust, nowMs: consensus.validUntilMs + 1000, staleMsMax: 1000 });
});

test("no byte of what is signed can be changed", () => {
  const end = text.indexOf("directory-signature ") + "directory-signature ".length;
  fc.assert(
    fc.property(fc.nat(end - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const changed = Uint8Array.from(CONSENSUS);
      changed[at] = (changed[at] ?? 0) ^ flip;
      assert.throws(() => {
        verifyConsensus(parseConsensus(changed), trust);
      }, ProtocolError);
    }),
  );
});

test("what is appended or put before does not count", () => {
  const relay = /^r [^]*?(?=^r )/mu.exec(text)?.[0] ?? "";
  assert.ok(relay.includes("\ns "));
  for (const after of [
    relay,
    "params cc_alg=0\n",
    `${relay}${text.slice(text.indexOf("directory-signature "))}`,
  ])
    assert.throws(() => consensusOf(`${text}${after}`), /after the signatures/u);
  const line = "directory-signature sha256 ";
  const twice = consensusOf(
    text.replace(
      line,
      `${line}${"AA".repeat(20)} ${"BB".repeat(20)}\n-----BEGIN SIGNATURE-----\nAAAA\n-----END SIGNATURE-----\n${line}`,
    ),
  );
  assert.equal(twice.signatures.length, 4);
  verifyConsensus(twice, trust);
  assert.throws(() => consensusOf(`@annotation\n${text}`), ProtocolError);
});

test("documents of other kinds and times out of order are refused", () => {
  const changes: [string, string][] = [
    ["network-status-version 3 microdesc", "network-status-version 3"],
    ["vote-status consensus", "vote-status vote"],
    ["valid-after 20", "valid-after 30"],
    ["fresh-until 2", "fresh-until x"],
  ];
  for (const [from, to] of changes) {
    assert.ok(text.includes(from), from);
    assert.throws(() => consensusOf(text.replace(from, to)), { code: "onion-document" }, from);
  }
  assert.throws(() => parseConsensus(new Uint8Array(CONSENSUS_BYTES_MAX + 1)), { code: "onion-document" });
});

test("authority certificates: no bit of them can be changed", () => {
  assert.equal(certificates.length, 3);
  assert.deepEqual(
    certificates.map(({ identity }) => identity).sort(),
    AUTHORITIES.map(({ identity }) => identity.toLowerCase()).sort(),
  );
  const second = documentText(CERTIFICATES).indexOf("dir-key-certificate-version", 5);
  const one = CERTIFICATES.subarray(0, second);
  const [original] = parseAuthorityCertificates(one);
  let accepted = 0;
  for (let at = 0; at < one.length; at += 5) {
    const changed = Uint8Array.from(one);
    changed[at] = (changed[at] ?? 0) ^ 1;
    try {
      const [read] = parseAuthorityCertificates(changed);
      // Base64 has bits that mean nothing, and a certificate that does not begin is not there.
      if (
        read &&
        JSON.stringify({ ...read, signingKey: 0 }) !== JSON.stringify({ ...original, signingKey: 0 })
      )
        accepted++;
    } catch (error) {
      assert.ok(error instanceof ProtocolError, String(error));
    }
  }
  assert.equal(accepted, 0);
});

test("microdescriptors are known by their digests, and one that is malformed hides no other", () => {
  const consensus = parseConsensus(CONSENSUS);
  const found = parseMicrodescriptors(MICRODESCRIPTORS);
  const wanted = new Set(consensus.relays.map(({ microdescriptor }) => microdescriptor));
  assert.equal(found.length, 3);
  assert.ok(found.every(({ digest }) => wanted.has(digest)));
  assert.equal(new Network(consensus, found).relays.length, 3);

  const broken = concat([utf8("onion-key\nntor-onion-key short\n"), MICRODESCRIPTORS]);
  assert.equal(parseMicrodescriptors(broken).length, 3);
  const changed = documentText(MICRODESCRIPTORS).replace(/ntor-onion-key ./u, "ntor-onion-key A");
  const others = parseMicrodescriptors(Buffer.from(changed, "latin1"));
  assert.equal(new Network(consensus, others).relays.length, 2, "another key is another microdescriptor");
});

test("a microdescriptor has MICRODESCRIPTOR_BYTES_MAX bytes at most", () => {
  const first = /^onion-key[^]*?(?=^onion-key)/mu.exec(documentText(MICRODESCRIPTORS))?.[0] ?? "";
  const padded = (length: number) => utf8(`${first}x ${"y".repeat(length - first.length - 3)}\n`);
  assert.ok(parseMicrodescriptor(padded(MICRODESCRIPTOR_BYTES_MAX)));
  assert.throws(() => parseMicrodescriptor(padded(MICRODESCRIPTOR_BYTES_MAX + 1)), {
    code: "onion-document",
  });
});

test("port summaries", () => {
  const accept = {
    accept: true,
    ranges: [
      [80, 80],
      [443, 500],
    ],
  } as const;
  assert.deepEqual(
    [80, 81, 450, 501].map((port) => letsOut(accept, port)),
    [true, false, true, false],
  );
  assert.equal(letsOut({ ...accept, accept: false }, 80), false);
  assert.equal(letsOut({ ...accept, accept: false }, 81), true);
  assert.equal(letsOut(undefined, 80), false);
});

test("directory answers: status, length, encoding, bounds", () => {
  const body = "hello";
  const answer = (head: string) => parseAnswer(utf8(`${head}\r\n\r\n${body}`), 5);
  assert.equal(documentText(answer("HTTP/1.0 200 OK\r\nContent-Length: 5").body), body);
  assert.equal(answer("HTTP/1.0 404 Not found\r\nContent-Encoding: identity").status, 404);
  const refused = { code: "onion-directory" };
  assert.throws(() => answer("HTTP/1.0 200 OK\r\nContent-Length: 6"), refused);
  assert.throws(() => answer("HTTP/1.0 200 OK\r\nContent-Encoding: deflate"), refused);
  assert.throws(() => answer("220 smtp"), refused);
  assert.throws(() => parseAnswer(utf8("HTTP/1.0 200 OK\r\n"), 5), refused);
  assert.throws(() => parseAnswer(utf8(`HTTP/1.0 200 OK\r\nA: b\r\n\r\n${body}!`), 5), refused);
});

test("items: objects, repeated lines, and what is no line", () => {
  const items = [...readItems("a 1 2\nb\n-----BEGIN X Y-----\naGVs\nbG8=\n-----END X Y-----\nc")];
  assert.deepEqual(
    items.map(({ keyword, args, object }) => [keyword, args.join(), object && documentText(object.bytes)]),
    [
      ["a", "1,2", undefined],
      ["b", "", "hello"],
      ["c", "", undefined],
    ],
  );
  for (const bad of [
    "\u0000\n",
    "-----BEGIN X-----\n",
    "a\n-----BEGIN X-----\nAAAA\n",
    "a\n-----BEGIN X-----\n!\n-----END X-----\n",
  ])
    assert.throws(() => [...readItems(bad)], ProtocolError, JSON.stringify(bad));
});
