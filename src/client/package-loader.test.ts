import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { BentoError } from "../base/errors.ts";
import { noticesOf } from "./bundle.ts";
import { PACKAGE_FILE_BYTES_MAX, packageFileText, parsePackageFile } from "./package-file.ts";
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

const LICENSED: Readonly<Record<string, string>> = {
  "manifest.json": '{"$schema": "/home/ada/manifest.schema.json", "name": "add", "image": "deno"}',
  "function.ts":
    'import { defineFunction } from "bento/function"; import { three } from "three"; export default defineFunction({ async invoke(session) { await session.send(String(three)); } });',
};
const THREE: Readonly<Record<string, string>> = {
  "three/package.json": '{"name": "three", "version": "3.1.0", "license": "MIT", "main": "index.js"}',
  "three/index.js": "/*! three by Trina */\nexports.three = 3;",
  "three/LICENSE": "Permission is hereby granted by Trina.",
};
const under = (prefix: string, files: Readonly<Record<string, string>>) =>
  Object.fromEntries(Object.entries(files).map(([name, text]) => [`${prefix}${name}`, text]));

test("loadPackage: the same function gives the same bytes wherever it and its packages lie", async (t) => {
  const near = await folder(t, { ...LICENSED, ...under("node_modules/", THREE) });
  const far = await folder(t, { ...under("a/b/", LICENSED), ...under("node_modules/", THREE) });
  const linked = await folder(t, { ...LICENSED, "x.txt": "" });
  await symlink(path.join(far, "node_modules"), path.join(linked, "node_modules"));
  const [one, ...others] = await Promise.all(
    [near, path.join(far, "a/b"), linked].map(async (dir) => {
      const loaded = await loadPackage(dir);
      return packageFileText(loaded, await noticesOf(dir, loaded.inputs));
    }),
  );
  for (const other of others) assert.equal(other, one);
  assert.doesNotMatch(one ?? "", /bento-package|\.\.\/|home\/ada/, "no path of this machine");
});

test("package file: keeps licences, and is a function like its folder", async (t) => {
  const dir = await folder(t, { ...LICENSED, ...under("node_modules/", THREE) });
  const loaded = await loadPackage(dir);
  assert.match(loaded.package.source, /three by Trina/, "what licences ask to be kept");
  const notices = await noticesOf(dir, loaded.inputs);
  assert.deepEqual(notices, [
    { name: "three", version: "3.1.0", licence: "MIT", text: "Permission is hereby granted by Trina." },
  ]);
  const file = path.join(dir, "add.bento.json");
  await writeFile(file, packageFileText(loaded, notices));
  const again = await loadPackage(file);
  assert.deepEqual(again.package, loaded.package);
  assert.equal(again.sourceHash, loaded.sourceHash);
  assert.equal(packageFileText(again, again.notices ?? []), await readFile(file, "utf8"));
});

for (const [what, text] of [
  ["a manifest alone", '{"name": "add", "image": "deno"}'],
  ["another version", '{"bentoPackage":2,"manifest":{},"source":"x","notices":[]}'],
  ["an unknown key", '{"bentoPackage":1,"manifest":{},"source":"x","notices":[],"more":1}'],
  ["no JSON", "{"],
] as const) {
  test(`package file: refuses ${what}`, async (t) => {
    const dir = await folder(t, { "x.bento.json": text });
    await assert.rejects(loadPackage(path.join(dir, "x.bento.json")), code("bad-package", /x\.bento\.json/));
  });
}

test("package file: at most so many bytes", async () => {
  const packed = { bentoPackage: 1, manifest: { name: "a", image: "deno" }, source: "", notices: [] };
  const sized = (bytes: number) => {
    const source = "x".repeat(bytes - JSON.stringify(packed).length);
    return Buffer.from(JSON.stringify({ ...packed, source }));
  };
  parsePackageFile("a.json", sized(PACKAGE_FILE_BYTES_MAX));
  assert.throws(
    () => parsePackageFile("a.json", sized(PACKAGE_FILE_BYTES_MAX + 1)),
    code("bad-package", /at most/),
  );
});
