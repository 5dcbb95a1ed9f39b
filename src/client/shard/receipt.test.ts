import assert from "node:assert/strict";
import { mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { BentoError } from "../../base/errors.ts";
import { parseReceipt, type Receipt, readReceipt, writeReceipt } from "./receipt.ts";

const shard = (index: number) => ({
  index,
  generation: 1,
  box: "127.0.0.1:1",
  invocationToken: "a",
  shutdownToken: "b",
  expiresAt: 5,
});
const RECEIPT: Receipt = {
  format: "bento shard receipt",
  version: 1,
  name: "file",
  k: 2,
  n: 3,
  size: 10,
  sealedBytes: 30,
  secret: "A".repeat(43),
  shards: [shard(2), shard(0)],
};

test("receipt: written whole for its owner alone, shards in order, and read back", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bento-receipt-"));
  try {
    const file = join(dir, "r.json");
    await writeReceipt(file, RECEIPT);
    await writeReceipt(file, { ...RECEIPT, name: "other" });
    assert.equal((await stat(file)).mode & 0o777, 0o600);
    assert.deepEqual(await readdir(dir), ["r.json"]);
    assert.deepEqual(await readReceipt(file), { ...RECEIPT, name: "other", shards: [shard(0), shard(2)] });
    await assert.rejects(writeReceipt(join(dir, "none", "r.json"), RECEIPT), BentoError);
    await writeFile(file, "{}");
    await assert.rejects(readReceipt(file), /no receipt/);
  } finally {
    await rm(dir, { recursive: true });
  }
});

test("receipt: what cannot be is refused", () => {
  const attempts: Record<string, object> = {
    "k above n": { k: 4 },
    "n of 256": { n: 256 },
    "a shard that is not there": { shards: [shard(3)] },
    "a shard twice": { shards: [shard(1), shard(1)] },
    "a short secret": { secret: "A" },
    "another version": { version: 2 },
    "a field that is not known": { extra: 1 },
  };
  for (const [what, change] of Object.entries(attempts))
    assert.throws(() => parseReceipt(JSON.stringify({ ...RECEIPT, ...change })), Error, what);
  assert.deepEqual(parseReceipt(JSON.stringify(RECEIPT)), RECEIPT);
});
