import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import * as fc from "fast-check";
import { concat, utf8 } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import type { FunctionId } from "../store/function-store.ts";
import { STORAGE_LIMITS } from "./function-vault.ts";
import type { FunctionStorage, HeldValue } from "./services.ts";
import { StorageVault, type StorageVaultOptions } from "./storage.ts";
import { CHUNK_BYTES, sealedBytes } from "./storage-cipher.ts";

const A = "a".repeat(32) as FunctionId;
const B = "b".repeat(32) as FunctionId;
const MIB = 2 ** 20;
const ENTRY = STORAGE_LIMITS.entryBytes;
const never = new AbortController().signal;

async function inVault(
  use: (vault: StorageVault, dir: string) => Promise<void>,
  change: Partial<StorageVaultOptions> = {},
): Promise<void> {
  const root = await mkdtemp(join(tmpdir(), "bento-storage-"));
  try {
    const dir = join(root, "storage");
    await using vault = await StorageVault.open({ dir, bytesMax: 64 * MIB, ...change });
    await use(vault, dir);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

async function* pieces(...parts: readonly Uint8Array[]) {
  yield* parts;
}

async function put(storage: FunctionStorage, key: string, ...parts: readonly Uint8Array[]): Promise<void> {
  await storage.put(key, pieces(...parts), { signal: never });
}

async function collect(value: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of value) parts.push(part);
  return concat(parts);
}

async function read(storage: FunctionStorage, key: string, offset = 0): Promise<Uint8Array | undefined> {
  const found = await storage.get(key, { signal: never, offset });
  return found && collect(found.value);
}

async function filesIn(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
}

function hasCode(code: string) {
  return (error: unknown) => error instanceof BentoError && error.code === code;
}

function pattern(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 31 + seed * 17 + (index >>> 8)) & 0xff);
}

test("FunctionStorage: gives back what was put, from any offset, however it was cut", async () => {
  await inVault(async (vault) => {
    const storage = vault.forFunction(A, 32 * MIB);
    const near = (value: number) => fc.integer({ min: Math.max(0, value - 2), max: value + 2 });
    const length = fc.oneof(near(0), near(CHUNK_BYTES), near(2 * CHUNK_BYTES), fc.nat(200_000));
    await fc.assert(
      fc.asyncProperty(
        length,
        fc.array(fc.nat(200_000), { maxLength: 5 }),
        fc.nat(),
        async (bytes, cuts, at) => {
          const value = pattern(bytes);
          const places = [0, ...cuts.map((cut) => Math.min(cut, bytes)).sort((a, b) => a - b), bytes];
          await put(storage, "k", ...places.map((place, index) => value.subarray(place, places[index + 1])));
          const offset = at % (bytes + 1);
          assert.deepEqual(await read(storage, "k", offset), value.subarray(offset));
        },
      ),
      { numRuns: 40 },
    );
  });
});

test("FunctionStorage.get: refuses an offset outside of the value", async () => {
  await inVault(async (vault) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "k", utf8("abc"));
    assert.deepEqual(await read(storage, "k", 3), new Uint8Array());
    for (const offset of [4, -1, 0.5, Number.NaN, Infinity]) {
      await assert.rejects(read(storage, "k", offset), hasCode("storage-offset"));
    }
  });
});

test("StorageVault: the disk shows neither keys nor values nor function ids", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "a-key-to-look-for", utf8("a value to look for"));
    const files = await filesIn(dir);
    assert.equal(files.length, 1);
    for (const file of files) {
      const shown = `${file.slice(dir.length)}\n${(await readFile(file)).toString("latin1")}`;
      for (const secret of ["key-to-look", "value to look", A]) assert.ok(!shown.includes(secret), secret);
      assert.equal((await stat(file)).mode & 0o077, 0);
    }
  });
});

/** Puts two values of three chunks each, changes the first one's file, reads it. */
async function readDamaged(
  change: (mine: Buffer, other: Buffer) => Uint8Array,
  other: FunctionId = A,
): Promise<void> {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    const value = pattern(2 * CHUNK_BYTES + 100);
    await put(storage, "mine", value);
    const [mine = ""] = await filesIn(dir);
    await put(vault.forFunction(other, MIB), "other", value);
    const [theirs = ""] = (await filesIn(dir)).filter((file) => file !== mine);
    assert.deepEqual(await read(storage, "mine"), value);
    await writeFile(mine, change(await readFile(mine), await readFile(theirs)));
    await assert.rejects(read(storage, "mine"), hasCode("storage-damaged"));
  });
}

const SEALED = sealedBytes(CHUNK_BYTES);

