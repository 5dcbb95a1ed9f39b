import assert from "node:assert/strict";
import { test } from "node:test";
import { FAMILY_MAX } from "../wire/api.ts";
import { familyOf } from "./companion.ts";

const [A, B, C] = ["A", "B", "C"].map((letter) => letter.repeat(40)) as [string, string, string];

test("familyOf: fingerprints in every form that torrc takes, each once; nicknames are nobody", () => {
  assert.deepEqual(familyOf([`$${A},${B.toLowerCase()}`, `$${C}=name, $${A}~name`]), [A, B, C]);
  assert.deepEqual(familyOf(["nickname", `x${A}`, `${A}0`, A.slice(1), "$", ""]), []);
});

test("familyOf: as many as are told and not one more", () => {
  const many = Array.from({ length: FAMILY_MAX + 1 }, (_, index) => index.toString(16).padStart(40, "0"));
  assert.equal(familyOf([many.join(",")]).length, FAMILY_MAX);
});
