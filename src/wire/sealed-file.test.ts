import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import * as fc from "fast-check";
import { concat } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import {
  openFile,
  type Padding,
  SEGMENT_BYTES,
  SEGMENT_CAPACITY,
  sealedSize,
  sealFile,
} from "./sealed-file.ts";

const KEY = new Uint8Array(32).fill(7);

async function* cut(bytes: Uint8Array, step: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += step) yield bytes.subarray(at, at + step);
}

async function all(parts: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const list: Uint8Array[] = [];
  for await (const part of parts) list.push(part);
  return concat(list);
}

const seal = (file: Uint8Array, padding: Padding = { kind: "none" }) =>
  all(sealFile(cut(file, 10_007), KEY, { padding }));

const padding: fc.Arbitrary<Padding> = fc.oneof(
  fc.constant({ kind: "none" } as const),
  fc.constant({ kind: "padme" } as const),
  fc.integer({ min: 1, max: 300_000 }).map((bytes) => ({ kind: "multiple", bytes }) as const),
);
const size = fc.oneof(
  fc.integer({ min: 0, max: 300_000 }),
  fc.constantFrom(0, 1, SEGMENT_CAPACITY - 1, SEGMENT_CAPACITY, SEGMENT_CAPACITY + 1, 2 * SEGMENT_CAPACITY),
);

test("sealed file: opens to what was sealed, has the announced size, whatever the padding and the pieces", async () => {
  await fc.assert(
    fc.asyncProperty(size, padding, fc.integer({ min: 1, max: 200_000 }), async (bytes, padding, step) => {
      const file = randomBytes(bytes);
      const sealed = await seal(file, padding);
      assert.equal(sealed.length, sealedSize(bytes, padding));
      assert.ok(Buffer.from(await all(openFile(cut(sealed, step), KEY))).equals(file));
    }),
    { numRuns: 60 },
  );
});

test("sealed file: a seal or an opening that resumes at a segment gives the same bytes", async () => {
  const file = randomBytes(3 * SEGMENT_CAPACITY + 500);
  const padding = { kind: "multiple", bytes: 6 * SEGMENT_BYTES } as const;
  const sealed = await seal(file, padding);
  for (let first = 0; first <= 5; first++) {
    const rest = cut(file.subarray(first * SEGMENT_CAPACITY), 9999);
    const again = await all(sealFile(rest, KEY, { padding, first, fileBytes: file.length }));
    assert.deepEqual(again, sealed.subarray(first * SEGMENT_BYTES));
    const opened = await all(openFile(cut(sealed.subarray(first * SEGMENT_BYTES), 1234), KEY, { first }));
    assert.ok(Buffer.from(opened).equals(file.subarray(first * SEGMENT_CAPACITY)));
  }
});

test("sealed file: every change, cut, swap, repetition and wrong key is noticed", async () => {
  const file = randomBytes(2 * SEGMENT_CAPACITY + 77);
  const sealed = await seal(file);
  const [a, b, c] = [0, 1, 2].map((at) => sealed.subarray(at * SEGMENT_BYTES, (at + 1) * SEGMENT_BYTES));
  const flipped = (at: number) => sealed.map((byte, index) => (index === at ? byte ^ 1 : byte));
  const attempts: Record<string, Uint8Array> = {
    "first byte": flipped(0),
    "last byte": flipped(sealed.length - 1),
    "last byte of a segment": flipped(SEGMENT_BYTES - 1),
    empty: new Uint8Array(),
    "without the end": concat([a, b] as Uint8Array[]),
    "cut by a byte": sealed.subarray(0, -1),
    "a byte more": concat([sealed, new Uint8Array(1)]),
    swapped: concat([b, a, c] as Uint8Array[]),
    repeated: concat([a, a, b, c] as Uint8Array[]),
    "last segment alone": c as Uint8Array,
  };
  for (const [what, bytes] of Object.entries(attempts)) {
    await assert.rejects(all(openFile(cut(bytes, 5000), KEY)), isDamage, what);
  }
  await assert.rejects(all(openFile(cut(sealed, 5000), randomBytes(32))), isDamage);
  assert.ok(Buffer.from(await all(openFile(cut(sealed, 5000), KEY))).equals(file), "control");
});

test("sealed size: Padmé adds at most 12 %, and gives few sizes", () => {
  for (let bytes = 1; bytes < 5_000_000; bytes = Math.ceil(bytes * 1.01) + 3) {
    const [plain, padded] = [sealedSize(bytes, { kind: "none" }), sealedSize(bytes, { kind: "padme" })];
    assert.ok(padded >= plain && padded <= plain * 1.12 + 20, `${bytes}`);
  }
  const sizes = new Set<number>();
  for (let bytes = 1_000_000; bytes < 2_000_000; bytes += 100)
    sizes.add(sealedSize(bytes, { kind: "padme" }));
  assert.ok(sizes.size <= 64, `${sizes.size}`);
});

function isDamage(error: unknown): boolean {
  return error instanceof ProtocolError && error.code === "integrity";
}
