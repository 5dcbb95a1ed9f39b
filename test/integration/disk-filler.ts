// Child of disk-full.test.ts, on a disk of 2 MiB. Arguments: what to fill it with, its folder. Exits with 0 when
// everything went as it must.

import assert from "node:assert/strict";
import { readdirSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { StorageVault } from "../../src/box/host/storage.ts";
import { type FunctionId, FunctionStore } from "../../src/box/store/function-store.ts";
import { BoxError } from "../../src/wire/error-code.ts";
import { parsePackage } from "../../src/wire/package.ts";

const [what, disk = ""] = process.argv.slice(2);
const BALLAST = join(disk, "ballast");
const never = new AbortController().signal;

function isDiskFull(error: unknown): boolean {
  return error instanceof BoxError && error.code === "disk-full";
}

/** Leaves `bytes` of the disk free. */
function fillBut(bytes: number): void {
  const { bavail, bsize } = statfsSync(disk);
  writeFileSync(BALLAST, Buffer.alloc(bavail * bsize - bytes));
}

async function fillFunctions(): Promise<void> {
  const options = {
    dir: join(disk, "store"),
    functionsMax: 100,
    bytesMax: 2 ** 30,
    clock: systemClock,
    log: silentLog,
  };
  const expiresAt = systemClock.now() + 60_000;
  const pack = (bytes: number) =>
    parsePackage({ manifest: { name: "f", image: "deno" }, source: "x".repeat(bytes) });
  const store = await FunctionStore.open(options);
  const first = await store.add(pack(1000), { expiresAt });
  fillBut(100_000);
  await assert.rejects(store.add(pack(500_000), { expiresAt }), isDiskFull);
  assert.equal(store.count, 1);
  rmSync(BALLAST);
  const second = await store.add(pack(500_000), { expiresAt });
  // Removing makes room on a disk where there is none.
  fillBut(0);
  await assert.rejects(store.add(pack(100_000), { expiresAt }), isDiskFull);
  assert.equal(await store.remove(second.id), true);
  await store.add(pack(100_000), { expiresAt });
  await store[Symbol.asyncDispose]();
  await using again = await FunctionStore.open(options);
  assert.equal(again.count, 2);
  assert.ok(await again.findByInvocation(first.invocationToken));
  assert.equal(await again.findByInvocation(second.invocationToken), undefined);
}

async function fillStorage(): Promise<void> {
  const dir = join(disk, "storage");
  await using vault = await StorageVault.open({ dir, bytesMax: 2 ** 30 });
  const id = "a".repeat(32) as FunctionId;
  const storage = vault.forFunction(id, 2 ** 30);
  async function* bytes(count: number) {
    for (let left = count; left > 0; left -= 10_000) yield Buffer.alloc(Math.min(left, 10_000));
  }
  await storage.put("k", bytes(1000), { signal: never });
  const used = vault.bytesOf(id);
  fillBut(200_000);
  await assert.rejects(storage.put("k", bytes(500_000), { signal: never }), isDiskFull);
  assert.equal(vault.bytesOf(id), used);
  assert.equal(readdirSync(dir, { recursive: true }).length, 2, "one folder and the old value's file");
  assert.equal((await storage.get("k", { signal: never }))?.bytes, 1000);
  rmSync(BALLAST);
  await storage.put("k", bytes(500_000), { signal: never });
}

if (what === "functions") await fillFunctions();
else await fillStorage();
