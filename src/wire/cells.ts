// The cells of a shaped answer (spec/browse 4): content as it comes, padding where there is none, and an end after one of
// K sizes. Pure. What content there is and when it came decides which size; nothing else of it shows.

import { ByteQueue } from "../base/byte-queue.ts";
import { concat } from "../base/bytes.ts";
import { assert } from "../base/errors.ts";
import { CELL_BYTES } from "./browse.ts";
import { CONTENT_HEADER_BYTES, DIGEST_END, DIGEST_MAGIC, encodeContentFrames, paddingOf } from "./digest.ts";

/** Content in a cell that has nothing else in it. */
const CELL_CONTENT_BYTES = CELL_BYTES - CONTENT_HEADER_BYTES;

export class CellFiller {
  readonly #ends: ReadonlySet<number>;
  readonly #cellsMax: number;
  readonly #noise: (bytes: Uint8Array<ArrayBuffer>) => void;
  readonly #queue = new ByteQueue();
  #cells = 0;
  #isFinished = false;
  #isEnded = false;
  #isWhole = false;

  /**
   * @param sizes ascending multiples of CELL_BYTES
   * @param noise fills padding, with what nothing on the way can compress
   */
  constructor(sizes: readonly number[], noise: (bytes: Uint8Array<ArrayBuffer>) => void) {
    const cells = sizes.map((size) => size / CELL_BYTES);
    this.#ends = new Set(cells);
    this.#cellsMax = cells.at(-1) ?? 0;
    this.#noise = noise;
    assert(this.#cellsMax >= 1, "no size for a shaped answer");
  }

  /** Content that can still leave: shrinks with each cell that had none. */
  get room(): number {
    if (this.#isEnded) return 0;
    const magic = this.#cells === 0 ? DIGEST_MAGIC.length : 0;
    const left = (this.#cellsMax - this.#cells) * CELL_CONTENT_BYTES;
    return Math.max(0, left - magic - DIGEST_END.length - this.#queue.length);
  }

  /** Content that waits for its cells. */
  get queued(): number {
    return this.#queue.length;
  }

  /** The last cell has been made. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** All content was in it, the end of it included. */
  get isWhole(): boolean {
    return this.#isWhole;
  }

  /** Keeps the bytes; drops them when the answer has ended. */
  push(content: Uint8Array): void {
    assert(!this.#isFinished, "content behind its end");
    if (!this.#isEnded && content.length > 0) this.#queue.push(content);
  }

  /** No more content comes. */
  finish(): void {
    this.#isFinished = true;
  }

  /** The next cell; undefined after the last. */
  next(): Uint8Array | undefined {
    if (this.#isEnded) return undefined;
    const head = this.#cells === 0 ? [DIGEST_MAGIC] : [];
    this.#cells++;
    let room = CELL_BYTES - (head[0]?.length ?? 0);
    const mayEnd = this.#ends.has(this.#cells);
    const isLast = this.#cells === this.#cellsMax;
    // The last of all ends whatever is left: a digest that is not whole says so by lacking its end record.
    const fits = this.#queue.length <= room - CONTENT_HEADER_BYTES - DIGEST_END.length;
    this.#isEnded = isLast || (mayEnd && this.#isFinished && fits);
    if (this.#isEnded) room -= DIGEST_END.length;
    const length = Math.min(this.#queue.length, room - CONTENT_HEADER_BYTES);
    const content = length > 0 ? encodeContentFrames(this.#queue.take(length) ?? new Uint8Array()) : [];
    for (const part of content) room -= part.length;
    const { header, bodyBytes } = paddingOf(room);
    const noise = new Uint8Array(bodyBytes);
    this.#noise(noise);
    if (this.#isEnded) {
      this.#isWhole = this.#isFinished && this.#queue.length === 0;
      this.#queue.take(this.#queue.length);
    }
    return concat([...head, ...content, header, noise, ...(this.#isEnded ? [DIGEST_END] : [])]);
  }
}
