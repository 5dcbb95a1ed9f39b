// Looking after a sharded file: which of its shards are still there and honest, and putting anew what is lost, lies
// or expires soon, from the others and without the file (spec/shard 6).

import { randomInt } from "node:crypto";
import type { PackageInput } from "../../wire/package.ts";
import { ShardLayout } from "../../wire/shard/layout.ts";
import { parseShutdownToken } from "../../wire/token.ts";
import type { BoxClient } from "../client.ts";
import { ShardKeys } from "./keys.ts";
import { type PlaceOptions, placeShards, type Target } from "./place.ts";
import { type PlacedShard, type Receipt, secretOf } from "./receipt.ts";
import { Retrieval, type RetrieveOptions } from "./retrieve.ts";
import { failureOf, readShard, type ShardFault, type SourceOptions } from "./shard-source.ts";

export interface ShardState {
  readonly index: number;
  /** undefined for a shard that was never placed. */
  readonly shard: PlacedShard | undefined;
  readonly fault?: ShardFault | "missing";
  readonly detail?: string;
}

export function layoutOf(receipt: Receipt): ShardLayout {
  return new ShardLayout(receipt.k, receipt.n, receipt.sealedBytes);
}

/** Asks each shard for one block, chosen at random, and verifies it. All shards at once. */
export async function checkShards(
  receipt: Receipt,
  options: Pick<SourceOptions, "signal" | "clock" | "stallMs" | "attemptsMax"> & {
    readonly clientOf: (shard: PlacedShard) => BoxClient;
  },
): Promise<ShardState[]> {
  const { clientOf, ...rest } = options;
  const layout = layoutOf(receipt);
  const keys = new ShardKeys(secretOf(receipt));
  return Promise.all(
    Array.from({ length: receipt.n }, async (_, index): Promise<ShardState> => {
      const shard = receipt.shards.find((placed) => placed.index === index);
      if (!shard) return { index, shard, fault: "missing" };
      const from = randomInt(layout.stripes);
      try {
        for await (const _ of readShard(shard, clientOf(shard), layout, keys, { from, count: 1, ...rest }));
        return { index, shard };
      } catch (error) {
        options.signal.throwIfAborted();
        const { fault, message } = failureOf(error);
        return { index, shard, fault, detail: message };
      }
    }),
  );
}

export interface RepairOptions
  extends Pick<RetrieveOptions, "signal" | "clientOf" | "clock" | "stallMs" | "attemptsMax" | "onFault">,
    Pick<PlaceOptions, "onProgress" | "onFailed" | "lifetimeMs"> {
  readonly package: PackageInput;
  /** Called with the new receipt after each shard: to be saved at once. */
  readonly onReceipt: (receipt: Receipt) => Promise<void>;
}

/**
 * Puts the shards of `targets` anew, made from `good` ones, and takes back what they replace. Resolves with the new
 * receipt, in which what could not be put stands as it was.
 */
export async function repairShards(
  receipt: Receipt,
  good: readonly PlacedShard[],
  targets: readonly Omit<Target, "generation">[],
  options: RepairOptions,
): Promise<Receipt> {
  const { clientOf, onReceipt, onFault, onProgress, onFailed, ...rest } = options;
  const layout = layoutOf(receipt);
  const keys = new ShardKeys(secretOf(receipt));
  let current = receipt;
  let saving = Promise.resolve();
  const generationOf = (index: number) =>
    (receipt.shards.find((shard) => shard.index === index)?.generation ?? 0) + 1;
  await using retrieval = new Retrieval(good, layout, keys, {
    ...rest,
    clientOf,
    ...(onFault ? { onFault } : {}),
  });
  await placeShards(
    retrieval.stripes(),
    layout,
    keys,
    targets.map((target) => ({ ...target, generation: generationOf(target.index) })),
    {
      ...rest,
      ...(onProgress ? { onProgress } : {}),
      ...(onFailed ? { onFailed } : {}),
      onPlaced: async (placed) => {
        const others = current.shards.filter(({ index }) => index !== placed.index);
        current = { ...current, shards: [...others, placed] };
        const saved = current;
        saving = saving.then(() => onReceipt(saved));
        await saving;
      },
    },
  );
  const replaced = receipt.shards.filter((shard) => !current.shards.includes(shard));
  await Promise.all(replaced.map((shard) => takeBack(shard, clientOf(shard))));
  return current;
}

/** Ends the Dropbox of a shard, where it is still there. */
async function takeBack(shard: PlacedShard, client: BoxClient): Promise<void> {
  try {
    await client.shutdown(parseShutdownToken(shard.shutdownToken), { signal: AbortSignal.timeout(15_000) });
  } catch {
    // Gone, or not to be reached: it expires by itself.
  }
}