test("FunctionStorage: a flipped bit in any part of any chunk is found", async () => {
  for (const at of [0, 40_000, SEALED - 1, SEALED, 2 * SEALED, 2 * SEALED + 99, 2 * SEALED + 115]) {
    await readDamaged((mine) => {
      mine[at] = (mine[at] ?? 0) ^ 1;
      return mine;
    });
  }
});

test("FunctionStorage: swapped, repeated, dropped and cut chunks are found", async () => {
  const chunk = (file: Buffer, index: number) => file.subarray(index * SEALED, (index + 1) * SEALED);
  await readDamaged((mine) => concat([chunk(mine, 1), chunk(mine, 0), chunk(mine, 2)]));
  await readDamaged((mine) => concat([chunk(mine, 0), chunk(mine, 0), chunk(mine, 2)]));
  await readDamaged((mine) => concat([chunk(mine, 0), chunk(mine, 2)]));
  await readDamaged((mine) => concat([chunk(mine, 0), chunk(mine, 1)]));
  await readDamaged((mine) => mine.subarray(0, -1));
  await readDamaged(() => new Uint8Array());
});

test("FunctionStorage: chunks of another value, and of another function, are found", async () => {
  await readDamaged((_, other) => other);
  await readDamaged((_, other) => other, B);
  await readDamaged((mine, other) => concat([mine.subarray(0, SEALED), other.subarray(SEALED)]));
});

test("FunctionStorage: an older version put back under the new one's name is found", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "k", utf8("old"));
    const [oldFile = ""] = await filesIn(dir);
    const old = await readFile(oldFile);
    await put(storage, "k", utf8("new"));
    const [newFile = ""] = (await filesIn(dir)).filter((file) => file !== oldFile);
    await writeFile(newFile, old);
    await assert.rejects(read(storage, "k"), hasCode("storage-damaged"));
  });
});

test("FunctionStorage: takes the quota to the byte and not one more, and gives back what is deleted", async () => {
  await inVault(async (vault) => {
    const bytes = 2 * CHUNK_BYTES + 10;
    const cost = ENTRY + 2 * SEALED + sealedBytes(10);
    const storage = vault.forFunction(A, cost);
    await assert.rejects(put(storage, "k", pattern(bytes + 1)), hasCode("storage-quota"));
    assert.equal(vault.bytesOf(A), 0);
    await put(storage, "k", pattern(bytes));
    assert.equal(vault.bytesOf(A), cost);
    await assert.rejects(put(storage, "other"), hasCode("storage-quota"));
    assert.equal(await storage.delete("k"), true);
    assert.equal(await storage.delete("k"), false);
    assert.equal(vault.bytesOf(A), 0);
    await put(storage, "other", pattern(bytes));
  });
});

test("FunctionStorage: many small values run into the quota by what they cost, not by their bytes", async () => {
  await inVault(async (vault) => {
    const storage = vault.forFunction(A, 10 * (ENTRY + sealedBytes(1)));
    for (let index = 0; index < 10; index++) await put(storage, `${index}`, utf8("x"));
    await assert.rejects(put(storage, "10", utf8("x")), hasCode("storage-quota"));
  });
});

test("FunctionStorage: takes keysPerFunctionMax and keysTotalMax values and not one more", async () => {
  const limits = { ...STORAGE_LIMITS, keysPerFunctionMax: 3, keysTotalMax: 5 };
  await inVault(
    async (vault) => {
      const mine = vault.forFunction(A, MIB);
      for (const key of ["1", "2", "3"]) await put(mine, key);
      await assert.rejects(put(mine, "4"), hasCode("storage-quota"));
      const other = vault.forFunction(B, MIB);
      for (const key of ["1", "2"]) await put(other, key);
      await assert.rejects(put(other, "3"), hasCode("disk-full"));
      await mine.delete("1");
      await put(other, "3");
    },
    { limits },
  );
});

test("StorageVault: all functions together stay within bytesMax", async () => {
  await inVault(
    async (vault) => {
      await put(vault.forFunction(A, MIB), "k", pattern(100));
      await assert.rejects(put(vault.forFunction(B, MIB), "k", pattern(101)), hasCode("disk-full"));
      await put(vault.forFunction(B, MIB), "k", pattern(100));
    },
    { bytesMax: 2 * (ENTRY + sealedBytes(100)) },
  );
});

