import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { concat, utf8, view } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import {
  DIGEST_END,
  DIGEST_MAGIC,
  DigestLimits,
  type DigestRecord,
  encodeContentFrames,
  FAILURE_REASONS,
  FrameDecoder,
  paddingOf,
  paddingPlan,
  RecordDecoder,
  RecordEncoder,
} from "./digest.ts";

type Written = Exclude<DigestRecord, { kind: "end" }>;

const text = fc.string({ unit: "grapheme", maxLength: 30 });
const written: fc.Arbitrary<Written> = fc.oneof(
  fc.record({
    kind: fc.constantFrom("page" as const, "resource" as const),
    url: fc.webUrl(),
    finalUrl: fc.webUrl(),
    status: fc.nat(65535),
    type: text,
    body: fc.uint8Array({ maxLength: 200 }),
  }),
  fc.record({
    kind: fc.constant("failure" as const),
    url: text,
    reason: fc.constantFrom(...FAILURE_REASONS),
    detail: text,
  }),
  fc.nat().map((resources) => ({ kind: "styled" as const, resources })),
);

function encode(records: readonly Written[]): Uint8Array {
  const encoder = new RecordEncoder();
  return concat([...records.flatMap((record) => encoder.encode(record)), encoder.end()]);
}

/** Cuts `bytes` at the given places. */
function split(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const places = [0, ...cuts.map((cut) => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  return places.slice(1).map((end, at) => bytes.slice(places[at], end));
}

test("RecordDecoder: gives back what was encoded, whatever the split", () => {
  fc.assert(
    fc.property(
      fc.array(written, { maxLength: 6 }),
      fc.array(fc.nat(), { maxLength: 8 }),
      (records, cuts) => {
        const decoder = new RecordDecoder();
        const decoded = split(encode(records), cuts).flatMap((chunk) => decoder.push(chunk));
        assert.equal(decoded.pop()?.kind, "end");
        assert.ok(decoder.isEnded);
        assert.deepEqual(
          decoded.map((record) => ("body" in record ? { ...record, body: [...record.body] } : { ...record })),
          records.map((record) => ("body" in record ? { ...record, body: [...record.body] } : { ...record })),
        );
      },
    ),
  );
});

test("RecordEncoder: writes the bytes of the specification", () => {
  const [header, body] = new RecordEncoder().encode({
    kind: "resource",
    url: "http://a.test/b",
    finalUrl: "http://a.test/b",
    status: 200,
    type: "text/css",
    body: utf8("p{color:red}"),
  });
  assert.equal(
    Buffer.from(concat([header ?? DIGEST_MAGIC, body ?? DIGEST_MAGIC])).toString("latin1"),
    "\x02\x00\x00\x00\x2b\x00\xc8\x00\x0fhttp://a.test/b\x00\x00\x00\x08text/cssp{color:red}",
  );
});

test("RecordDecoder: refuses a digest that was changed anywhere", () => {
  fc.assert(
    fc.property(
      fc.array(written, { minLength: 1, maxLength: 4 }),
      fc.nat(),
      fc.integer({ min: 1, max: 255 }),
      (records, place, change) => {
        const bytes = encode(records);
        const at = place % bytes.length;
        bytes[at] = (bytes[at] ?? 0) ^ change;
        const decoder = new RecordDecoder();
        let isRefused = false;
        try {
          decoder.push(bytes);
        } catch (error) {
          assert.ok(error instanceof ProtocolError);
          isRefused = true;
        }
        // A changed length may make it wait for more: it is not taken for whole either.
        assert.ok(isRefused || !decoder.isEnded);
      },
    ),
  );
});

test("RecordDecoder: any bytes give records or a ProtocolError", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 10 }), (chunks) => {
      const decoder = new RecordDecoder();
      try {
        for (const chunk of chunks) decoder.push(chunk);
      } catch (error) {
        assert.ok(error instanceof ProtocolError);
      }
    }),
    { numRuns: 2000 },
  );
});

test("RecordDecoder: takes content up to its limit and not one byte more", () => {
  const bytes = encode([{ kind: "styled", resources: 1 }]);
  assert.equal(new RecordDecoder(bytes.length).push(bytes).length, 2);
  assert.throws(() => new RecordDecoder(bytes.length - 1).push(bytes), ProtocolError);
});

