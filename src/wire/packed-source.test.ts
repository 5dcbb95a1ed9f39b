import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { deflateRawSync } from "node:zlib";
import { concat } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import { Limits } from "./limits.ts";
import { PACKED_RATIO_MAX, packSource, unpackSource } from "./packed-source.ts";
import { type ClientFrame, decodeClientFrame, encodeClientFrame } from "./session-frame.ts";

/** Text that deflates to about two thirds. */
const text = (length: number) =>
  randomBytes(Math.ceil(length / 2))
    .toString("hex")
    .slice(0, length);

test("packSource: what is packed unpacks to the same, shorter", () => {
  const source = `${text(40_000)} ümläut`;
  const packed = packSource(source);
  assert.ok(packed && packed.length < 30_000);
  assert.equal(unpackSource(packed), source);
});

test("packSource: leaves alone what is short, and what the other side would refuse", () => {
  assert.equal(packSource(text(1000)), undefined);
  assert.equal(packSource("a".repeat(100_000)), undefined);
});

test("unpackSource: a source of n bytes passes, n + 1 does not, by package and by ratio", () => {
  const { packageBytesMax } = Limits;
  const largest = text(packageBytesMax);
  assert.equal(unpackSource(deflateRawSync(largest)).length, packageBytesMax);
  assert.throws(() => unpackSource(deflateRawSync(`${largest}a`)), ProtocolError);
  const packedOf = (bytes: number) => deflateRawSync("a".repeat(bytes));
  const bytes = Array.from({ length: 5000 }, (_, at) => at + 1).findLast(
    (count) => count <= packedOf(count).length * PACKED_RATIO_MAX,
  );
  assert.ok(bytes !== undefined && bytes > 1);
  assert.equal(unpackSource(packedOf(bytes)).length, bytes);
  assert.throws(() => unpackSource(packedOf(bytes + 1)), ProtocolError);
});

test("unpackSource: a bomb, garbage, a cut stream and bytes that are no UTF-8 are refused", () => {
  for (const packed of [
    deflateRawSync(Buffer.alloc(64 * 1024 * 1024)),
    Uint8Array.of(),
    Uint8Array.of(0xff, 0xff, 0xff),
    deflateRawSync(text(50_000)).subarray(0, 20_000),
    deflateRawSync(Buffer.from([0x61, 0xff, 0xfe])),
  ]) {
    assert.throws(() => unpackSource(packed), ProtocolError);
  }
});

test("session frames: a start with a long source goes packed, and decodes to the same", () => {
  const frame: ClientFrame = {
    kind: "start",
    start: { package: { manifest: { name: "x" }, source: text(40_000) }, invocation: { args: ["a"] } },
  };
  const encoded = encodeClientFrame(frame);
  assert.equal(encoded[0], 0x05);
  assert.ok(encoded.length < 30_000);
  assert.deepEqual(decodeClientFrame(encoded), frame);
});

test("session frames: a packed start whose head is longer than the frame, or holds a source, is refused", () => {
  const head = (json: string, length = json.length) =>
    concat([Uint8Array.of(5, 0, 0, length >> 8, length & 255), Buffer.from(json), deflateRawSync("source")]);
  const json = '{"package":{"manifest":{}},"invocation":{"args":[]}}';
  assert.equal(decodeClientFrame(head(json)).kind, "start");
  assert.throws(() => decodeClientFrame(head(json, 500)), ProtocolError);
  assert.throws(() => decodeClientFrame(Uint8Array.of(5, 0, 0)), ProtocolError);
  const twice = '{"package":{"manifest":{},"source":"x"},"invocation":{"args":[]}}';
  assert.throws(() => decodeClientFrame(head(twice)), ProtocolError);
  assert.throws(() => decodeClientFrame(head('{"invocation":{"args":[]}}')), ProtocolError);
});
