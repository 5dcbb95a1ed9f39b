// Everything that crosses between client, box and guest, at its parsers.

import { z } from "zod";
import { BentoError } from "../../src/base/errors.ts";
import { parseExitPolicy } from "../../src/base/exit-policy.ts";
import { parseHost, parseIp, parseRange } from "../../src/base/ip-address.ts";
import { LegacySplitter } from "../../src/box/legacy2021/legacy-frame.ts";
import { parseAddress } from "../../src/client/address.ts";
import { getAnswerSchema, parseDropboxAnswer, putAnswerSchema } from "../../src/client/dropbox/answers.ts";
import { parseLink } from "../../src/client/dropbox/link.ts";
import { TEST_POLICY } from "../../src/client/test-box.ts";
import {
  closeSchema,
  infoSchema,
  invocationSchema,
  listingSchema,
  logPageSchema,
  storedSchema,
} from "../../src/wire/api.ts";
import { parseDestination } from "../../src/wire/destination.ts";
import { errorOfProblem, problemSchema } from "../../src/wire/error-code.ts";
import { grant } from "../../src/wire/grant.ts";
import { encodeGuestFrame, GUEST_FRAME, GuestFrameSplitter } from "../../src/wire/guest-frame.ts";
import { parseManifest } from "../../src/wire/manifest.ts";
import { parseSentPackage } from "../../src/wire/package.ts";
import { policySchema } from "../../src/wire/policy.ts";
import { parseBytes, parseDuration } from "../../src/wire/quantity.ts";
import { openFile } from "../../src/wire/sealed-file.ts";
import {
  decodeBoxFrame,
  decodeClientFrame,
  encodeBoxFrame,
  encodeClientFrame,
  FrameSplitter,
  prefixLength,
} from "../../src/wire/session-frame.ts";
import {
  newInstanceId,
  newInvocationToken,
  newShutdownToken,
  parseInstanceId,
  parseInvocationToken,
  parseShutdownToken,
} from "../../src/wire/token.ts";
import { fuzz, jsonOf, textOf } from "./fuzz.ts";

const pack = {
  manifest: {
    name: "hello",
    image: "deno",
    memory: "64MiB",
    cpu: "50%",
    lifetime: "1h",
    net: {
      allow: ["*:80", "*:443", "example.com:*", "192.0.2.0/24:1-1024", "[2001:db8::]/32:80"],
      bytes: "1MiB",
    },
    storage: { bytes: "1MiB" },
    syscalls: ["fork"],
    box: ["load"],
  },
  source: "export default {}",
} as const;
const manifest = JSON.stringify(pack.manifest);
const invocation = { args: [1, "two", { three: [] }] };
const policy = JSON.stringify(TEST_POLICY);

const clientFrames = [
  encodeClientFrame({ kind: "start", start: { package: structuredClone(pack) as never, invocation } }),
  encodeClientFrame({ kind: "input", bytes: Buffer.from("hello"), last: true }),
  encodeClientFrame({ kind: "input", bytes: Buffer.from("hello"), last: false }),
  encodeClientFrame({ kind: "input-end" }),
  encodeClientFrame({ kind: "ack", offset: 12_345 }),
];
const boxFrames = [
  encodeBoxFrame({ kind: "attached", attached: { instance: newInstanceId(), offset: 0 } }),
  encodeBoxFrame({ kind: "output", offset: 7, bytes: Buffer.from("hello"), last: true }),
  encodeBoxFrame({ kind: "ended", outcome: { kind: "returned" } }),
  encodeBoxFrame({ kind: "ended", outcome: { kind: "killed", reason: "runtime-limit" } }),
  encodeBoxFrame({ kind: "problem", problem: { code: "box-full", title: "full", status: 503 } as never }),
];
const guestFrames = [
  encodeGuestFrame(GUEST_FRAME.ready, 0),
  encodeGuestFrame(GUEST_FRAME.output, 0, Buffer.from("hello")),
  encodeGuestFrame(GUEST_FRAME.call, 1, Buffer.from('{"method":"box.facts","params":{}}')),
  encodeGuestFrame(GUEST_FRAME.credit, 1, Uint8Array.of(0, 0, 4, 0)),
];
const legacy = (type: number, body: string) => {
  const bytes = Buffer.from(body);
  const header = Buffer.from([type, 0, 0, 0, 0]);
  header.writeUInt32BE(bytes.length, 1);
  return Buffer.concat([header, bytes]);
};