test("RecordDecoder: takes bodies and records up to their limits", () => {
  const record = (bodyBytes: number) => {
    const header = new Uint8Array(5 + 2 + 2 + 2 + 2);
    header[0] = 2;
    view(header).setUint32(1, header.length - 5 + bodyBytes);
    return concat([header, new Uint8Array(bodyBytes)]);
  };
  assert.equal(new RecordDecoder().push(record(DigestLimits.bodyBytesMax)).length, 1);
  assert.throws(() => new RecordDecoder().push(record(DigestLimits.bodyBytesMax + 1)), ProtocolError);
  const decoder = new RecordDecoder();
  const styled = Uint8Array.of(4, 0, 0, 0, 4, 0, 0, 0, 0);
  for (let at = 0; at < DigestLimits.recordsMax; at++) decoder.push(styled);
  assert.throws(() => decoder.push(styled), ProtocolError);
});

test("RecordDecoder: skips kinds that may be skipped, refuses others", () => {
  assert.deepEqual(new RecordDecoder().push(Uint8Array.of(0x80, 0, 0, 0, 1, 7)), []);
  assert.throws(() => new RecordDecoder().push(Uint8Array.of(0x7f, 0, 0, 0, 1, 7)), ProtocolError);
});

test("paddingPlan: brings every length to the multiple exactly, in frames that read as padding", () => {
  fc.assert(
    fc.property(fc.integer({ min: 4, max: 5000 }), fc.integer({ min: 0, max: 700 }), (sent, multiple) => {
      const { header, bodyBytes } = paddingPlan(sent, multiple);
      const total = sent + header.length + bodyBytes + DIGEST_END.length;
      if (multiple === 0) assert.equal(total, sent + 1);
      else {
        assert.equal(total % multiple, 0);
        assert.ok(total - sent <= multiple);
      }
      const decoder = new FrameDecoder();
      decoder.push(DIGEST_MAGIC);
      const parts = decoder.push(concat([header, new Uint8Array(bodyBytes).fill(1)]));
      assert.equal(decoder.isEnded, false);
      assert.equal(
        parts.reduce((count, part) => count + (part.kind === "padding" ? part.bytes : -1e9), 0),
        total - sent - DIGEST_END.length,
      );
      assert.deepEqual(decoder.push(DIGEST_END), [{ kind: "end" }]);
      assert.ok(decoder.isEnded);
    }),
  );
});

test("FrameDecoder: gives back content whatever the split and wherever padding stands", () => {
  const piece = fc.oneof(
    fc.record({ content: fc.uint8Array({ maxLength: 300 }) }),
    fc.record({ padding: fc.integer({ min: 0, max: 300 }) }),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 8 }), fc.array(fc.nat(), { maxLength: 8 }), (pieces, cuts) => {
      const parts: Uint8Array[] = [DIGEST_MAGIC];
      for (const one of pieces) {
        if ("content" in one) parts.push(...encodeContentFrames(one.content));
        else {
          const { header, bodyBytes } = paddingOf(one.padding);
          parts.push(header, new Uint8Array(bodyBytes));
        }
      }
      parts.push(DIGEST_END);
      const decoder = new FrameDecoder();
      const content = split(concat(parts), cuts)
        .flatMap((chunk) => decoder.push(chunk))
        .flatMap((part) => (part.kind === "content" ? [...part.bytes] : []));
      assert.deepEqual(
        content,
        pieces.flatMap((one) => ("content" in one ? [...one.content] : [])),
      );
      assert.ok(decoder.isEnded);
    }),
  );
});

test("FrameDecoder: refuses another magic, unknown frames and too much padding", () => {
  assert.throws(() => new FrameDecoder().push(utf8("HTTP/1.1")), ProtocolError);
  assert.throws(() => new FrameDecoder().push(concat([DIGEST_MAGIC, Uint8Array.of(4)])), ProtocolError);
  assert.throws(() => new FrameDecoder().push(concat([DIGEST_MAGIC, DIGEST_END, DIGEST_END])), ProtocolError);
  const padding = (bytes: number) => {
    const header = Uint8Array.of(2, 0, 0, 0, 0);
    view(header).setUint32(1, bytes);
    return concat([DIGEST_MAGIC, header]);
  };
  assert.equal(new FrameDecoder().push(padding(DigestLimits.paddingBytesMax)).length, 1);
  assert.throws(() => new FrameDecoder().push(padding(DigestLimits.paddingBytesMax + 1)), ProtocolError);
});
