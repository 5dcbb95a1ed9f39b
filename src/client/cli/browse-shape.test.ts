import assert from "node:assert/strict";
import { test } from "node:test";
import { BentoError } from "../../base/errors.ts";
import { explain, shapeOf, webPopulation } from "./browse-shape.ts";

const MIB = 1024 * 1024;

test("shapeOf: five sizes at half a mebibyte a second unless something else is asked for", () => {
  const shape = shapeOf({});
  assert.ok(shape.kind === "bucket");
  assert.deepEqual([shape.bytes.length, shape.bytes.at(-1), shape.rate], [5, 12 * MIB, MIB / 2]);
  assert.deepEqual(shapeOf({ pad: "1MiB" }), { kind: "none", pad: MIB });
  assert.deepEqual(shapeOf({ shape: "none" }), { kind: "none", pad: 0 });
  assert.deepEqual(shapeOf({ sizes: "2MiB,1B,2MiB", rate: "64KiB/s" }), {
    kind: "bucket",
    bytes: [4096, 2 * MIB],
    rate: 65_536,
  });
  assert.deepEqual(shapeOf({ fit: "1" }, { name: "own", sizes: [1, 100_000] }), {
    kind: "bucket",
    bytes: [131_072],
    rate: MIB / 2,
  });
});

test("shapeOf: what is no shape is refused as wrong use", () => {
  for (const options of [
    { sizes: "heavy" },
    { sizes: "0KiB" },
    { sizes: "1MiB,x" },
    { sizes: "129MiB" },
    { sizes: "" },
    { rate: "1KiB" },
    { shape: "round" },
    { shape: "bucket", pad: "1MiB" },
    { pad: "x" },
    { fit: "0" },
    { fit: "33" },
    { fit: "x" },
  ]) {
    assert.throws(
      () => shapeOf(options),
      (error) => error instanceof BentoError && error.code === "usage",
      JSON.stringify(options),
    );
  }
});

test("explain: names sizes, times, cost, bound and what it assumes; promises nothing without a shape", () => {
  const { lines, json } = explain(
    shapeOf({ sizes: "1MiB,4MiB" }),
    { name: "own", sizes: [MIB, 2 * MIB] },
    MIB / 2,
  );
  const text = lines.join("\n");
  for (const part of ["1 MiB  2.0 s", "4 MiB  8.0 s", "+100 %", "+67 %", "2 times in N", "It assumes"]) {
    assert.ok(text.includes(part), `${part} in ${text}`);
  }
  assert.equal(json["size"], MIB);
  assert.match(explain(shapeOf({ pad: "0" }), webPopulation()).lines.join(" "), /nothing is promised/);
});
