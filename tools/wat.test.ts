import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { generatedModules } from "./wat.ts";

test("wat: the committed bytes are those of the source", async () => {
  for (const [path, content] of await generatedModules()) {
    assert.equal(
      readFileSync(new URL(`../${path}`, import.meta.url), "utf8"),
      content,
      `run tools/wat.ts for ${path}`,
    );
  }
});
