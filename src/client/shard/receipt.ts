// The receipt of a sharded file: all it takes to fetch, check and repair it (spec/shard 5). Nothing in it needs to be
// believed, for whatever is fetched is verified; all of it is secret. Written whole and renamed into place.

import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { z } from "zod";
import { BentoError, systemCode } from "../../base/errors.ts";
import { SHARDS_MAX } from "../../wire/shard/matrix.ts";

const count = z.int().nonnegative();

/** Where one shard lies. */
const placedShardSchema = z
  .strictObject({
    index: z
      .int()
      .min(0)
      .max(SHARDS_MAX - 1),
    generation: z.int().positive().describe("how often this shard was put, counted from 1; part of its keys"),
    box: z.string().max(300).describe("address of the box"),
    relay: z.string().max(40).optional().describe("fingerprint of the box's relay, where it is known"),
    invocationToken: z.string().max(100),
    shutdownToken: z.string().max(100),
    expiresAt: count.describe("when the box deletes it: Unix milliseconds"),
  })
  .describe("one shard, in a Dropbox of its own");

export const receiptSchema = z.strictObject({
  $schema: z.string().max(500).optional(),
  format: z.literal("bento shard receipt"),
  version: z.literal(1),
  name: z.string().max(255).describe("name of the file when it was put"),
  k: z.int().min(1).max(SHARDS_MAX).describe("shards that it takes"),
  n: z.int().min(1).max(SHARDS_MAX).describe("shards that there are"),
  size: count.describe("bytes of the file"),
  sealedBytes: z.int().positive().describe("bytes of the file once encrypted and padded: what is sharded"),
  secret: z
    .string()
    .regex(/^[A-Za-z0-9_-]{43}$/)
    .describe("32 random bytes, base64url: all keys come from it"),
  lifetimeMs: z.int().positive().optional().describe("lifetime that was asked for: milliseconds"),
  shards: z.array(placedShardSchema).max(SHARDS_MAX),
});
export type Receipt = z.infer<typeof receiptSchema>;
export type PlacedShard = Receipt["shards"][number];

/** Throws BentoError "bad-config" for what is no receipt. */
export async function readReceipt(file: string): Promise<Receipt> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw new BentoError("usage", `Cannot read ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
  try {
    return parseReceipt(text);
  } catch (cause) {
    throw new BentoError("bad-config", `Cannot use ${file}: it is no receipt of this version`, { cause });
  }
}

/** Throws ZodError, SyntaxError or RangeError. */
export function parseReceipt(text: string): Receipt {
  const receipt = receiptSchema.parse(JSON.parse(text));
  const indices = receipt.shards.map(({ index }) => index);
  if (receipt.k > receipt.n || indices.some((index) => index >= receipt.n))
    throw new RangeError("numbers of shards");
  if (new Set(indices).size !== indices.length) throw new RangeError("a shard twice");
  return receipt;
}

/** Replaces the file at once, readable by the user alone. */
export async function writeReceipt(file: string, receipt: Receipt): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`;
  const { shards, ...rest } = receipt;
  const ordered = { ...rest, shards: [...shards].sort((a, b) => a.index - b.index) };
  try {
    await writeFile(temporary, `${JSON.stringify(ordered, null, 1)}\n`, { mode: 0o600, flush: true });
    await rename(temporary, file);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw new BentoError("bad-config", `Cannot write ${file}: ${systemCode(cause) ?? "failed"}`, { cause });
  }
}

export function secretOf(receipt: Receipt): Uint8Array {
  return Buffer.from(receipt.secret, "base64url");
}
