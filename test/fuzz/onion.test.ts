// What relays, directories, onion services and their clients say to our own Tor protocol.

import assert from "node:assert/strict";
import { concat, utf8 } from "../../src/base/bytes.ts";
import { TestClock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";
import { CellGate } from "../../src/box/host/cell-gate.ts";
import { Circuit } from "../../src/onion/circuit/circuit.ts";
import { decodeLinkSpecifiers, encodeLinkSpecifiers } from "../../src/onion/circuit/link-specifier.ts";
import {
  decodeBegin,
  decodeSendme,
  decodeXon,
  encodeBegin,
  RELAY,
} from "../../src/onion/circuit/relay-message.ts";
import { TestRelay } from "../../src/onion/circuit/test-relay.ts";
import { parseCertificate } from "../../src/onion/crypto/ed25519-certificate.ts";
import { random } from "../../src/onion/crypto/primitives.ts";
import { parseAuthorityCertificates } from "../../src/onion/directory/authority-certificate.ts";
import { parseConsensus, verifyConsensus } from "../../src/onion/directory/consensus.ts";
import { parseAnswer } from "../../src/onion/directory/directory-client.ts";
import { parseMicrodescriptors } from "../../src/onion/directory/microdescriptor.ts";
import { readExtensions } from "../../src/onion/extensions.ts";
import { FieldReader, fromHex } from "../../src/onion/fields.ts";
import { CELL, CellParser, fixedCell, versionsCell } from "../../src/onion/link/cell.ts";
import { checkCerts } from "../../src/onion/link/certs-cell.ts";
import { LinkHandshake } from "../../src/onion/link/handshake.ts";
import { subcredentialOf } from "../../src/onion/service/credentials.ts";
import { openDescriptor } from "../../src/onion/service/descriptor.ts";
import { parseContent } from "../../src/onion/service/descriptor-content.ts";
import { decodeMaterial } from "../../src/onion/service/handover.ts";
import { hsNtorClient } from "../../src/onion/service/hs-ntor.ts";
import {
  encodePlaintext,
  generateIntroductionSecrets,
  introduceHeader,
  ReplayCache,
  readIntroduction,
} from "../../src/onion/service/introduction.ts";
import { readOnionAddress } from "../../src/onion/service/onion-address.ts";
import { DESCRIPTOR_TIME_MS, OPEN } from "../vectors/onion-descriptor.ts";
import {
  AUTHORITIES,
  CERTIFICATES,
  CONSENSUS,
  DIRECTORY_TIME_MS,
  MICRODESCRIPTORS,
} from "../vectors/onion-directory.ts";
import { LINK_BYTES, LINK_TIME_MS, LINK_TLS_CERTIFICATE } from "../vectors/onion-link.ts";
import { fuzz, textOf } from "./fuzz.ts";

const link = { tlsCertificate: fromHex(LINK_TLS_CERTIFICATE), expect: {}, nowMs: LINK_TIME_MS };
const relay = { host: "192.0.2.1", port: 443, identity: { rsa: random(20), ed25519: random(32) } };
const secrets = generateIntroductionSecrets();
const subcredential = random(32);
const introduction = () => {
  const keys = { authKey: secrets.auth.publicKey, encryptionKey: secrets.encryption.publicKey };
  const header = introduceHeader(keys.authKey);
  const plaintext = encodePlaintext({
    cookie: random(20),
    rendezvousPoint: { ...relay, ntorKey: random(32) },
    wantsCongestionControl: true,
  });
  return concat([header, hsNtorClient(keys, subcredential).encrypt(header, plaintext)]);
};
const blindedKey = fromHex(OPEN.blindedKey);
const descriptor = {
  blindedKey,
  subcredential: subcredentialOf(readOnionAddress(OPEN.address), blindedKey),
  nowMs: DESCRIPTOR_TIME_MS,
};
const content = utf8(
  "create2-formats 2\nflow-control 1-2 31\nintroduction-point AAAA\nonion-key ntor AAAA\nauth-key\n-----BEGIN ED25519 CERT-----\nAQkA\n-----END ED25519 CERT-----\nenc-key ntor AAAA\n",
);

/** A stream is open, and everything may come next. */
async function circuitWithStream(): Promise<{ test: TestRelay; streamId: number }> {
  const test = new TestRelay();
  const circuit = await Circuit.createFast(test.link, { clock: new TestClock() });
  circuit.onStream(0, (incoming) => {
    if (incoming.port % 2 === 0) incoming.accept();
    else incoming.refuse(1);
  });
  return { test, streamId: circuit.openStream("example.com", 80).id };
}

/** Of the commands that a link has, those that no relay and no handshake sends. */
const FROM_CLIENTS: ReadonlySet<number> = new Set([
  CELL.padding,
  CELL.relay,
  CELL.destroy,
  CELL.createFast,
  CELL.relayEarly,
  CELL.create2,
  CELL.paddingNegotiate,
]);

fuzz([
  {
    name: "link handshake",
    seeds: [LINK_BYTES, concat([versionsCell([4]), LINK_BYTES.subarray(11)])],
    parse: (_, chunks) => {
      const handshake = new LinkHandshake(link);
      for (const chunk of chunks) handshake.receive(chunk);
    },
  },
  {
    name: "CERTS cell",
    seeds: [LINK_BYTES.subarray(18), LINK_BYTES.subarray(18, 900)],
    parse: (bytes) => checkCerts(bytes, link),
  },
  {
    name: "Ed25519 certificates",
    seeds: [Uint8Array.of(1, 4, 0, 7, 0, 0, 1, ...new Uint8Array(32), 1, 0, 32, 4, 0, ...new Uint8Array(96))],
    parse: parseCertificate,
  },
  {
    name: "cells",
    seeds: [fixedCell(1, CELL.relay, random(509)), LINK_BYTES],
    parse: (_, chunks) => {
      const parser = new CellParser();
      parser.widen();
      for (const chunk of chunks) {
        parser.push(chunk);
        while (parser.next());
      }
    },
  },
  {
    name: "the gate in front of a relay",
    seeds: [
      fixedCell(0x8000_0001, CELL.create2, random(509)),
      concat([fixedCell(0x8000_0001, CELL.relayEarly, random(509)), fixedCell(1, CELL.destroy, random(1))]),
      versionsCell([4, 5]),
    ],
    parse: (bytes, chunks) => {
      let circuits = 0;
      const gate = new CellGate({
        takeCircuit: () => void circuits++,
        takeEarly: () => undefined,
      });
      for (const chunk of chunks) gate.check(chunk);
      // What passed is, as a relay reads it, cells of clients and nothing else.
      const relay = new CellParser();
      relay.widen();
      relay.push(bytes);
      let begun = 0;
      for (let cell = relay.next(); cell; cell = relay.next()) {
        assert.ok(FROM_CLIENTS.has(cell.command), String(cell.command));
        if (cell.command === CELL.create2 || cell.command === CELL.createFast) begun++;
      }
      assert.ok(circuits >= begun, "every circuit was counted");
    },
  },
  {
    name: "an open link with a circuit",
    seeds: [fixedCell(1, CELL.destroy, Uint8Array.of(11)), fixedCell(0, CELL.padding, new Uint8Array(0))],
    slow: true,
    parse: async (_, chunks) => {
      const { test } = await circuitWithStream();
      for (const chunk of chunks) test.link.receive(chunk);
    },
  },
  {
    name: "relay messages",
    // Relay command, then the body.
    seeds: Object.values(RELAY).flatMap((command) => [
      Uint8Array.of(command),
      Uint8Array.of(command, 1, 0, 20, ...random(20)),
      concat([Uint8Array.of(command), encodeBegin("x", 80)]),
    ]),
    slow: true,
    parse: async (bytes) => {
      const { test, streamId } = await circuitWithStream();
      for (const id of [streamId, 0, 9]) {
        for (let times = 0; times < 3 && test.link.circuitCount > 0; times++)
          test.send({ command: bytes[0] ?? 0, streamId: id, data: bytes.subarray(1, 499) });
      }
    },
  },
  {
    name: "bodies of relay messages",
    seeds: [
      encodeBegin("example.com", 80),
      encodeLinkSpecifiers(relay),
      Uint8Array.of(1, 0, 20, ...random(20)),
      Uint8Array.of(2, 1, 0, 2, 1, 31),
    ],
    parse: (bytes) => {
      for (const read of [
        decodeBegin,
        decodeSendme,
        decodeXon,
        (body: Uint8Array) => decodeLinkSpecifiers(new FieldReader(body, "fuzz")),
        (body: Uint8Array) => readExtensions(new FieldReader(body, "fuzz")),
      ])
        ignoringOurs(() => read(bytes));
    },
  },
  {
    name: "consensus",
    seeds: [CONSENSUS, CONSENSUS.subarray(0, 2500)],
    words: ["\nr ", "\nm ", "directory-signature ", "-----BEGIN SIGNATURE-----\n", "vote-status consensus\n"],
    slow: true,
    parse: (bytes) => {
      const consensus = parseConsensus(bytes);
      verifyConsensus(consensus, { authorities: AUTHORITIES, certificates, nowMs: DIRECTORY_TIME_MS });
    },
  },
  {
    name: "authority certificates",
    seeds: [CERTIFICATES, CERTIFICATES.subarray(0, 2500)],
    words: ["dir-key-certificate-version 3\n", "-----BEGIN ID SIGNATURE-----\n"],
    slow: true,
    parse: parseAuthorityCertificates,
  },
  {
    name: "microdescriptors",
    seeds: [MICRODESCRIPTORS, "onion-key\nntor-onion-key AAAA\np accept 80,443-500\nid ed25519 AAAA\n"],
    words: ["onion-key\n", "\np reject ", "family $", "id ed25519 "],
    parse: parseMicrodescriptors,
  },
  {
    name: "directory answers",
    seeds: ["HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.0 404 Not found\r\n\r\n"],
    words: ["\r\n\r\n", "Content-Length: ", "Content-Encoding: deflate\r\n"],
    parse: (bytes) => parseAnswer(bytes, 4096),
  },
  {
    name: "onion service descriptors",
    seeds: [OPEN.document],
    words: ["hs-descriptor 3\n", "superencrypted\n", "-----BEGIN MESSAGE-----\n", "signature "],
    slow: true,
    parse: (bytes) => openDescriptor(bytes, descriptor),
  },
  {
    name: "contents of descriptors",
    seeds: [content, concat([content, content])],
    words: ["introduction-point ", "enc-key ntor ", "auth-key\n", "flow-control "],
    parse: parseContent,
  },
  {
    name: "introductions",
    seeds: [introduction(), introduction()],
    slow: true,
    parse: (bytes) => readIntroduction(bytes, secrets, [subcredential], new ReplayCache()).finish(),
  },
  {
    name: "rendezvous material",
    seeds: [concat([Uint8Array.of(1, 0), encodeLinkSpecifiers(relay), random(148)])],
    parse: decodeMaterial,
  },
  {
    name: "onion addresses",
    seeds: [OPEN.address, OPEN.address.toUpperCase()],
    parse: (bytes) => readOnionAddress(textOf(bytes)),
  },
]);

const certificates = parseAuthorityCertificates(CERTIFICATES);

/** Runs a parser whose refusal must not keep the ones after it from being tried. */
function ignoringOurs(parse: () => unknown): void {
  try {
    parse();
  } catch (error) {
    if (!(error instanceof BentoError)) throw error;
  }
}
