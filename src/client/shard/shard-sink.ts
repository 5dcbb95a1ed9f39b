// The records of one shard on their way into its Dropbox. Keeps what the Dropbox has not confirmed, so that a put
// resumes after a lost connection while the other shards go on; whoever encodes waits for the slowest.

import type { PutContent } from "../dropbox/put.ts";

export class ShardSink implements PutContent {
  readonly size: number;
  readonly #heldMax: number;
  /** Bytes from #start on, in records. */
  readonly #held: Uint8Array[] = [];
  #start = 0;
  #end = 0;
  #failed = false;
  #changed = Promise.withResolvers<void>();

  /** @param heldMax bytes to keep at most: two parts of the Dropbox or more, or it would never confirm any. */
  constructor(size: number, heldMax: number) {
    this.size = size;
    this.#heldMax = heldMax;
  }

  /** Queues a record when there is room. Resolves at once after `fail`. */
  async push(record: Uint8Array): Promise<void> {
    while (!this.#failed && this.#end - this.#start + record.length > this.#heldMax)
      await this.#changed.promise;
    if (this.#failed) return;
    this.#held.push(record);
    this.#end += record.length;
    this.#notify();
  }

  /** The Dropbox keeps everything before `offset`. */
  confirm(offset: number): void {
    for (;;) {
      const first = this.#held[0];
      if (!first || this.#start + first.length > offset) break;
      this.#held.shift();
      this.#start += first.length;
    }
    this.#notify();
  }

  /** Nobody takes records any more. */
  fail(): void {
    this.#failed = true;
    this.#held.length = 0;
    this.#notify();
  }

  async *read(from: number): AsyncGenerator<Uint8Array> {
    let at = from;
    while (at < this.size && !this.#failed) {
      const piece = this.#pieceAt(at);
      if (piece) {
        yield piece;
        at += piece.length;
      } else {
        await this.#changed.promise;
      }
    }
  }

  #pieceAt(offset: number): Uint8Array | undefined {
    if (offset < this.#start) throw new RangeError("Cannot resume: the Dropbox lost what it had confirmed");
    let start = this.#start;
    for (const record of this.#held) {
      if (offset < start + record.length) return record.subarray(offset - start);
      start += record.length;
    }
    return undefined;
  }

  #notify(): void {
    const { resolve } = this.#changed;
    this.#changed = Promise.withResolvers<void>();
    resolve();
  }
}
