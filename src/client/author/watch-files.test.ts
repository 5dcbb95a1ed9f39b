import assert from "node:assert/strict";
import { mkdir, mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { FileWatcher } from "./watch-files.ts";

/** A change that is not noticed within this is not noticed: milliseconds. */
const NOTICE_MS = 20_000;

async function watched(t: TestContext, names: readonly string[]) {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-watch-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  let count = 0;
  let noticed = Promise.withResolvers<void>();
  const watcher = new FileWatcher(() => {
    count++;
    noticed.resolve();
  });
  t.after(() => watcher[Symbol.dispose]());
  const files = names.map((name) => path.join(dir, name));
  for (const file of files) {
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, "1");
  }
  await watcher.set(files);
  return {
    dir,
    watcher,
    count: () => count,
    /** Resolves when the change that `change` makes has been told; throws when it is not. */
    notices: async (change: () => Promise<void>): Promise<void> => {
      noticed = Promise.withResolvers();
      await change();
      const late = setTimeout(() => noticed.reject(new Error("not noticed")), NOTICE_MS);
      await noticed.promise;
      clearTimeout(late);
    },
  };
}

test("FileWatcher: a save in place, and one by renaming over it, again and again", async (t) => {
  const { dir, notices, count } = await watched(t, ["function.ts", "lib/part.ts"]);
  const file = path.join(dir, "function.ts");
  await notices(() => writeFile(file, "2"));
  for (const text of ["3", "4"]) {
    await notices(async () => {
      await writeFile(`${file}.new`, text);
      await rename(`${file}.new`, file);
    });
  }
  await notices(() => writeFile(path.join(dir, "lib/part.ts"), "2"));
  await notices(() => rm(file));
  await notices(() => writeFile(file, "5"));
  assert.equal(count(), 6);
});

test("FileWatcher: tells one save of many writes once, and nothing where no content changes", async (t) => {
  const { dir, notices, count } = await watched(t, ["function.ts"]);
  const file = path.join(dir, "function.ts");
  await writeFile(path.join(dir, "other.ts"), "x");
  await writeFile(file, "1");
  await notices(async () => {
    for (const text of ["a", "ab", "abc"]) await writeFile(file, text);
  });
  // What would have been told of the first two writes was told by now.
  await notices(() => writeFile(file, "end"));
  assert.equal(count(), 2);
});

test("FileWatcher: a folder that is replaced, and the target of a link", async (t) => {
  const { dir, notices, watcher } = await watched(t, ["lib/part.ts", "real/target.ts"]);
  await notices(async () => {
    await rm(path.join(dir, "lib"), { recursive: true });
  });
  await notices(async () => {
    await mkdir(path.join(dir, "lib"));
    await writeFile(path.join(dir, "lib/part.ts"), "2");
  });
  await notices(() => writeFile(path.join(dir, "lib/part.ts"), "3"));
  const link = path.join(dir, "link.ts");
  await symlink(path.join(dir, "real/target.ts"), link);
  await watcher.set([link]);
  await notices(() => writeFile(path.join(dir, "real/target.ts"), "2"));
});

test("FileWatcher: tells nothing once it is closed", async (t) => {
  const { dir, watcher, count } = await watched(t, ["a.ts"]);
  const other = await watched(t, ["b.ts"]);
  watcher[Symbol.dispose]();
  await writeFile(path.join(dir, "a.ts"), "2");
  // A control: the same change, made later, was noticed by a watcher that is open.
  await other.notices(() => writeFile(path.join(other.dir, "b.ts"), "2"));
  assert.equal(count(), 0);
});
