import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { BoxError } from "./error-code.ts";
import { parseManifest } from "./manifest.ts";

const MINIMAL = { name: "hello", image: "deno" };

function messageOf(input: unknown): string {
  try {
    parseManifest(input);
  } catch (error) {
    assert.ok(error instanceof BoxError && error.code === "bad-manifest", String(error));
    return error.message;
  }
  throw new assert.AssertionError({ message: `accepted ${JSON.stringify(input)}` });
}

test("parseManifest: turns quantities into numbers", () => {
  const manifest = parseManifest({
    ...MINIMAL,
    net: { allow: ["*:443"], connections: 4, bytes: "1MiB" },
    storage: { bytes: "2MiB" },
    memory: "64MiB",
    cpu: "50%",
    lifetime: "1d",
    runtime: "10m",
  });
  assert.deepEqual(manifest, {
    ...MINIMAL,
    syscalls: [],
    box: [],
    net: { allow: ["*:443"], connections: 4, bytes: 2 ** 20 },
    storage: { bytes: 2 ** 21 },
    memory: 2 ** 26,
    cpu: 50,
    lifetime: 86_400_000,
    runtime: 600_000,
  });
});

test("parseManifest: asks for nothing unless told to", () => {
  assert.deepEqual(parseManifest(MINIMAL), { ...MINIMAL, syscalls: [], box: [] });
});

test("parseManifest: names every wrong field", () => {
  const message = messageOf({ name: "Bad Name", image: "java", memory: 64, netz: {}, net: { allow: ["*"] } });
  for (const part of ["name: ", "image: ", "memory: ", "netz", "net.allow.0: "])
    assert.ok(message.includes(part), message);
});

test("parseManifest: names have 1 to 64 characters", () => {
  assert.equal(parseManifest({ ...MINIMAL, name: "a".repeat(64) }).name.length, 64);
  for (const name of ["", "a".repeat(65), "-a", "a_b", "a/b", "A", "a\n"]) messageOf({ ...MINIMAL, name });
});

test("parseManifest: takes 64 destinations and not 65", () => {
  const allow = (count: number) => ({
    ...MINIMAL,
    net: { allow: Array.from({ length: count }, () => "*:1") },
  });
  assert.equal(parseManifest(allow(64)).net?.allow.length, 64);
  messageOf(allow(65));
  messageOf(allow(0));
});

test("parseManifest: gains nothing from __proto__ and constructor", () => {
  const input = JSON.parse('{"name":"a","image":"deno","__proto__":{"memory":"1GiB"}}') as unknown;
  const text = messageOf(input);
  assert.match(text, /__proto__/);
  messageOf({ ...MINIMAL, constructor: {} });
});

test("parseManifest: any JSON value is a manifest or a BoxError of bounded length", () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.jsonValue(),
        fc.record({ name: fc.jsonValue(), image: fc.jsonValue(), net: fc.jsonValue() }),
      ),
      (value) => {
        try {
          parseManifest(value);
        } catch (error) {
          assert.ok(error instanceof BoxError && error.message.length <= 1600);
        }
      },
    ),
  );
});
