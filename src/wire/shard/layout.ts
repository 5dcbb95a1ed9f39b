// How the bytes of a file lie in shards (spec/shard 3): cut into stripes of k blocks; shard i holds of each stripe
// its block i and that block's MAC, one record after the other. Pure arithmetic, for clients and functions.
//
//   file     | stripe 0: block 0 … block k-1 | stripe 1: … | … | last stripe: k shorter blocks, zeros at the end |
//   shard i  | block, MAC | block, MAC | … | shorter block, MAC |

import { ByteQueue } from "../../base/byte-queue.ts";
import { checkShape } from "./matrix.ts";

/** Bytes of a block; with its MAC a record fills one chunk of a box's storage and one session frame. */
export const BLOCK_BYTES = 65_520;
export const MAC_BYTES = 16;
export const RECORD_BYTES = BLOCK_BYTES + MAC_BYTES;

export class ShardLayout {
  readonly k: number;
  readonly n: number;
  /** Bytes of the file, as it is sharded. */
  readonly size: number;
  readonly stripes: number;

  /** Throws RangeError for an impossible shape, or an empty file. */
  constructor(k: number, n: number, size: number) {
    checkShape(k, n);
    if (!Number.isSafeInteger(size) || size < 1) throw new RangeError(`Cannot shard: ${size} bytes`);
    this.k = k;
    this.n = n;
    this.size = size;
    this.stripes = Math.ceil(size / (k * BLOCK_BYTES));
  }

  /** Bytes of each block of a stripe. */
  blockBytes(stripe: number): number {
    if (stripe < this.stripes - 1) return BLOCK_BYTES;
    return Math.ceil((this.size - stripe * this.k * BLOCK_BYTES) / this.k);
  }

  /** Bytes of the file in a stripe. */
  dataBytes(stripe: number): number {
    return Math.min(this.k * BLOCK_BYTES, this.size - stripe * this.k * BLOCK_BYTES);
  }

  recordBytes(stripe: number): number {
    return this.blockBytes(stripe) + MAC_BYTES;
  }

  /** Where the record of a stripe begins in its shard. */
  recordOffset(stripe: number): number {
    return stripe * RECORD_BYTES;
  }

  /** Bytes of one shard. */
  get shardBytes(): number {
    return this.recordOffset(this.stripes - 1) + this.recordBytes(this.stripes - 1);
  }

  /** The stripe that a byte of the file is in. */
  stripeOf(offset: number): number {
    return Math.floor(offset / (this.k * BLOCK_BYTES));
  }
}

/** One stripe of the file: its k data blocks. */
export interface Stripe {
  readonly index: number;
  readonly data: readonly Uint8Array[];
}

/** Cuts the file, from stripe `first` on, into stripes. Throws RangeError when there is less of it than announced. */
export async function* stripesOf(
  bytes: AsyncIterable<Uint8Array>,
  layout: ShardLayout,
  first = 0,
): AsyncGenerator<Stripe> {
  const queue = new ByteQueue();
  let index = first;
  for await (const piece of bytes) {
    queue.push(piece);
    while (index < layout.stripes && queue.length >= layout.dataBytes(index)) {
      yield { index, data: blocksOf(queue.take(layout.dataBytes(index)) as Uint8Array, layout, index) };
      index++;
    }
  }
  if (index < layout.stripes || queue.length > 0)
    throw new RangeError("Cannot shard: the file is not as long as it was said to be");
}

function blocksOf(data: Uint8Array, layout: ShardLayout, stripe: number): Uint8Array[] {
  const blockBytes = layout.blockBytes(stripe);
  return Array.from({ length: layout.k }, (_, index) => {
    const block = data.subarray(index * blockBytes, (index + 1) * blockBytes);
    if (block.length === blockBytes) return block;
    const padded = new Uint8Array(blockBytes);
    padded.set(block);
    return padded;
  });
}

/** The bytes of the file in a stripe, from its data blocks. */
export function* fileBytesOf(stripe: Stripe, layout: ShardLayout): Generator<Uint8Array> {
  let left = layout.dataBytes(stripe.index);
  for (const block of stripe.data) {
    if (left === 0) return;
    const piece = block.subarray(0, left);
    left -= piece.length;
    yield piece;
  }
}
