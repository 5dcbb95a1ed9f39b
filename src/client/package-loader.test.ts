import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { BentoError } from "../base/errors.ts";
import { loadPackage } from "./package-loader.ts";

async function folder(t: TestContext, files: Readonly<Record<string, string>>): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-package-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  for (const [name, text] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(dir, name)), { recursive: true });
    await writeFile(path.join(dir, name), text);
  }
  return dir;
}

const code = (wanted: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof BentoError, String(error));
  assert.equal(error.code, wanted, error.message);
  assert.match(error.message, message);
  return true;
};

const MANIFEST = '{"name": "add", "image": "deno"}';

test("loadPackage: a folder's TypeScript is bundled with what it imports, the API left to the runner", async (t) => {
  const dir = await folder(t, {
    "manifest.json": MANIFEST,
    "function.ts":
      'import { defineFunction } from "#bento/function"; import { two } from "./lib/two.ts"; import { three } from "three"; export default defineFunction({ async invoke(session) { await session.send(String(two + three)); } });',
    "lib/two.ts": "export const two: number = 2;",
    "node_modules/three/package.json": '{"name": "three", "main": "index.js"}',
    "node_modules/three/index.js": "exports.three = 3;",
  });
  const loaded = await loadPackage(dir);
  const { source } = loaded.package;
  assert.match(source, /from "bento\/function"/);
  assert.match(source, /var two = 2/);
  assert.doesNotMatch(source, /#bento|: number|from "three"/);
  assert.ok(!source.includes(tmpdir()), "no path of this machine is sent");
  assert.equal(loaded.name, "add");
  assert.equal(loaded.inputs.at(0), "function.ts");
  assert.equal(loaded.inputs.length, 3);
  assert.match(loaded.sourceHash, /^[0-9a-f]{64}$/);
});

test("loadPackage: Python goes as it is", async (t) => {
  const source = 'def hello():\n    api.send("hello world")\n';
  const dir = await folder(t, { "my_hello.py": source });
  const loaded = await loadPackage(path.join(dir, "my_hello.py"));
  assert.equal(loaded.package.source, source);
  assert.deepEqual(loaded.package.manifest, { name: "my-hello", image: "python" });
});

test("loadPackage: NAME.manifest.json belongs to a lone file, a stray manifest.json does not", async (t) => {
  const dir = await folder(t, {
    "a.py": "x = 1\n",
    "b.py": "x = 1\n",
    "a.manifest.json": '{"name": "mine", "image": "python"}',
    "manifest.json": '{"manifest_version": 3}',
  });
  assert.equal((await loadPackage(path.join(dir, "a.py"))).name, "mine");
  assert.equal((await loadPackage(path.join(dir, "b.py"))).name, "b");
});

test("loadPackage: a bundled function by its name", async (t) => {
  const dir = await folder(t, { "add/manifest.json": MANIFEST, "add/function.js": "export default {};" });
  assert.equal((await loadPackage("add", { functionsDir: dir })).name, "add");
  await assert.rejects(loadPackage("ad", { functionsDir: dir }), (error: unknown) => {
    assert.match((error as BentoError).advice ?? "", /Did you mean add\?/);
    return code("usage", /Cannot find function "ad"/)(error);
  });
});

const BROKEN: readonly [string, Readonly<Record<string, string>>, string, RegExp][] = [
  ["no manifest", { "function.ts": "export default {};" }, "bad-package", /no manifest\.json/],
  ["no function", { "manifest.json": MANIFEST }, "bad-package", /has none of function\.ts/],
  [
    "a manifest that is not JSON",
    { "manifest.json": "{", "function.ts": "" },
    "bad-manifest",
    /manifest\.json/,
  ],
  [
    "an unknown key",
    { "manifest.json": '{"name": "a", "image": "deno", "memroy": "1MiB"}', "function.ts": "" },
    "bad-manifest",
    /memroy/,
  ],
  [
    "another image",
    { "manifest.json": MANIFEST, "function.py": "x = 1" },
    "bad-manifest",
    /image "deno", the file is for "python"/,
  ],
  [
    "a syntax error",
    { "manifest.json": MANIFEST, "function.ts": "\nexport default {" },
    "bad-package",
    /function\.ts:2/,
  ],
  [
    "a missing import",
    { "manifest.json": MANIFEST, "function.ts": 'import "nothing-of-this-name";' },
    "bad-package",
    /nothing-of-this-name/,
  ],
  [
    "empty Python",
    { "manifest.json": '{"name": "a", "image": "python"}', "function.py": " \n" },
    "bad-package",
    /empty/,
  ],
];
for (const [name, files, wanted, message] of BROKEN) {
  test(`loadPackage: refuses ${name}`, async (t) => {
    await assert.rejects(loadPackage(await folder(t, files)), code(wanted, message));
  });
}

test("loadPackage: refuses other kinds of files, and what is larger than any box takes", async (t) => {
  const dir = await folder(t, { "a.rb": "1", "big.py": `x = "${"y".repeat(4 * 1024 * 1024)}"` });
  await assert.rejects(loadPackage(path.join(dir, "a.rb")), code("usage", /\.ts, \.js or \.py/));
  await assert.rejects(loadPackage(path.join(dir, "big.py")), code("bad-package", /at most 4194304/));
});
