// The records of one shard on their way out of its Dropbox: asked for from a stripe on, verified one by one, handed
// on no further ahead than the reader wants. The box may be dead, slow or lying; which of them is said in the end.

import { ByteQueue } from "../../base/byte-queue.ts";
import { BentoError, messageOf, ProtocolError } from "../../base/errors.ts";
import { BoxError } from "../../wire/error-code.ts";
import { MAC_BYTES, type ShardLayout } from "../../wire/shard/layout.ts";
import { parseInvocationToken } from "../../wire/token.ts";
import type { BoxClient } from "../client.ts";
import { Download, type GetOptions } from "../dropbox/get.ts";
import type { ShardKeys } from "./keys.ts";
import type { PlacedShard } from "./receipt.ts";

/** What is wrong with a shard, as far as it can be told. */
export type ShardFault =
  /** The box does not know it any more: expired, removed, or the box was restarted. */
  | "gone"
  /** The box was not reached, or broke off. */
  | "dead"
  /** It did not keep up and others were asked instead. */
  | "slow"
  /** The box offers more or less than what was put. */
  | "wrong-length"
  /** Bytes that were not put there. */
  | "wrong-mac"
  /** What was put there before the last repair. */
  | "stale"
  /** The answers are not those of a Dropbox. */
  | "bad-answer";

/** Faults that only a box which lies, or whose memory fails, can cause. */
export const LIES: ReadonlySet<ShardFault> = new Set(["wrong-length", "wrong-mac", "stale", "bad-answer"]);

export class ShardFailure extends Error {
  readonly fault: ShardFault;

  constructor(fault: ShardFault, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.fault = fault;
  }
}

export interface SourceOptions extends Pick<GetOptions, "clock" | "stallMs" | "attemptsMax"> {
  readonly signal: AbortSignal;
  /** First stripe wanted, and how many, all when absent. */
  readonly from: number;
  readonly count?: number;
}

/** Verified blocks of a shard, from stripe `from` on, in order. Throws ShardFailure. */
export async function* readShard(
  shard: PlacedShard,
  client: BoxClient,
  layout: ShardLayout,
  keys: ShardKeys,
  options: SourceOptions,
): AsyncGenerator<{ readonly stripe: number; readonly block: Uint8Array }> {
  const { from, count, signal, ...rest } = options;
  const end = count === undefined ? layout.stripes : Math.min(layout.stripes, from + count);
  let bytes = 0;
  for (let stripe = from; stripe < end; stripe++) bytes += layout.recordBytes(stripe);
  const queue = new ByteQueue();
  let stripe = from;
  try {
    await using download = new Download(client, parseInvocationToken(shard.invocationToken), {
      ...rest,
      signal,
      from: layout.recordOffset(from),
      bytes,
      writer: keys.writer(shard.index, shard.generation),
      onBegun: ({ size }) => {
        if (size === layout.shardBytes) return;
        throw new ShardFailure("wrong-length", `${size} bytes, expected ${layout.shardBytes}`);
      },
    });
    for await (const piece of download.content()) {
      queue.push(piece);
      while (stripe < end && queue.length >= layout.recordBytes(stripe)) {
        const record = queue.take(layout.recordBytes(stripe)) as Uint8Array;
        yield { stripe, block: verified(record, stripe, shard, keys) };
        stripe++;
      }
    }
  } catch (error) {
    signal.throwIfAborted();
    throw failureOf(error);
  }
  if (stripe < end) throw new ShardFailure("wrong-length", `it ends at block ${stripe} of ${end}`);
}

function verified(record: Uint8Array, stripe: number, shard: PlacedShard, keys: ShardKeys): Uint8Array {
  const block = record.subarray(0, -MAC_BYTES);
  const mac = record.subarray(-MAC_BYTES);
  const { index, generation } = shard;
  if (keys.verify(index, generation, stripe, block, mac)) return block;
  for (let earlier = generation - 1; earlier >= 1; earlier--) {
    if (keys.verify(index, earlier, stripe, block, mac))
      throw new ShardFailure("stale", `block ${stripe} is from before repair ${earlier}`);
  }
  throw new ShardFailure("wrong-mac", `block ${stripe} is not what was put there`);
}

export function failureOf(error: unknown): ShardFailure {
  if (error instanceof ShardFailure) return error;
  if (error instanceof BoxError && error.code === "bad-token")
    return new ShardFailure("gone", "the box does not know it any more", error);
  if (error instanceof ProtocolError) return new ShardFailure("bad-answer", error.message, error);
  if (error instanceof BentoError && ["dropbox-empty", "bad-token", "function-failed"].includes(error.code))
    return new ShardFailure("bad-answer", error.message, error);
  return new ShardFailure("dead", messageOf(error), error);
}
