import assert from "node:assert/strict";
import { test } from "node:test";
import { brotliCompressSync } from "node:zlib";
import * as fc from "fast-check";
import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import {
  DIGEST_END,
  DIGEST_MAGIC,
  encodeContentFrames,
  paddingPlan,
  RecordEncoder,
} from "../../wire/digest.ts";
import { DigestReader } from "./digest-reader.ts";
import { receivePage } from "./receive-page.ts";

function digestOf(body: string, pad = 0): Uint8Array {
  const encoder = new RecordEncoder();
  const url = "http://a.test/";
  const page = encoder.encode({
    kind: "page",
    url,
    finalUrl: url,
    status: 200,
    type: "text/html; charset=utf-8",
    body: utf8(body),
  });
  const records = concat([...page, ...encoder.encode({ kind: "styled", resources: 0 }), encoder.end()]);
  return framed(brotliCompressSync(records), pad);
}

function framed(compressed: Uint8Array, pad = 0): Uint8Array {
  const content = concat([DIGEST_MAGIC, ...encodeContentFrames(compressed)]);
  const { header, bodyBytes } = paddingPlan(content.length, pad);
  return concat([content, header, new Uint8Array(bodyBytes).fill(7), DIGEST_END]);
}

async function* streamOf(...chunks: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}

test("receivePage: gives the page whatever the split, and progress of padding", async () => {
  const digest = digestOf("<p>hello", 5000);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(digest.length), { maxLength: 6 }), async (cuts) => {
      const places = [0, ...cuts.sort((a, b) => a - b), digest.length];
      const chunks = places.slice(1).map((end, at) => digest.slice(places[at], end));
      const stages: string[] = [];
      const progress: (number | undefined)[] = [];
      const page = await receivePage(streamOf(...chunks), {
        onShowable: (_html, stage) => stages.push(stage),
        onDocument: ({ url }) => stages.push(`document of ${url}`),
        onProgress: ({ paddingTotal }) => progress.push(paddingTotal),
      });
      assert.ok(page.verified);
      const document = "document of http://a.test/";
      // Once for each time that it will be written.
      assert.deepEqual(stages, [document, "styled", document, "complete"]);
      assert.equal(page.contentBytes + page.paddingBytes, 5000);
      assert.equal(progress.at(-1), page.paddingBytes);
      assert.match(new TextDecoder().decode(page.html), /<p>hello/);
    }),
    { numRuns: 30 },
  );
});

test("receivePage: an output that ends early is a page that is not verified", async () => {
  const page = await receivePage(streamOf(digestOf("<p>hello").subarray(0, 20)));
  assert.equal(page.verified, false);
  assert.match(new TextDecoder().decode(page.html), /could not be fetched/);
});

test("receivePage: an output that ends inside its padding is refused", async () => {
  const digest = digestOf("<p>hello", 5000);
  await assert.rejects(receivePage(streamOf(digest.subarray(0, 4000))), ProtocolError);
});

test("receivePage: stops when the signal says so", async () => {
  const controller = new AbortController();
  const endless = (async function* () {
    yield DIGEST_MAGIC;
    for (;;) {
      yield new Uint8Array(10);
      controller.abort(new Error("enough"));
    }
  })();
  await assert.rejects(receivePage(endless, { signal: controller.signal }), /enough/);
});

test("DigestReader: garbage ends in ProtocolError, never in a hang", async () => {
  const digest = digestOf("<p>hello");
  const garbage = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc.uint8Array({ maxLength: 200 }).map((bytes) => concat([DIGEST_MAGIC, ...encodeContentFrames(bytes)])),
    fc.tuple(fc.nat(digest.length - 1), fc.integer({ min: 1, max: 255 })).map(([at, change]) => {
      const bytes = digest.slice();
      bytes[at] = (bytes[at] ?? 0) ^ change;
      return bytes;
    }),
  );
  await fc.assert(
    fc.asyncProperty(garbage, async (bytes) => {
      using reader = new DigestReader();
      try {
        await reader.push(bytes);
        await reader.end();
      } catch (error) {
        assert.ok(error instanceof ProtocolError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});

test("DigestReader: a bomb is stopped at the content limit", async () => {
  const bomb = framed(brotliCompressSync(Buffer.alloc(64 * 1024 * 1024, 0x80)));
  assert.ok(bomb.length < 4096);
  using reader = new DigestReader(1024 * 1024);
  await assert.rejects(reader.push(bomb), ProtocolError);
});

test("DigestReader: refuses content behind the end", async () => {
  using reader = new DigestReader();
  const behind = encodeContentFrames(utf8("more"));
  await assert.rejects(async () => {
    await reader.push(concat([digestOf("<p>hello").subarray(0, -1), ...behind]));
    await reader.push(concat(behind));
    await reader.end();
  }, ProtocolError);
});