test("FunctionStorage: takes keys of 1 to 512 bytes of any well-formed text", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    const good = [
      "k",
      "é".repeat(256),
      "x".repeat(512),
      "../../etc/passwd",
      "/",
      ".",
      "\0",
      "__proto__",
      "a\nb",
    ];
    for (const key of good) {
      await put(storage, key, utf8(key));
      assert.deepEqual(await read(storage, key), utf8(key));
    }
    for (const key of ["", "x".repeat(513), `${"é".repeat(256)}x`, "\ud800"]) {
      await assert.rejects(put(storage, key), hasCode("storage-key"));
      await assert.rejects(read(storage, key), hasCode("storage-key"));
      await assert.rejects(storage.delete(key), hasCode("storage-key"));
    }
    assert.equal((await filesIn(dir)).length, good.length);
  });
});

test("FunctionStorage: a function sees nothing of another one", async () => {
  await inVault(async (vault) => {
    await put(vault.forFunction(A, MIB), "k", utf8("secret"));
    const other = vault.forFunction(B, MIB);
    assert.equal(await read(other, "k"), undefined);
    assert.equal(await other.delete("k"), false);
    assert.deepEqual(await other.list({ prefix: "", limit: 10 }), []);
  });
});

test("FunctionStorage: what is being read stays as it was while it is replaced and deleted", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    const old = pattern(3 * CHUNK_BYTES, 1);
    await put(storage, "k", old);
    const early = await storage.get("k", { signal: never });
    assert.ok(early);
    const iterator = early.value[Symbol.asyncIterator]();
    const first = await iterator.next();
    await put(storage, "k", utf8("new"));
    assert.deepEqual(await read(storage, "k"), utf8("new"));
    await storage.delete("k");
    const rest = await collect({ [Symbol.asyncIterator]: () => iterator });
    assert.ok(!first.done);
    assert.deepEqual(concat([first.value, rest]), old);
    assert.equal(vault.bytesOf(A) > 0 || (await filesIn(dir)).length === 0, true);
  });
});

test("FunctionStorage: a reader that gives up or is aborted gives its version back", async () => {
  await inVault(async (vault) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "k", pattern(3 * CHUNK_BYTES));
    const stopped = await storage.get("k", { signal: never });
    assert.ok(stopped);
    for await (const _ of stopped.value) break;
    const abort = new AbortController();
    assert.ok(await storage.get("k", { signal: abort.signal }));
    await storage.delete("k");
    assert.ok(vault.bytesOf(A) > 0);
    abort.abort();
    while (vault.bytesOf(A) > 0) await new Promise((resolve) => setImmediate(resolve));
  });
});

test("FunctionStorage.put: keeps the old value when the new one fails, hangs or is aborted", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "k", utf8("old"));
    async function* failing() {
      yield pattern(2 * CHUNK_BYTES);
      throw new Error("the guest died");
    }
    await assert.rejects(storage.put("k", failing(), { signal: never }), /the guest died/);
    const abort = new AbortController();
    async function* hanging() {
      yield pattern(2 * CHUNK_BYTES);
      abort.abort(new Error("given up"));
      await new Promise(() => undefined);
    }
    await assert.rejects(storage.put("k", hanging(), { signal: abort.signal }), /given up/);
    assert.deepEqual(await read(storage, "k"), utf8("old"));
    assert.equal((await filesIn(dir)).length, 1);
    assert.equal(vault.bytesOf(A), ENTRY + sealedBytes(3));
  });
});

test("FunctionStorage.put: takes the next piece only when there is room for it", async () => {
  await inVault(async (vault) => {
    const storage = vault.forFunction(A, ENTRY + 2 * SEALED);
    let taken = 0;
    async function* endless() {
      for (;;) {
        taken++;
        yield pattern(CHUNK_BYTES);
      }
    }
    await assert.rejects(storage.put("k", endless(), { signal: never }), hasCode("storage-quota"));
    // Two chunks fit; the third waits in memory until the fourth shows that it is not the last.
    assert.equal(taken, 4);
  });
});

test("FunctionStorage: any order of put, get and delete on one key leaves one whole value or none", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, 60 * MIB);
    const values = Array.from({ length: 8 }, (_, index) => pattern(CHUNK_BYTES + index, index));
    await Promise.all(
      Array.from({ length: 48 }, async (_, index) => {
        const value = values[index % 8] ?? new Uint8Array();
        if (index % 3 === 0) await put(storage, "k", value);
        if (index % 3 === 1) {
          const found = await read(storage, "k");
          assert.ok(!found || values.some((value) => Buffer.compare(value, found) === 0));
        }
        if (index % 12 === 2) await storage.delete("k");
      }),
    );
    const left = await read(storage, "k");
    assert.ok(!left || values.some((value) => Buffer.compare(value, left) === 0));
    await storage.delete("k");
    assert.deepEqual(await storage.list({ prefix: "", limit: 10 }), []);
    while (vault.bytesOf(A) > 0) await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(await filesIn(dir), []);
  });
});

