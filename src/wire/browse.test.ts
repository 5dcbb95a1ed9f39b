import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { ProtocolError } from "../base/errors.ts";
import {
  BROWSE_DEFAULTS,
  BrowseLimits,
  type BrowseRequest,
  type BrowseSettings,
  CELL_BYTES,
  checkShape,
  decodeRequest,
  decodeSettings,
  encodeRequest,
  encodeSettings,
  RATES,
  REQUEST_STEPS,
} from "./browse.ts";

const GET: BrowseRequest = {
  id: 1,
  url: "https://a.test/",
  method: "GET",
  body: undefined,
  referrer: undefined,
  stop: false,
};
const SETTINGS: BrowseSettings = {
  ...BROWSE_DEFAULTS,
  shape: { kind: "bucket", bytes: [CELL_BYTES, 3 * CELL_BYTES], rate: RATES[0] },
};

test("encodeRequest: every request survives, in a message of one of four sizes", () => {
  const request = fc.record({
    id: fc.integer({ min: 1 }),
    url: fc.webUrl({ withQueryParameters: true }),
    method: fc.constantFrom("GET" as const, "POST" as const),
    bytes: fc.uint8Array({ maxLength: 3000 }),
    referrer: fc.option(fc.webUrl(), { nil: undefined }),
    stop: fc.boolean(),
  });
  fc.assert(
    fc.property(request, ({ bytes, ...rest }) => {
      const body = rest.method === "POST" ? { type: "text/plain", bytes } : undefined;
      const message = encodeRequest({ ...rest, body });
      assert.ok(REQUEST_STEPS.some((one) => one === message.length));
      assert.deepEqual(decodeRequest(message), { ...rest, body });
    }),
  );
});

test("encodeRequest: takes the next step at one byte more, and none beyond the last", () => {
  const post = (bytes: number) =>
    encodeRequest({ ...GET, method: "POST", body: { type: "a/b", bytes: new Uint8Array(bytes) } }).length;
  const room = post(0) - JSON.stringify({ ...GET, method: "POST", type: "a/b", stop: undefined }).length - 8;
  for (const [at, step] of REQUEST_STEPS.entries()) {
    const most = room + step - REQUEST_STEPS[0];
    assert.equal(post(most), step);
    const next = REQUEST_STEPS[at + 1];
    if (next === undefined) assert.throws(() => post(most + 1), RangeError);
    else assert.equal(post(most + 1), next);
  }
});

test("encodeRequest: URLs of any length below the first step look the same", () => {
  const sizes = [1, 50, 500, 1800].map(
    (length) => encodeRequest({ ...GET, url: `https://a.test/${"x".repeat(length)}` }).length,
  );
  assert.deepEqual(new Set(sizes), new Set([2048]));
});

test("decodeRequest: garbage ends in ProtocolError", () => {
  const good = encodeRequest(GET);
  const garbage = fc.oneof(
    fc.uint8Array({ maxLength: 100 }),
    fc.uint8Array({ minLength: 2048, maxLength: 2048 }),
    fc.tuple(fc.nat(80), fc.integer({ min: 1, max: 255 })).map(([at, change]) => {
      const bytes = good.slice();
      bytes[at] = (bytes[at] ?? 0) ^ change;
      return bytes;
    }),
  );
  fc.assert(
    fc.property(garbage, (bytes) => {
      try {
        decodeRequest(bytes);
      } catch (error) {
        assert.ok(error instanceof ProtocolError, String(error));
      }
    }),
    { numRuns: 1000 },
  );
});

test("decodeRequest: refuses what no browser would send", () => {
  const refused: Partial<Record<keyof BrowseRequest, unknown>>[] = [
    { id: 0 },
    { url: "file:///etc/passwd" },
    { url: "https://u:p@a.test/" },
    { url: `https://a.test/${"x".repeat(8192)}` },
    { method: "PUT" },
    { method: "POST" },
    { referrer: "data:," },
    { body: { type: "a/b", bytes: Uint8Array.of(1) } },
  ];
  for (const change of refused) {
    assert.throws(() => decodeRequest(encodeRequest({ ...GET, ...change } as BrowseRequest)), ProtocolError);
  }
});

test("encodeSettings: whatever is chosen, settings and manifest together have one length", () => {
  const lengths = [
    { settings: SETTINGS, beside: "" },
    { settings: { ...SETTINGS, deadlineMs: 1000, userAgent: "curl" }, beside: "x".repeat(300) },
    { settings: { ...SETTINGS, scripts: true, engine: "rendered" as const }, beside: "é".repeat(200) },
  ].map(({ settings, beside }) => {
    const argument = encodeSettings(settings, beside);
    assert.deepEqual(decodeSettings(argument), settings);
    return Buffer.byteLength(JSON.stringify(argument)) + Buffer.byteLength(beside);
  });
  assert.deepEqual(new Set(lengths), new Set([2048]));
});

test("checkShape: takes sizes and counts up to their limits", () => {
  const shape = (bytes: unknown, rate: unknown = RATES[0]) => ({ kind: "bucket", bytes, rate });
  const many = (count: number) => Array.from({ length: count }, (_, at) => (at + 1) * CELL_BYTES);
  checkShape(shape(many(BrowseLimits.bucketsMax)));
  checkShape(shape([BrowseLimits.bucketBytesMax]));
  for (const bad of [
    shape(many(BrowseLimits.bucketsMax + 1)),
    shape([BrowseLimits.bucketBytesMax + CELL_BYTES]),
    shape([]),
    shape([CELL_BYTES, CELL_BYTES]),
    shape([2 * CELL_BYTES, CELL_BYTES]),
    shape([CELL_BYTES + 1]),
    shape([0]),
    shape("x"),
    shape([CELL_BYTES], 1000),
    { kind: "none", pad: -1 },
    { kind: "other" },
    7,
  ]) {
    assert.throws(() => checkShape(bad), ProtocolError);
  }
});

test("decodeSettings: refuses unknown names and values out of range", () => {
  for (const change of [
    { nope: 1 },
    { engine: "x" },
    { scripts: 1 },
    { deadlineMs: 1 },
    { bytesMax: 2 ** 40 },
    { userAgent: "a\nb" },
    { fill: "x".repeat(BrowseLimits.fillLengthMax + 1) },
  ]) {
    assert.throws(() => decodeSettings({ ...SETTINGS, ...change }), ProtocolError);
  }
  assert.equal(decodeSettings({}).shape.kind, "none");
});
