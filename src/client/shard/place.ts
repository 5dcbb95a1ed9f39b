// Spreading stripes over boxes: encodes each stripe once and puts the records of every wanted shard into a Dropbox of
// its own, all at the same time. A box that fails does not hold the others up; its shard is left for another pass.

import { type Clock, systemClock } from "../../base/clock.ts";
import { messageOf } from "../../base/errors.ts";
import { DropboxLimits, type PutRequest } from "../../wire/dropbox.ts";
import type { PackageInput } from "../../wire/package.ts";
import { ShardCodec } from "../../wire/shard/codec.ts";
import type { ShardLayout, Stripe } from "../../wire/shard/layout.ts";
import type { BoxClient, StoredFunction } from "../client.ts";
import { dropboxPackage, putContent } from "../dropbox/put.ts";
import type { ShardKeys } from "./keys.ts";
import type { PlacedShard } from "./receipt.ts";
import { ShardSink } from "./shard-sink.ts";

/** A connection of one shard over which nothing moves for this long is given up: milliseconds. */
const STALL_MS = 60_000;
const ATTEMPTS_MAX = 3;
/** Beyond so many shards at once, parts are smaller, so that what is held for resuming stays bounded. */
const LARGE_PARTS_SHARDS = 32;
const SMALL_PART_BYTES = 256 * 1024;

/** One shard that is to be put, and where. */
export interface Target {
  readonly index: number;
  readonly generation: number;
  /** As it goes into the receipt. */
  readonly box: string;
  readonly relay?: string | undefined;
  readonly client: BoxClient;
}

export interface PlaceOptions {
  readonly signal: AbortSignal;
  readonly package: PackageInput;
  readonly lifetimeMs?: number | undefined;
  readonly clock?: Clock;
  readonly stallMs?: number | undefined;
  readonly attemptsMax?: number;
  /** A shard is whole at its box: save it now. */
  readonly onPlaced?: (shard: PlacedShard) => Promise<void>;
  /** Something was installed that may have to be taken back. */
  readonly onStored?: (target: Target, stored: StoredFunction) => void;
  readonly onFailed?: (target: Target, reason: string) => void;
  /** Bytes of the file that were encoded and taken up. */
  readonly onProgress?: (fileBytes: number) => void;
}

export interface PlaceResult {
  readonly placed: readonly PlacedShard[];
  readonly failed: readonly { readonly target: Target; readonly error: unknown }[];
}

/** Puts the shards of `targets`. `stripes` is read once, from the first stripe to the last. */
export async function placeShards(
  stripes: AsyncIterable<Stripe>,
  layout: ShardLayout,
  keys: ShardKeys,
  targets: readonly Target[],
  options: PlaceOptions,
): Promise<PlaceResult> {
  const codec = new ShardCodec(layout.k, layout.n);
  const stop = new AbortController();
  const signal = AbortSignal.any([options.signal, stop.signal]);
  const partBytes = partBytesFor(layout, targets.length);
  const lanes = targets.map((target) => {
    const sink = new ShardSink(layout.shardBytes, 2 * partBytes);
    const done = putOne(target, sink, { layout, keys, partBytes, signal, options });
    const settled = done.then(
      (placed) => ({ target, placed }),
      (error: unknown) => {
        sink.fail();
        if (!signal.aborted) options.onFailed?.(target, messageOf(error));
        return { target, error };
      },
    );
    return { target, sink, settled };
  });
  try {
    for await (const stripe of stripes) {
      const have = new Map(stripe.data.entries());
      const blocks = codec.rebuild(
        have,
        targets.map(({ index }) => index),
      );
      await Promise.all(
        lanes.map(({ target, sink }, at) => {
          const block = blocks[at] as Uint8Array;
          const record = new Uint8Array(layout.recordBytes(stripe.index));
          record.set(block);
          record.set(keys.mac(target.index, target.generation, stripe.index, block), block.length);
          return sink.push(record);
        }),
      );
      signal.throwIfAborted();
      options.onProgress?.(Math.min(layout.size, (stripe.index + 1) * layout.dataBytes(0)));
    }
    const results = await Promise.all(lanes.map(({ settled }) => settled));
    options.signal.throwIfAborted();
    return {
      placed: results.flatMap((result) => ("placed" in result ? [result.placed] : [])),
      failed: results.flatMap((result) => ("error" in result ? [result] : [])),
    };
  } finally {
    stop.abort(new Error("the shards were placed, or given up"));
    await Promise.all(lanes.map(({ settled }) => settled));
  }
}

async function putOne(
  target: Target,
  sink: ShardSink,
  context: {
    readonly layout: ShardLayout;
    readonly keys: ShardKeys;
    readonly partBytes: number;
    readonly signal: AbortSignal;
    readonly options: PlaceOptions;
  },
): Promise<PlacedShard> {
  const { layout, keys, partBytes, signal, options } = context;
  const { index, generation, box, relay, client } = target;
  // Its owner alone fetches it, as often as it likes.
  const request: PutRequest = { writer: keys.writer(index, generation), gets: 0, bytes: 0, partBytes };
  const { lifetimeMs, clock = systemClock, stallMs = STALL_MS, attemptsMax = ATTEMPTS_MAX } = options;
  const packed = dropboxPackage(options.package, request, { size: layout.shardBytes, lifetimeMs });
  let stored: StoredFunction | undefined;
  try {
    await putContent(client, { package: packed }, request, sink, {
      signal,
      clock,
      stallMs,
      attemptsMax,
      onStored: (given) => {
        stored = given;
        options.onStored?.(target, given);
      },
      onKept: (bytes) => sink.confirm(bytes),
    });
  } catch (error) {
    if (stored) await takeBack(client, stored);
    throw error;
  }
  if (!stored) throw new Error("a put installs before it ends");
  const placed: PlacedShard = {
    index,
    generation,
    box,
    ...(relay === undefined ? {} : { relay }),
    invocationToken: stored.invocationToken,
    shutdownToken: stored.shutdownToken,
    expiresAt: stored.expiresAt,
  };
  await options.onPlaced?.(placed);
  return placed;
}

/** Half a shard is of no use to anybody. */
async function takeBack(client: BoxClient, stored: StoredFunction): Promise<void> {
  try {
    await client.shutdown(stored.shutdownToken, { signal: AbortSignal.timeout(10_000) });
  } catch {
    // It expires by itself.
  }
}

/** Parts of the Dropboxes of so many shards that are put at once. */
export function partBytesFor(layout: ShardLayout, shards: number): number {
  let partBytes: number = shards > LARGE_PARTS_SHARDS ? SMALL_PART_BYTES : DropboxLimits.partBytesMin;
  while (Math.ceil(layout.shardBytes / partBytes) > DropboxLimits.partsMax) partBytes *= 2;
  return partBytes;
}
