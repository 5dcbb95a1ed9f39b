// The output of one instance on its way to whoever reads it (spec/wire 6). Addressed by byte offset, message
// boundaries kept. The newest part lies in memory, the older part sealed in the spool. What was acknowledged is
// discarded; when too much waits, the guest gets no more credit. Everything appended comes from a hostile guest.
// Stored values that the guest sends take a place without being copied: they are read when their turn has come.
//
//   0 ......... discarded ......... position of the reader ......... end
//   gone        |---------- held, at most `capacity` bytes ----------|

import { orAborted } from "../../base/abort.ts";
import { assert, BentoError, ProtocolError } from "../../base/errors.ts";
import { BoxError } from "../../wire/error-code.ts";
import { GUEST_PAYLOAD_BYTES_MAX, guestFrameCost } from "../../wire/guest-frame.ts";
import { Limits } from "../../wire/limits.ts";
import type { HeldValue } from "../host/services.ts";
import { BLOCK_BYTES_MAX, Block } from "./backlog-block.ts";
import { type Spool, SpoolKey, type SpoolSlot } from "./spool.ts";

/** Output of one instance that is kept in memory before the rest is spooled. */
export const BACKLOG_MEMORY_BYTES = 256 * 1024;
/** Stored values that wait for the reader of one instance: each holds its file, and some memory. */
export const BACKLOG_VALUES_MAX = Limits.guestStreamsMax;
/** Fragments from this size on are kept as they came instead of being copied together. */
const ADOPT_BYTES = 32 * 1024;

/** Part of one message. `bytes` is a view that stays valid and unchanged. */
export interface OutputChunk {
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** The message ends here. */
  readonly last: boolean;
}

interface Part {
  readonly start: number;
  length: number;
  block: Block | undefined;
  slot: SpoolSlot | undefined;
  readonly stored?: StoredMessage;
  /** First message end in it, as an offset after the byte. */
  firstEnd: number | undefined;
  endsAtLastByte: boolean;
}

/** A message that is a stored value. `taken` settles when the reader has it, or cannot have it any more. */
interface StoredMessage {
  readonly value: HeldValue;
  readonly taken: PromiseWithResolvers<void>;
  readonly onErased: () => void;
}

/** What was read last of a part that is not in memory: all of a spooled block, or bytes of a value from `from` on. */
type Loaded =
  | { readonly part: Part; readonly block: Block }
  | { readonly part: Part; readonly from: number; readonly bytes: Uint8Array };

export interface BacklogOptions {
  /** Grant's backlogBytes. The guest channel's window is the least that can be held. */
  readonly capacityBytes: number;
  readonly spool: Spool;
  /** Gives the guest credit for so many more bytes of frames (guestFrameCost). */
  readonly onCredit: (bytes: number) => void;
}

export class Backlog implements AsyncDisposable {
  readonly #capacity: number;
  readonly #spool: Spool;
  readonly #onCredit: (bytes: number) => void;
  readonly #key = new SpoolKey();
  #parts: Part[] = [];
  #end = 0;
  #discarded = 0;
  /** Cost of the output that the guest has not been given credit for again. */
  #uncredited = 0;
  #residentBytes = 0;
  #lastEnd = 0;
  /** Whether a message ends at `#discarded`, when the byte before it is gone. */
  #endsAtDiscarded = false;
  #loaded: Loaded | undefined;
  /** Parts that are stored values. */
  #values = 0;
  #finished = false;
  #disposed = false;
  #spilling: Promise<void> | undefined;
  #spoolBroken = false;
  #changed: PromiseWithResolvers<void> | undefined;

  constructor(options: BacklogOptions) {
    this.#capacity = Math.max(options.capacityBytes, Limits.streamWindowBytes);
    this.#spool = options.spool;
    this.#onCredit = options.onCredit;
  }

  /** Bytes of output so far. */
  get end(): number {
    return this.#end;
  }

  /** Offset of the first byte that can still be read. */
  get discarded(): number {
    return this.#discarded;
  }

  /** Bytes that wait for the reader. */
  get heldBytes(): number {
    return this.#end - this.#discarded;
  }

