import assert from "node:assert/strict";
import { chmod, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { ImagePlan } from "./image.ts";
import { isReachable, Stage } from "./stage.ts";

async function scratch(): Promise<{ dir: string } & AsyncDisposable> {
  const dir = await mkdtemp(join(tmpdir(), "bento-stage-"));
  await chmod(dir, 0o755);
  return { dir, [Symbol.asyncDispose]: async () => rm(dir, { recursive: true, force: true }) };
}

test("isReachable: a private user needs every directory on the way", async () => {
  await using made = await scratch();
  const closed = join(made.dir, "closed");
  await mkdir(join(closed, "inner"), { recursive: true });
  await writeFile(join(closed, "inner/file"), "x");
  assert.equal(await isReachable(join(closed, "inner/file"), "private"), true);
  await chmod(closed, 0o700);
  assert.equal(await isReachable(join(closed, "inner/file"), "private"), false);
  assert.equal(await isReachable(join(closed, "inner/file"), "shared"), true);
  await chmod(closed, 0o711);
  assert.equal(await isReachable(join(closed, "inner/file"), "private"), true);
  await chmod(join(closed, "inner/file"), 0o600);
  assert.equal(await isReachable(join(closed, "inner/file"), "private"), false);
});

test("Stage.make: lays out files, texts and links, binds what is reachable, copies what is not, sweeps", async () => {
  await using made = await scratch();
  const hidden = join(made.dir, "hidden");
  const open = join(made.dir, "open");
  await mkdir(join(hidden, "sub"), { recursive: true });
  await mkdir(open);
  await writeFile(join(hidden, "sub/tool"), "tool", { mode: 0o700 });
  await writeFile(join(open, "library.so"), "library");
  await chmod(hidden, 0o700);
  const plan: ImagePlan = {
    name: "deno",
    version: "1",
    argv: [],
    env: {},
    memoryBytesMin: 1,
    staged: [{ source: join(open, "library.so"), target: "/lib/library.so" }],
    bound: [
      { source: open, target: "/opened" },
      { source: hidden, target: "/copied" },
    ],
    texts: [{ target: "/etc/hosts", text: "127.0.0.1 localhost\n" }],
    symlinks: [{ target: "/proc/self/exe", to: "/usr/bin/deno" }],
    devices: ["/dev/urandom"],
  };
  const dir = join(made.dir, "data");
  await mkdir(dir);
  await mkdir(join(dir, "bento-x-image-old"));
  const stage = await Stage.make(dir, "bento-x", [plan], "private");
  const image = stage.images[0];
  assert.ok(image);
  assert.deepEqual(image.binds, [{ source: open, target: "/opened" }]);
  assert.equal(await readFile(join(image.root, "lib/library.so"), "utf8"), "library");
  assert.equal(await readFile(join(image.root, "copied/sub/tool"), "utf8"), "tool");
  assert.equal((await stat(join(image.root, "copied/sub/tool"))).mode & 0o777, 0o755);
  assert.equal(await readlink(join(image.root, "proc/self/exe")), "/usr/bin/deno");
  assert.equal(await isReachable(join(image.root, "copied/sub/tool"), "private"), true);
  assert.deepEqual((await readdir(image.root)).sort(), [
    "copied",
    "dev",
    "etc",
    "lib",
    "opened",
    "proc",
    "tmp",
  ]);
  assert.equal((await readdir(dir)).length, 1, "the earlier life's directory is gone");
  await stage[Symbol.asyncDispose]();
  assert.deepEqual(await readdir(dir), []);
});