/** What a text may mean. */
const text = (parse: (text: string) => unknown) => (bytes: Uint8Array) => parse(textOf(bytes));
const json = (parse: (value: unknown) => unknown) => (bytes: Uint8Array) => parse(jsonOf(bytes));
/** All frames that come out of a splitter go through the decoder. */
const stream = (decode: (frame: Uint8Array) => unknown) => (_: Uint8Array, chunks: readonly Uint8Array[]) => {
  const splitter = new FrameSplitter();
  for (const chunk of chunks) for (const frame of splitter.push(chunk)) decode(frame);
  splitter.end();
};

const dropboxLink = `bento:dropbox?box=127.0.0.1:8000&token=${newInvocationToken()}&key=${"A".repeat(43)}`;
const DROPBOX_ANSWERS: z.ZodType<object> = z.union([putAnswerSchema, getAnswerSchema]);
const sealKey = new Uint8Array(32).fill(1);
async function openAll(chunks: readonly Uint8Array[]): Promise<void> {
  const pieces = async function* () {
    yield* chunks;
  };
  for await (const _ of openFile(pieces(), sealKey));
}

fuzz([
  { name: "parseLink", seeds: [Buffer.from(dropboxLink)], parse: (bytes) => parseLink(textOf(bytes)) },
  {
    name: "parseDropboxAnswer",
    seeds: [
      { at: 0 },
      { sealed: 5 },
      { refused: "empty" },
      { size: 5, from: 0, bytes: 5, ticket: "A".repeat(43) },
    ].map((answer) => Buffer.from(JSON.stringify(answer))),
    parse: (bytes) => parseDropboxAnswer(bytes, DROPBOX_ANSWERS),
  },
  { name: "openFile", seeds: [Buffer.alloc(20), Buffer.alloc(9000)], parse: (_, chunks) => openAll(chunks) },
  { name: "decodeClientFrame", seeds: clientFrames, parse: (bytes) => decodeClientFrame(bytes) },
  { name: "decodeBoxFrame", seeds: boxFrames, parse: (bytes) => decodeBoxFrame(bytes) },
  {
    name: "FrameSplitter, from a client",
    seeds: [...clientFrames.map(prefixLength), Buffer.concat(clientFrames.map(prefixLength))],
    parse: stream(decodeClientFrame),
  },
  {
    name: "FrameSplitter, from a box",
    seeds: [...boxFrames.map(prefixLength), Buffer.concat(boxFrames.map(prefixLength))],
    parse: stream(decodeBoxFrame),
  },
  {
    name: "GuestFrameSplitter",
    seeds: [...guestFrames, Buffer.concat(guestFrames)],
    parse: (_, chunks) => {
      const splitter = new GuestFrameSplitter();
      for (const chunk of chunks) splitter.push(chunk);
    },
  },
  {
    name: "LegacySplitter",
    seeds: [
      legacy(0, JSON.stringify({ name: "hello", code: "def hello(): pass" })),
      legacy(1, JSON.stringify({ call: "hello()", token: newInvocationToken() })),
      legacy(2, newInstanceId()),
      legacy(3, newInstanceId()),
      legacy(4, `${newInstanceId()}data`),
    ],
    parse: (_, chunks) => {
      const splitter = new LegacySplitter();
      for (const chunk of chunks) for (const _request of splitter.push(chunk));
    },
  },
  {
    name: "parseSentPackage",
    seeds: [
      JSON.stringify(pack),
      `{"manifest":{"name":"a","image":"deno"},"sourceHash":"${"0".repeat(64)}"}`,
      '{"manifest":{"name":"a","image":"python"},"source":"def a(): pass"}',
    ],
    words: ['"sourceHash":', '"net":', '"allow":["*:*"]', "null", "[[[[", '{"a":'],
    parse: json((value) => parseSentPackage(value, (hash) => (hash.startsWith("0") ? "x" : undefined))),
  },
  {
    name: "parseManifest and grant",
    seeds: [manifest, '{"name":"a","image":"python"}'],
    words: ['"64MiB"', '"50%"', '"net":{}', '"*:80"', '"[::]/0:*"', "1e309"],
    parse: json((value) => grant(parseManifest(value), TEST_POLICY)),
  },
  {
    name: "schemas of a box's answers",
    seeds: [
      policy,
      '{"software":"x","protocol":1,"name":"n","relay":null,"contact":null,"onion":null,"accepting":true}',
      '{"instance":"x"}',
      '{"lines":[{"position":1,"at":1,"instance":1,"level":"info","text":"t"}],"next":1,"more":false,"missed":false}',
      '{"type":"about:blank","title":"t","status":400,"code":"box-full","detail":"d","refusals":[{"rule":"net","wanted":"a","limit":"b"}]}',
      '{"kill":true}',
      JSON.stringify(invocation),
    ],
    parse: json((value) => {
      for (const schema of [
        policySchema,
        infoSchema,
        storedSchema,
        listingSchema,
        logPageSchema,
        closeSchema,
        invocationSchema,
      ])
        schema.safeParse(value);
      const problem = problemSchema.safeParse(value);
      if (problem.success) throw errorOfProblem(problem.data);
    }),
  },
  {
    name: "quantities",
    seeds: ["64MiB", "1 GiB", "10m", "30d", "100ms", "50%"],
    parse: text((value) => [parseBytes(value), parseDuration(value)]),
  },
  {
    name: "tokens",
    seeds: [newInvocationToken(), newShutdownToken(), newInstanceId()],
    parse: text((value) => {
      for (const parse of [parseInvocationToken, parseShutdownToken, parseInstanceId]) {
        try {
          parse(value);
        } catch (error) {
          if (!(error instanceof BentoError)) throw error;
        }
      }
    }),
  },
  {
    name: "parseDestination",
    seeds: ["*:80", "example.com:443", "192.0.2.0/24:1-1024", "[2001:db8::]/32:80", "*.example.com:*"],
    parse: text(parseDestination),
  },
  {
    name: "addresses",
    seeds: [
      "192.0.2.1",
      "::ffff:192.0.2.1",
      "2001:db8::1%eth0",
      "0x7f.1",
      "017700000001",
      "10.0.0.0/8",
      "fd00::/8",
      "[::1]",
      "xn--bcher-kva.example.",
    ],
    parse: text((value) => {
      parseIp(value);
      for (const parse of [parseHost, parseRange]) {
        try {
          parse(value);
        } catch (error) {
          if (!(error instanceof BentoError)) throw error;
        }
      }
    }),
  },
  {
    name: "parseAddress",
    seeds: ["127.0.0.1:5005", `${"a".repeat(56)}.onion`, `${"a".repeat(56)}.onion:80`, "[::1]:80"],
    parse: text(parseAddress),
  },
  {
    name: "parseExitPolicy",
    seeds: [
      "accept *:80,accept *:443,reject *:*",
      "reject 10.0.0.0/8:*\nreject6 [fc00::]/7:*\naccept *:1-65535",
      "accept *4:443\nreject private:*",
    ],
    words: ["accept ", "reject ", "accept6 ", "*:", "/33", "/129", "1-", "private"],
    parse: text(parseExitPolicy),
  },
]);