  /** Bytes that are kept for the reader: those that wait, without stored values. */
  get keptBytes(): number {
    let kept = this.heldBytes;
    if (this.#values === 0) return kept;
    for (const part of this.#parts) {
      if (part.stored) kept -= part.start + part.length - Math.max(part.start, this.#discarded);
    }
    return kept;
  }

  /** Whether the guest waits for a reader: no more output comes until some is discarded. */
  get isFull(): boolean {
    // While a block is on its way to the spool, credit comes without a reader.
    if (this.#spilling) return false;
    return Limits.streamWindowBytes - this.#uncredited < guestFrameCost(GUEST_PAYLOAD_BYTES_MAX);
  }

  /** Takes a fragment of a message. Owns `bytes` from now on. Throws ProtocolError beyond the credit given. */
  append(bytes: Uint8Array, last: boolean): void {
    if (this.#finished) return;
    this.#uncredited += guestFrameCost(bytes.length);
    if (this.#uncredited > Limits.streamWindowBytes) {
      throw new ProtocolError("guest-frame", "Cannot take output: the guest sent more than its window");
    }
    if (bytes.length > 0) this.#store(bytes);
    if (last) this.#markEnd();
    this.#spill();
    this.#giveCredit();
    this.#notify();
  }

  /**
   * Takes a stored value over as a message of its own; an empty one leaves no trace. Costs no credit: nothing of it is
   * kept but its place. Resolves when it was discarded; rejects when it could not be read, was erased, with "closed" when
   * the backlog is disposed of before, and with "too-many-calls" at once.
   */
  async appendValue(value: HeldValue): Promise<void> {
    const length = value.bytes;
    if (this.#finished || length === 0) {
      value.release();
      return;
    }
    if (this.#values >= BACKLOG_VALUES_MAX) {
      value.release();
      throw new BentoError(
        "too-many-calls",
        `Cannot send value: ${BACKLOG_VALUES_MAX} wait for the client, expected fewer`,
      );
    }
    const taken = Promise.withResolvers<void>();
    const onErased = () => taken.reject(value.signal.reason);
    value.signal.addEventListener("abort", onErased, { once: true });
    // What a guest left open ends here.
    this.#markEnd();
    const start = this.#end;
    this.#end += length;
    this.#lastEnd = this.#end;
    this.#values++;
    this.#parts.push({
      start,
      length,
      block: undefined,
      slot: undefined,
      stored: { value, taken, onErased },
      firstEnd: this.#end,
      endsAtLastByte: true,
    });
    this.#notify();
    await taken.promise;
  }

  /** No more output comes. */
  finish(): void {
    this.#finished = true;
    this.#trim();
    this.#notify();
  }

  /** Drops everything before `offset`. Throws BoxError "bad-request" for bytes that do not exist yet. */
  discard(offset: number): void {
    if (offset > this.#end) {
      throw new BoxError(
        "bad-request",
        `Cannot acknowledge output: offset ${offset}, expected at most ${this.#end}`,
      );
    }
    if (offset <= this.#discarded) return;
    this.#discarded = offset;
    this.#trim();
    this.#giveCredit();
    this.#notify();
  }

  /**
   * The next part of a message from `position` on, or undefined when output ended there. Waits for output.
   * With `open`, the reader is inside a message: its end alone is then returned as an empty last chunk.
   * Throws BoxError "offset-gone" before the first byte held, "bad-request" after the end.
   */
  async read(
    position: number,
    options: { open: boolean; signal: AbortSignal },
  ): Promise<OutputChunk | undefined> {
    for (;;) {
      options.signal.throwIfAborted();
      const chunk = this.readNow(position, options.open);
      if (chunk) return chunk;
      const part = this.#partAt(position);
      if (part) {
        await this.#load(part, position);
        continue;
      }
      if (this.#finished) return undefined;
      await this.#wait(options.signal);
    }
  }

  /** As `read`, when no waiting is needed; else undefined. */
  readNow(position: number, open: boolean): OutputChunk | undefined {
    if (position < this.#discarded) {
      throw new BoxError(
        "offset-gone",
        `Cannot read output: offset ${position}, kept from ${this.#discarded} on`,
      );
    }
    if (position > this.#end) {
      throw new BoxError("bad-request", `Cannot read output: offset ${position}, it ends at ${this.#end}`);
    }
    if (open && this.#endsBefore(position)) return { offset: position, bytes: new Uint8Array(), last: true };
    const part = this.#partAt(position);
    if (!part) return undefined;
    const at = position - part.start;
    if (part.stored) {
      const bytes = this.#valueBytes(part, at);
      return bytes && { offset: position, bytes, last: at + bytes.length === part.length };
    }
    const block = this.#blockOf(part);
    if (!block) return undefined;
    const end = block.nextEnd(at, block.length);
    const until = end === -1 ? block.length : end + 1;
    return { offset: position, bytes: block.data.subarray(at, until), last: end !== -1 };
  }

  /** Offset at which the message that goes on at `position` ends; undefined while that is not known. */
  async messageEnd(position: number): Promise<number | undefined> {
    const part = this.#partAt(position);
    if (!part) return undefined;
    if (part.stored) return part.firstEnd;
    const block = this.#blockOf(part) ?? (await this.#loadBlock(part));
    const inside = block.nextEnd(position - part.start, block.length);
    if (inside !== -1) return part.start + inside + 1;
    const next = this.#parts.find((other) => other.start > position && other.firstEnd !== undefined);
    return next?.firstEnd;
  }

  /** Resolves when output came, was discarded or ended. */
  async changed(signal: AbortSignal): Promise<void> {
    await this.#wait(signal);
  }

  get isFinished(): boolean {
    return this.#finished;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#finished = true;
    await this.#spilling;
    for (const part of this.#parts) this.#release(part);
    this.#parts = [];
    this.#loaded = undefined;
    this.#discarded = this.#end;
    this.#key.erase();
    this.#notify();
  }

  #trim(): void {
    let gone = 0;
    for (const part of this.#parts) {
      if (part.start + part.length > this.#discarded) break;
      // The block that output is still appended to stays.
      if (!this.#finished && part === this.#parts.at(-1) && (part.block?.room ?? 0) > 0) break;
      this.#endsAtDiscarded = part.endsAtLastByte;
      this.#release(part);
      gone++;
    }
    if (gone > 0) this.#parts.splice(0, gone);
  }

  #store(bytes: Uint8Array): void {
    const tail = this.#parts.at(-1);
    let rest = bytes;
    if (tail?.block && tail.block.room > 0 && bytes.length < ADOPT_BYTES) {
      const fits = rest.subarray(0, tail.block.room);
      tail.block.push(fits);
      tail.length += fits.length;
      tail.endsAtLastByte = false;
      this.#end += fits.length;
      rest = rest.subarray(fits.length);
    }
    while (rest.length > 0) {
      const piece = rest.subarray(0, BLOCK_BYTES_MAX);
      const block =
        piece.length >= ADOPT_BYTES
          ? Block.adopt(piece)
          : Block.forBytes(piece.length, this.#parts.at(-1)?.block?.data.length ?? 0);
      if (block.length === 0) block.push(piece);
      this.#parts.push({
        start: this.#end,
        length: block.length,
        block,
        slot: undefined,
        firstEnd: undefined,
        endsAtLastByte: false,
      });
      this.#residentBytes += block.data.length;
      this.#end += block.length;
      rest = rest.subarray(piece.length);
    }
  }

  /** A message ends at the end of what came so far. An empty message leaves no trace: offsets cannot name it. */
  #markEnd(): void {
    if (this.#lastEnd === this.#end) return;
    this.#lastEnd = this.#end;
    const tail = this.#parts.at(-1);
    if (tail?.block) {
      tail.block.markEnd();
      tail.firstEnd ??= this.#end;
      tail.endsAtLastByte = true;
    } else {
      assert(this.#discarded === this.#end, "the last block of a backlog is never spooled");
      this.#endsAtDiscarded = true;
    }
  }

  #endsBefore(position: number): boolean {
    if (position === 0) return false;
    if (position === this.#lastEnd) return true;
    const before = this.#partAt(position - 1);
    if (!before) return this.#endsAtDiscarded && (this.#parts[0]?.start ?? this.#end) === position;
    if (position === before.start + before.length) return before.endsAtLastByte;
    return this.#blockOf(before)?.endsAt(position - 1 - before.start) ?? false;
  }

  #partAt(position: number): Part | undefined {
    let low = 0;
    let high = this.#parts.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const part = this.#parts[middle];
      if (!part) return undefined;
      if (position < part.start) high = middle - 1;
      else if (position >= part.start + part.length) low = middle + 1;
      else return part;
    }
    return undefined;
  }

  #blockOf(part: Part): Block | undefined {
    if (part.block) return part.block;
    const loaded = this.#loaded;
    return loaded?.part === part && "block" in loaded ? loaded.block : undefined;
  }

  /** Bytes of a stored value from byte `at` on, if they were read. */
  #valueBytes(part: Part, at: number): Uint8Array | undefined {
    const loaded = this.#loaded;
    if (loaded?.part !== part || !("bytes" in loaded) || at < loaded.from) return undefined;
    const bytes = loaded.bytes.subarray(at - loaded.from);
    return bytes.length > 0 ? bytes : undefined;
  }

  async #load(part: Part, position: number): Promise<void> {
    if (!part.stored) {
      await this.#loadBlock(part);
      return;
    }
    // One value at a time takes memory, wherever readers jump.
    if (this.#loaded?.part !== part) this.#loaded?.part.stored?.value.rest();
    const from = position - part.start;
    const bytes = await readValue(part.stored, from);
    if (this.#parts.includes(part)) this.#loaded = { part, from, bytes };
  }

  async #loadBlock(part: Part): Promise<Block> {
    const { slot } = part;
    assert(slot, "a part that is not in memory has a slot");
    const block = Block.deserialize(await this.#spool.read(this.#key, slot));
    this.#loaded?.part.stored?.value.rest();
    this.#loaded = { part, block };
    return block;
  }

  /** Moves the oldest blocks out of memory, one after the other, never the last one. */
  #spill(): void {
    if (this.#spilling || this.#spoolBroken || this.#disposed) return;
    if (this.#residentBytes <= BACKLOG_MEMORY_BYTES) return;
    const part = this.#parts.find((other) => other.block);
    if (!part?.block || part === this.#parts.at(-1)) return;
    this.#spilling = this.#spillOne(part, part.block).finally(() => {
      this.#spilling = undefined;
      this.#spill();
      this.#giveCredit();
      this.#notify();
    });
  }

  async #spillOne(part: Part, block: Block): Promise<void> {
    let slot: SpoolSlot;
    try {
      slot = await this.#spool.write(this.#key, block.serialize());
    } catch {
      // Nothing is lost: the guest gets no more credit until readers make room in memory.
      this.#spoolBroken = true;
      return;
    }
    if (this.#parts.includes(part)) {
      part.slot = slot;
      part.block = undefined;
      this.#residentBytes -= block.data.length;
    } else {
      this.#spool.free(slot);
    }
  }

  #release(part: Part): void {
    if (part.block) this.#residentBytes -= part.block.data.length;
    if (part.slot) this.#spool.free(part.slot);
    if (part.stored) {
      this.#values--;
      const { value, taken, onErased } = part.stored;
      value.signal.removeEventListener("abort", onErased);
      value.release();
      if (this.#disposed) taken.reject(disposed());
      else taken.resolve();
    }
    if (this.#loaded?.part === part) this.#loaded = undefined;
    part.block = undefined;
    part.slot = undefined;
    if (this.#residentBytes <= BACKLOG_MEMORY_BYTES) this.#spoolBroken = false;
  }

  /** Lets the guest send as much as keeps what is held within the capacity, a quarter window at a time. */
  #giveCredit(): void {
    if (this.#finished || this.#residentBytes > 2 * BACKLOG_MEMORY_BYTES) return;
    // Bytes never cost less than one each, so this keeps held + what may still come within the capacity.
    const mayCome = Limits.streamWindowBytes - this.#uncredited;
    const more = Math.min(this.#uncredited, this.#capacity - this.keptBytes - mayCome);
    if (more < Limits.streamWindowBytes / 4) return;
    this.#uncredited -= more;
    this.#onCredit(more);
  }

  async #wait(signal: AbortSignal): Promise<void> {
    this.#changed ??= Promise.withResolvers();
    await orAborted(this.#changed.promise, signal);
  }

  #notify(): void {
    this.#changed?.resolve();
    this.#changed = undefined;
  }
}

async function readValue({ value, taken }: StoredMessage, from: number): Promise<Uint8Array> {
  try {
    return await value.read(from);
  } catch (cause) {
    taken.reject(cause);
    throw new BoxError("already-ended", "Cannot read output: the stored value that it is from is gone", {
      cause,
    });
  }
}

function disposed(): BentoError {
  return new BentoError("closed", "Cannot send value: nobody can take it any more");
}