test("FunctionStorage.list: gives keys in order of bytes, by prefix, page by page", async () => {
  await inVault(async (vault) => {
    const storage = vault.forFunction(A, 32 * MIB);
    // U+FF61 sorts before U+1F600 by bytes, after it by UTF-16 units.
    const keys = ["b/2", "a", "b/1", "b", "\u{1f600}", "\uff61", "b/10", "c"];
    for (const key of keys) await put(storage, key, utf8(key));
    const list = async (prefix: string, limit = 100, after?: string) =>
      (await storage.list({ prefix, limit, ...(after === undefined ? {} : { after }) })).map(
        ({ key }) => key,
      );
    assert.deepEqual(await list(""), ["a", "b", "b/1", "b/10", "b/2", "c", "\uff61", "\u{1f600}"]);
    assert.deepEqual(await list("b/"), ["b/1", "b/10", "b/2"]);
    assert.deepEqual(await list("b/", 2), ["b/1", "b/10"]);
    assert.deepEqual(await list("b/", 2, "b/10"), ["b/2"]);
    assert.deepEqual(await list("b/", 2, "b/100"), ["b/2"], "after need not exist");
    assert.deepEqual(await list("b/", 2, "a"), ["b/1", "b/10"]);
    assert.deepEqual(await list("b/", 2, "c"), []);
    assert.deepEqual(await list("x"), []);
    assert.deepEqual(await storage.list({ prefix: "c", limit: 1 }), [{ key: "c", bytes: 1 }]);
  });
});

test("StorageVault.erase: ends writers and readers, removes the files, and a new key begins", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "k", pattern(3 * CHUNK_BYTES));
    const reader = await storage.get("k", { signal: never });
    assert.ok(reader);
    const started = Promise.withResolvers<void>();
    async function* hanging() {
      yield pattern(2 * CHUNK_BYTES);
      started.resolve();
      await new Promise(() => undefined);
    }
    const writing = assert.rejects(storage.put("w", hanging(), { signal: never }), hasCode("storage-erased"));
    await started.promise;
    await vault.erase(A);
    await writing;
    await assert.rejects(collect(reader.value), hasCode("storage-erased"));
    await assert.rejects(put(storage, "k"), hasCode("storage-erased"));
    assert.deepEqual(await readdir(dir), []);
    assert.equal(await read(vault.forFunction(A, MIB), "k"), undefined);
    assert.equal(vault.bytesOf(A), 0);
    await vault.erase(B);
  });
});

test("StorageVault.open: sweeps what a killed box left", async () => {
  const root = await mkdtemp(join(tmpdir(), "bento-storage-"));
  try {
    const dir = join(root, "storage");
    await mkdir(join(dir, "left"), { recursive: true });
    await writeFile(join(dir, "left", "file"), "noise");
    await writeFile(join(root, "beside"), "not ours");
    await using _vault = await StorageVault.open({ dir, bytesMax: MIB });
    assert.deepEqual(await readdir(dir), []);
    assert.ok(await stat(join(root, "beside")));
  } finally {
    await rm(root, { recursive: true, force: true });
  }
});

test("FunctionStorage.put: of several that create one key exactly one succeeds, and none replaces", async () => {
  await inVault(async (vault) => {
    const storage = vault.forFunction(A, MIB);
    const create = (text: string) =>
      storage.put("k", pieces(Buffer.from(text)), { signal: never, create: true }).then(
        () => text,
        (error: unknown) => (error as BentoError).code,
      );
    const results = await Promise.all(["a", "b", "c"].map(create));
    const winners = results.filter((result) => result !== "storage-exists");
    assert.equal(winners.length, 1, results.join());
    assert.equal(Buffer.from((await read(storage, "k")) ?? []).toString(), winners[0]);
    const used = vault.bytesOf(A);
    assert.equal(await create("d"), "storage-exists");
    assert.equal(vault.bytesOf(A), used, "what was refused costs nothing");
    await put(storage, "k", Buffer.from("replaced"));
    assert.equal(Buffer.from((await read(storage, "k")) ?? []).toString(), "replaced");
    await storage.delete("k");
    assert.equal(await create("e"), "e");
  });
});

/** All bytes that a held value gives. */
async function whole(value: HeldValue | undefined): Promise<Uint8Array> {
  assert.ok(value);
  const parts: Uint8Array[] = [];
  let length = 0;
  while (length < value.bytes) {
    const part = await value.read(length);
    assert.ok(part.length > 0 && part.length <= CHUNK_BYTES);
    parts.push(part);
    length += part.length;
  }
  return concat(parts);
}

