import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { NODE_ARGUMENTS } from "./node-arguments.ts";

/** Makes garbage of which some lives for a while, as a box does; prints the bytes that are kept for new objects. */
const WORKS = `
const lately = [];
for (let round = 0; round < 400; round++) {
  lately[round % 50] = Array.from({ length: 10_000 }, (_, at) => ({ at, text: String(at) }));
}
const spaces = require("node:v8").getHeapSpaceStatistics();
console.log(spaces.find((space) => space.space_name === "new_space").space_size);
`;

function keptForNew(args: readonly string[]): number {
  return Number(execFileSync(process.execPath, [...args, "-e", WORKS], { encoding: "utf8", env: {} }));
}

test("NODE_ARGUMENTS: what is kept for new objects stays small", () => {
  const kept = keptForNew(NODE_ARGUMENTS);
  assert.ok(kept <= 4 * 2 ** 20, `${kept} bytes`);
  const control = keptForNew([]);
  assert.ok(control > 12 * 2 ** 20, `control: ${control} bytes when Node is left alone`);
});

test("NODE_ARGUMENTS: the launcher starts Node with them", () => {
  const launcher = readFileSync(new URL("../../bento", import.meta.url), "utf8");
  assert.ok(launcher.includes(`exec "$node" ${NODE_ARGUMENTS.join(" ")} "$root/src/bin/bento.ts" "$@"`));
});
