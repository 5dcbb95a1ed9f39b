import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { closeSchema, invocationSchema, listingSchema, outcomeSchema, PATHS, storedSchema } from "./api.ts";

test("invocationSchema: arguments or a call, never both, never anything else", () => {
  assert.deepEqual(invocationSchema.parse({ args: [1, "a", null, { b: [true] }] }), {
    args: [1, "a", null, { b: [true] }],
  });
  assert.deepEqual(invocationSchema.parse({ call: "f()" }), { call: "f()" });
  for (const wrong of [
    {},
    { args: [], call: "f()" },
    { call: "" },
    { args: "x" },
    { args: [], more: 1 },
    null,
    [],
  ]) {
    assert.equal(invocationSchema.safeParse(wrong).success, false, JSON.stringify(wrong));
  }
});

test("invocationSchema: n arguments pass, n + 1 do not", () => {
  assert.equal(invocationSchema.safeParse({ args: Array(256).fill(0) }).success, true);
  assert.equal(invocationSchema.safeParse({ args: Array(257).fill(0) }).success, false);
});

test("invocationSchema: leaves out a key that could become a prototype", () => {
  const sent = JSON.parse('{"args":[{"a":1,"__proto__":{"b":2}}]}') as unknown;
  assert.equal(JSON.stringify(invocationSchema.parse(sent)), '{"args":[{"a":1}]}');
});

test("invocationSchema: takes every other JSON value as an argument and gives it back unchanged", () => {
  fc.assert(
    fc.property(fc.array(fc.jsonValue({ maxDepth: 3 }), { maxLength: 5 }), (args) => {
      const text = JSON.stringify({ args });
      fc.pre(!text.includes('"__proto__"'));
      const sent = JSON.parse(text) as unknown;
      assert.deepEqual(invocationSchema.parse(sent), sent);
    }),
  );
});

test("closeSchema: kills only when asked to", () => {
  assert.deepEqual(closeSchema.parse({}), { kill: false });
  assert.deepEqual(closeSchema.parse({ kill: true }), { kill: true });
  assert.equal(closeSchema.safeParse({ kill: "yes" }).success, false);
});

test("answers: what a box says wrongly is refused, for clients do not trust it", () => {
  assert.equal(outcomeSchema.safeParse({ kind: "killed", reason: "boredom" }).success, false);
  assert.equal(storedSchema.safeParse({ invocationToken: 1 }).success, false);
  assert.equal(listingSchema.safeParse({ instances: {} }).success, false);
});

test("PATHS: no path holds a place for a token", () => {
  for (const path of Object.values(PATHS)) assert.match(path, /^\/(v1\/[a-z]+)?$/);
});
