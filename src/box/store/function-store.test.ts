import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { test } from "node:test";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { silentLog } from "../../base/log.ts";
import { BoxError } from "../../wire/error-code.ts";
import { parsePackage } from "../../wire/package.ts";
import { hashToken, newInvocationToken, newShutdownToken } from "../../wire/token.ts";
import { FunctionStore, type FunctionStoreOptions } from "./function-store.ts";

const SOURCE = "export default defineFunction({ invoke: uniqueMarkerOfTheSource });";

function pack(source = SOURCE) {
  return parsePackage({
    manifest: { name: "unique-marker-of-the-name", image: "deno", memory: "32MiB" },
    source,
  });
}

async function inFolder(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "bento-store-"));
  try {
    await use(dir);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

function options(dir: string, change: Partial<FunctionStoreOptions> = {}): FunctionStoreOptions {
  return { dir, functionsMax: 100, bytesMax: 2 ** 26, clock: new TestClock(1000), log: silentLog, ...change };
}

function hasCode(code: string) {
  return (error: unknown) => error instanceof BentoError && error.code === code;
}

test("FunctionStore: what was added is found by either token, also after reopening", async () => {
  await inFolder(async (dir) => {
    const first = await FunctionStore.open(options(dir));
    const added = await first.add(pack(), { expiresAt: 5000 });
    await first[Symbol.asyncDispose]();
    await using again = await FunctionStore.open(options(dir));
    assert.equal(again.count, 1);
    for (const found of [
      await again.findByInvocation(added.invocationToken),
      await again.findByShutdown(added.shutdownToken),
    ]) {
      assert.deepEqual(found, {
        id: added.id,
        package: pack(),
        sourceHash: added.sourceHash,
        storedAt: 1000,
        expiresAt: 5000,
      });
    }
  });
});

test("FunctionStore: unknown tokens, and tokens of the other kind, find nothing", async () => {
  await inFolder(async (dir) => {
    await using store = await FunctionStore.open(options(dir));
    const added = await store.add(pack(), { expiresAt: 5000 });
    assert.equal(await store.findByInvocation(newInvocationToken()), undefined);
    assert.equal(await store.findByShutdown(newShutdownToken()), undefined);
    assert.equal(await store.findByInvocation(added.shutdownToken as never), undefined);
    assert.equal(await store.findByShutdown(added.invocationToken as never), undefined);
  });
});

test("FunctionStore: the disk shows no token, name, manifest, source or source hash", async () => {
  await inFolder(async (dir) => {
    await using store = await FunctionStore.open(options(dir));
    const added = await store.add(pack(), { expiresAt: 5000 });
    const files = await readdir(dir);
    const disk = Buffer.concat(await Promise.all(files.map((file) => readFile(join(dir, file)))));
    // The negative control: the hash of the token does lie there, so these are the bytes of this function.
    assert.ok(disk.includes(hashToken(added.invocationToken)));
    const secrets = [
      added.invocationToken,
      added.shutdownToken,
      "unique-marker-of-the-name",
      "uniqueMarkerOfTheSource",
      "32MiB",
      added.sourceHash,
    ];
    for (const secret of secrets) assert.ok(!disk.includes(secret), secret);
    for (const file of files) assert.equal((await stat(join(dir, file))).mode & 0o077, 0, file);
  });
});

test("FunctionStore: an expired function is found no more, and expire removes it", async () => {
  await inFolder(async (dir) => {
    const clock = new TestClock(1000);
    await using store = await FunctionStore.open(options(dir, { clock }));
    const early = await store.add(pack("1"), { expiresAt: 2000 });
    const late = await store.add(pack("2"), { expiresAt: 3000 });
    await clock.advance(999);
    assert.ok(await store.findByInvocation(early.invocationToken));
    await clock.advance(1);
    assert.equal(await store.findByInvocation(early.invocationToken), undefined);
    assert.equal(await store.findByShutdown(early.shutdownToken), undefined);
    assert.deepEqual(await store.expire(clock.now()), [early.id]);
    assert.deepEqual(await store.expire(clock.now()), []);
    assert.equal(store.count, 1);
    assert.ok(await store.findByInvocation(late.invocationToken));
  });
});

test("FunctionStore.remove: the function, its row and its key are gone from the disk", async () => {
  await inFolder(async (dir) => {
    const store = await FunctionStore.open(options(dir));
    const added = await store.add(pack(), { expiresAt: 5000 });
    assert.equal(await store.remove(added.id), true);
    assert.equal(await store.remove(added.id), false);
    assert.equal(store.count, 0);
    assert.equal(await store.findByInvocation(added.invocationToken), undefined);
    await store[Symbol.asyncDispose]();
    const files = await readdir(dir);
    const disk = Buffer.concat(await Promise.all(files.map((file) => readFile(join(dir, file)))));
    assert.ok(!disk.includes(hashToken(added.invocationToken)));
  });
});

test("FunctionStore: takes functionsMax functions, and refuses one more until one is removed", async () => {
  await inFolder(async (dir) => {
    await using store = await FunctionStore.open(options(dir, { functionsMax: 2 }));
    const [first] = await Promise.all([
      store.add(pack("1"), { expiresAt: 5000 }),
      store.add(pack("2"), { expiresAt: 5000 }),
    ]);
    await assert.rejects(store.add(pack("3"), { expiresAt: 5000 }), hasCode("box-full"));
    await store.remove(first.id);
    await store.add(pack("3"), { expiresAt: 5000 });
    assert.equal(store.count, 2);
  });
});

test("FunctionStore: many adds at once are all kept", async () => {
  await inFolder(async (dir) => {
    const store = await FunctionStore.open(options(dir, { functionsMax: 1000 }));
    const added = await Promise.all(
      Array.from({ length: 600 }, (_, index) => store.add(pack(`${index}`), { expiresAt: 5000 })),
    );
    await store[Symbol.asyncDispose]();
    await using again = await FunctionStore.open(options(dir));
    for (const [index, { invocationToken }] of added.entries()) {
      assert.equal((await again.findByInvocation(invocationToken))?.package.source, `${index}`);
    }
  });
});

test("FunctionStore: a full disk refuses what does not fit, keeps what is there, and works again with room", async () => {
  await inFolder(async (dir) => {
    await using store = await FunctionStore.open(options(dir, { bytesMax: 2 ** 20 }));
    const small = await store.add(pack("small"), { expiresAt: 5000 });
    const big = await store.add(pack("x".repeat(900_000)), { expiresAt: 5000 });
    // Together in one batch: the one that does not fit must not take the other with it.
    const [tooBig, fits] = await Promise.allSettled([
      store.add(pack("y".repeat(900_000)), { expiresAt: 5000 }),
      store.add(pack("fits"), { expiresAt: 5000 }),
    ]);
    assert.ok(tooBig.status === "rejected" && tooBig.reason instanceof BoxError);
    assert.equal(tooBig.reason.code, "disk-full");
    assert.ok(fits.status === "fulfilled");
    assert.equal(store.count, 3);
    assert.ok(await store.findByInvocation(small.invocationToken));
    await store.remove(big.id);
    const later = await store.add(pack("y".repeat(900_000)), { expiresAt: 5000 });
    assert.ok(await store.findByInvocation(later.invocationToken));
  });
});

test("FunctionStore.open: refuses a damaged database and says what to do", async () => {
  await inFolder(async (dir) => {
    const store = await FunctionStore.open(options(dir));
    for (let index = 0; index < 40; index++) await store.add(pack(`${index}`), { expiresAt: 5000 });
    await store[Symbol.asyncDispose]();
    const path = join(dir, "functions.sqlite");
    const bytes = await readFile(path);
    bytes.fill(0xa5, 4096 * 2, 4096 * 6);
    await writeFile(path, bytes);
    await assert.rejects(
      FunctionStore.open(options(dir)),
      (error) =>
        error instanceof BentoError &&
        error.code === "store-corrupt" &&
        /start again/.test(error.advice ?? ""),
    );
    await writeFile(path, "this is no database at all, but some other file of somebody");
    await assert.rejects(FunctionStore.open(options(dir)), hasCode("store-corrupt"));
  });
});

test("FunctionStore.open: refuses another program's database and a folder in use", async () => {
  await inFolder(async (dir) => {
    await using _store = await FunctionStore.open(options(dir));
    await assert.rejects(FunctionStore.open(options(dir)), hasCode("store-busy"));
  });
  await inFolder(async (dir) => {
    const foreign = new DatabaseSync(join(dir, "functions.sqlite"));
    foreign.exec("CREATE TABLE theirs (a)");
    foreign.close();
    await assert.rejects(FunctionStore.open(options(dir)), hasCode("store-unusable"));
  });
});

test("FunctionStore: a row moved to another function's tokens opens for nobody", async () => {
  await inFolder(async (dir) => {
    const store = await FunctionStore.open(options(dir));
    const mine = await store.add(pack("mine"), { expiresAt: 5000 });
    const other = await store.add(pack("other"), { expiresAt: 5000 });
    await store[Symbol.asyncDispose]();
    const db = new DatabaseSync(join(dir, "functions.sqlite"));
    db.prepare("UPDATE function SET invocation_hash = 'x' WHERE id = ?").run(mine.id);
    db.prepare("UPDATE function SET invocation_hash = ? WHERE id = ?").run(
      hashToken(mine.invocationToken),
      other.id,
    );
    db.prepare("UPDATE function SET expires_at = 9000 WHERE id = ?").run(mine.id);
    db.close();
    await using again = await FunctionStore.open(options(dir));
    await assert.rejects(again.findByInvocation(mine.invocationToken), hasCode("store-failed"));
    await assert.rejects(again.findByShutdown(mine.shutdownToken), hasCode("store-failed"));
    assert.ok(await again.findByShutdown(other.shutdownToken));
  });
});

test("FunctionStore: dispose finishes what was asked, can be repeated, and ends the store", async () => {
  await inFolder(async (dir) => {
    const store = await FunctionStore.open(options(dir));
    const { durable } = store.startAdd(pack(), { expiresAt: 5000 });
    await Promise.all([store[Symbol.asyncDispose](), store[Symbol.asyncDispose]()]);
    await durable;
    await assert.rejects(store.findByInvocation(newInvocationToken()), hasCode("shutting-down"));
  });
});
