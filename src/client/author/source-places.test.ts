import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { loadPackage } from "../package-loader.ts";
import { explainTraceback } from "./source-places.ts";

const FILES: Readonly<Record<string, string>> = {
  "manifest.json": '{"name": "a", "image": "deno"}',
  "function.ts": `import { defineFunction } from "bento/function";
import { twice } from "./lib/twice.ts";

export default defineFunction({
  async invoke(session) {
    await session.send(twice("x"));
  },
});
`,
  "lib/twice.ts": `interface Unused { readonly a: string }

export function twice(text: string): string {
\tif (text.length > 0) throw new TypeError("no");
  return text + text;
}
`,
};

async function loaded(t: TestContext) {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-places-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  await mkdir(path.join(dir, "lib"));
  for (const [name, text] of Object.entries(FILES)) await writeFile(path.join(dir, name), text);
  return loadPackage(dir);
}

test("explainTraceback: places in the bundle become places in the author's files, with the line", async (t) => {
  const pack = await loaded(t);
  // What the runtime says is taken from the bundle itself.
  const lines = pack.package.source.split("\n");
  const at = lines.findIndex((line) => line.includes("new TypeError"));
  const column = (lines[at] ?? "").indexOf("new TypeError");
  const sent = lines.findIndex((line) => line.includes("session.send"));
  const traceback = `TypeError: no\n    at twice (function.ts:${at + 1}:${column + 1})\n    at Object.invoke (function.ts:${sent + 1}:24)`;
  const explained = await explainTraceback(traceback, pack);
  assert.match(explained, /at twice \(lib\/twice\.ts:4:29\)\n {4}at Object\.invoke \(function\.ts:6:\d+\)/);
  const shown = explained.split("\n").slice(-4);
  assert.deepEqual(shown, [
    "  2 | ",
    "  3 | export function twice(text: string): string {",
    '  4 | \tif (text.length > 0) throw new TypeError("no");',
    `    | \t${" ".repeat(27)}^`,
  ]);
});

test("explainTraceback: hostile and unknown places are left as they are", async (t) => {
  const pack = await loaded(t);
  for (const text of [
    "",
    "x: y",
    "at f (function.ts:999999:1)",
    "at f (function.ts:0:0)",
    "function.ts:1:999999999",
  ])
    assert.ok((await explainTraceback(text, pack)).length < text.length + 400, text);
  assert.equal(
    await explainTraceback("at f (function.ts:999999999999:1)", pack),
    "at f (function.ts:999999999999:1)",
  );
});

test("explainTraceback: Python's file has its own name", async (t) => {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-places-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  await writeFile(path.join(dir, "add.py"), "def add(x, y):\n    return x + y\n");
  const pack = await loadPackage(path.join(dir, "add.py"));
  assert.equal(
    await explainTraceback('  File "function.py", line 2, in add', pack),
    '  File "add.py", line 2, in add',
  );
});