test("FunctionStorage.hold: any range, from anywhere, by several readers at once", async () => {
  await inVault(async (vault) => {
    const storage = vault.forFunction(A, 32 * MIB);
    await fc.assert(
      fc.asyncProperty(fc.nat(200_000), fc.nat(), fc.option(fc.nat(200_000)), async (length, at, wanted) => {
        const value = pattern(length);
        await put(storage, "k", value);
        const offset = at % (length + 1);
        const range = { offset, ...(wanted === null ? {} : { bytes: wanted }) };
        const held = storage.hold("k", range) ?? assert.fail("there is one");
        const expected = value.subarray(offset, wanted === null ? undefined : offset + wanted);
        assert.equal(held.bytes, expected.length);
        const resting = setInterval(() => held.rest(), 1);
        const [first, second] = await Promise.all([whole(held), whole(held)]);
        clearInterval(resting);
        assert.deepEqual(first, expected);
        assert.deepEqual(second, expected);
        held.release();
      }),
      { numRuns: 40 },
    );
  });
});

test("FunctionStorage.hold: this version of this function's own value, and no other", async () => {
  await inVault(async (vault) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "k", utf8("mine"));
    assert.equal(vault.forFunction(B, MIB).hold("k", { offset: 0 }), undefined);
    const [first, deleted] = [storage.hold("k", { offset: 1, bytes: 2 }), storage.hold("k", { offset: 0 })];
    await put(storage, "k", utf8("other"));
    const later = storage.hold("k", { offset: 0 });
    await storage.delete("k");
    assert.equal(storage.hold("k", { offset: 0 }), undefined);
    assert.deepEqual(await whole(first), utf8("in"));
    assert.deepEqual(await whole(deleted), utf8("mine"));
    assert.deepEqual(await whole(later), utf8("other"));
    for (const offset of [6, -1, 0.5, Number.MAX_SAFE_INTEGER + 1]) {
      await put(storage, "k", utf8("other"));
      assert.throws(() => storage.hold("k", { offset }), hasCode("storage-offset"));
    }
    assert.equal(storage.hold("k", { offset: 5 })?.bytes, 0);
  });
});

test("FunctionStorage.hold: what is held counts until it is released, once", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "k", pattern(100_000));
    const held = storage.hold("k", { offset: 0 }) ?? assert.fail();
    await whole(held);
    await storage.delete("k");
    assert.ok(vault.bytesOf(A) > 100_000);
    held.release();
    held.release();
    await assert.rejects(held.read(0), hasCode("storage-released"));
    await put(storage, "k", utf8("next"));
    while ((await filesIn(dir)).length > 1) await new Promise((resolve) => setImmediate(resolve));
    assert.equal(vault.bytesOf(A), ENTRY + sealedBytes(4));
  });
});

test("FunctionStorage.hold: the end of the function ends it, also in the middle", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "k", pattern(3 * CHUNK_BYTES));
    const [begun, idle] = [storage.hold("k", { offset: 0 }), storage.hold("k", { offset: 0 })];
    assert.ok(begun && idle);
    await begun.read(0);
    const reading = assert.rejects(begun.read(CHUNK_BYTES), hasCode("storage-erased"));
    await vault.erase(A);
    await reading;
    for (const held of [begun, idle]) {
      await assert.rejects(held.read(0), hasCode("storage-erased"));
      held.release();
    }
    assert.equal(vault.bytesUsed, 0);
    assert.deepEqual(await filesIn(dir), []);
    assert.throws(() => storage.hold("k", { offset: 0 }), hasCode("storage-erased"));
  });
});

test("FunctionStorage.hold: a changed file is found", async () => {
  await inVault(async (vault, dir) => {
    const storage = vault.forFunction(A, MIB);
    await put(storage, "k", pattern(100));
    const held = storage.hold("k", { offset: 0 }) ?? assert.fail();
    const [file = ""] = await filesIn(dir);
    const bytes = await readFile(file);
    assert.deepEqual(await whole(held), pattern(100));
    bytes[50] = (bytes[50] ?? 0) ^ 1;
    await writeFile(file, bytes);
    held.rest();
    await assert.rejects(held.read(0), hasCode("storage-damaged"));
    await writeFile(file, await readFile(file).then((changed) => changed.subarray(0, 60)));
    await assert.rejects(held.read(0), hasCode("storage-damaged"));
    held.release();
  });
});
