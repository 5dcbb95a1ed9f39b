// The records of one shard on their way into its Dropbox. Keeps what the Dropbox has not confirmed, so that a put
// resumes after a lost connection while the other shards go on; whoever encodes waits for the slowest.

import { ByteQueue } from "../../base/byte-queue.ts";
import { Changes } from "../../base/changes.ts";
import type { PutContent } from "../dropbox/put.ts";

export class ShardSink implements PutContent {
  readonly size: number;
  readonly #heldMax: number;
  /** Bytes from #start on. */
  readonly #held = new ByteQueue();
  #start = 0;
  #failed = false;
  readonly #changes = new Changes();

  /** @param heldMax bytes to keep at most: two parts of the Dropbox or more, or it would never confirm any. */
  constructor(size: number, heldMax: number) {
    this.size = size;
    this.#heldMax = heldMax;
  }

  /** Queues a record when there is room. Resolves at once after `fail`. */
  async push(record: Uint8Array): Promise<void> {
    while (!this.#failed && this.#held.length + record.length > this.#heldMax) await this.#changes.next;
    if (this.#failed) return;
    this.#held.push(record);
    this.#changes.notify();
  }

  /** The Dropbox keeps everything before `offset`. */
  confirm(offset: number): void {
    const bytes = Math.min(offset - this.#start, this.#held.length);
    if (bytes > 0) {
      this.#held.drop(bytes);
      this.#start += bytes;
    }
    this.#changes.notify();
  }

  /** Nobody takes records any more. */
  fail(): void {
    this.#failed = true;
    this.#held.drop(this.#held.length);
    this.#changes.notify();
  }

  async *read(from: number): AsyncGenerator<Uint8Array> {
    let at = from;
    while (at < this.size && !this.#failed) {
      if (at < this.#start) throw new RangeError("Cannot resume: the Dropbox lost what it had confirmed");
      const piece = this.#held.viewFrom(at - this.#start);
      if (piece) {
        yield piece;
        at += piece.length;
      } else {
        await this.#changes.next;
      }
    }
  }
}
