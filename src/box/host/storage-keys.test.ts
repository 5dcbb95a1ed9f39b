import assert from "node:assert/strict";
import { test } from "node:test";
import { StorageKeys } from "./storage-keys.ts";

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

test("StorageKeys: each key is its own, also across blocks, and stays while others come and go", () => {
  const keys = new StorageKeys();
  const places = Array.from({ length: 300 }, () => keys.create());
  const first = places.map((place) => hex(keys.bytes(place)));
  assert.equal(new Set(first).size, 300);
  for (const place of places.filter((_, at) => at % 2 === 0)) keys.erase(place);
  const added = Array.from({ length: 200 }, () => keys.create());
  for (const [at, place] of places.entries()) {
    if (at % 2 === 1) assert.equal(hex(keys.bytes(place)), first[at]);
  }
  const kept = places.filter((_, at) => at % 2 === 1);
  const all = [...kept, ...added].map((place) => hex(keys.bytes(place)));
  assert.equal(new Set(all).size, all.length, "a place is given out once at a time");
  assert.ok(Math.max(...added) < 350, "places of erased keys are used again");
});

test("StorageKeys: an erased key is overwritten in memory", () => {
  const keys = new StorageKeys();
  const place = keys.create();
  const view = keys.bytes(place);
  assert.notEqual(hex(view), "00".repeat(32));
  keys.erase(place);
  assert.equal(hex(view), "00".repeat(32));
  assert.throws(() => keys.bytes(1000), RangeError);
});
