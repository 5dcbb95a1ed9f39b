import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { parseBoxConfig } from "../src/box/config.ts";
import { generated } from "./schemas.ts";

test("schemas: the generated files in docs are current (else run: node tools/schemas.ts)", async () => {
  for (const [path, content] of generated()) {
    assert.equal(await readFile(new URL(`../${path}`, import.meta.url), "utf8"), content, path);
  }
});

test("box.example.toml: means the same as an empty file", () => {
  assert.deepEqual(parseBoxConfig(generated().get("docs/box.example.toml") ?? "x"), parseBoxConfig(""));
});

test("box.example.toml: each key without a default has an example that can be used as it stands", () => {
  const lines = (generated().get("docs/box.example.toml") ?? "").split("\n");
  let section = "";
  let tried = 0;
  for (const line of lines) {
    if (line.startsWith("[")) section = line;
    if (!/^# \w+ = /.test(line)) continue;
    tried++;
    assert.notDeepEqual(parseBoxConfig(`${section}\n${line.slice(2)}`), parseBoxConfig(""), line);
  }
  assert.equal(tried, 9);
});
