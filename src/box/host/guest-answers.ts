// A function's output in answers of a few sizes at one rate (spec/guest 5.5). The box sends the cells: when they leave and
// after how many an answer ends follows from the shape alone, whatever computes in the sandbox and however it ends.
// What the function decides is what is in them. Everything it passes in has been bounded; content by its window.

import { orAborted } from "../../base/abort.ts";
import { Changes } from "../../base/changes.ts";
import { BentoError } from "../../base/errors.ts";
import { CELL_BYTES } from "../../wire/browse.ts";
import { CellFiller } from "../../wire/cells.ts";
import { GUEST_HEADER_BYTES, guestFrameCost } from "../../wire/guest-frame.ts";
import { CellSchedule, cellIntervalMs, type PaceClock, pace } from "../../wire/pace.ts";
import type { AnswersShape, InstanceAnswers } from "./services.ts";

const CELL_COST = guestFrameCost(CELL_BYTES);

export interface GuestAnswersOptions {
  readonly clock: PaceClock;
  /** Cost of the cells that the receiver takes before it gives credit. */
  readonly windowBytes: number;
  /** A cell leaves. */
  readonly onCell: (cell: Uint8Array, cost: number) => void;
  /** So much of the guest's window is free again. */
  readonly onConsumed: (bytes: number) => void;
}

/** Answers are counted from 0: those that were asked for, those that have ended, those whose content is complete. */
export class GuestAnswers implements InstanceAnswers {
  readonly #options: GuestAnswersOptions;
  readonly #stop = new AbortController();
  #shape: AnswersShape | undefined;
  #inputs = 0;
  #asked = 0;
  #ended = 0;
  #finished = 0;
  /** Of answer `#ended`, while its cells leave. */
  #filler: CellFiller | undefined;
  /** Of the fragments in it. */
  #headerBytes = 0;
  #freeBytes: number;
  #hasPlainOutput = false;
  readonly #changes = new Changes();

  constructor(options: GuestAnswersOptions) {
    this.#options = options;
    this.#freeBytes = options.windowBytes;
  }

  // For the function.

  /** Throws BentoError "bad-call" when there is a shape, or output without one. */
  shape(shape: AnswersShape): void {
    if (this.#shape || this.#hasPlainOutput) {
      throw new BentoError("bad-call", "Cannot shape output: it has begun");
    }
    this.#shape = shape;
    this.#asked = shape.begins === "now" ? 1 : this.#inputs;
    this.#begin();
  }

  room(): number {
    return this.#open()?.room ?? 0;
  }

  async finish(signal: AbortSignal): Promise<void> {
    if (this.#finished >= this.#asked) throw new BentoError("bad-call", "Cannot finish answer: none is open");
    this.#open()?.finish();
    await this.#until(this.#finished++, signal);
  }

  async ended(signal: AbortSignal): Promise<void> {
    await this.#until(this.#finished, signal);
  }

  // For the guest link.

  get isShaping(): boolean {
    return this.#shape !== undefined;
  }

  /** A message for the function: its answer begins now, or when those before it have ended. */
  ask(): void {
    this.#inputs++;
    if (this.#shape?.begins !== "input") return;
    this.#asked++;
    this.#begin();
  }

  /**
   * Output: content of the answer that the function is at. What comes for one that has ended is dropped. False when there
   * is no shape: then it leaves as it is, and there will be none.
   */
  take(bytes: Uint8Array): boolean {
    if (!this.#shape) {
      this.#hasPlainOutput = true;
      return false;
    }
    const filler = this.#open();
    filler?.push(bytes);
    if (filler) this.#headerBytes += GUEST_HEADER_BYTES;
    else this.#options.onConsumed(guestFrameCost(bytes.length));
    return true;
  }

  /** Output that leaves as it is, whatever it is. Throws BentoError "bad-call" when there is a shape: nothing goes past it. */
  refuseShaped(): void {
    if (this.#shape) throw new BentoError("bad-call", "Cannot send a value: output has a shape");
    this.#hasPlainOutput = true;
  }

  /** The receiver takes more cells: the sum of their costs. */
  credit(bytes: number): void {
    this.#freeBytes += bytes;
    this.#changes.notify();
  }

  /** The guest is gone: resolves when the answer that was under way has ended, at one of its sizes. */
  async drain(): Promise<void> {
    this.#asked = Math.min(this.#asked, this.#ended + (this.#filler ? 1 : 0));
    this.#finished = this.#asked;
    this.#filler?.finish();
    while (this.#filler && !this.#stop.signal.aborted) await this.#changes.next;
  }

  /** Sends no more cells. Idempotent. */
  stop(): void {
    this.#stop.abort(new BentoError("guest-gone", "Cannot go on: the instance was ended"));
    this.#changes.notify();
  }

  /** The present answer, while it takes content. */
  #open(): CellFiller | undefined {
    const filler = this.#finished === this.#ended ? this.#filler : undefined;
    return filler?.isEnded ? undefined : filler;
  }

  #begin(): void {
    if (!this.#shape || this.#filler || this.#asked <= this.#ended || this.#stop.signal.aborted) return;
    this.#filler = new CellFiller(this.#shape.bytes, (bytes) => crypto.getRandomValues(bytes));
    if (this.#finished > this.#ended) this.#filler.finish();
    void this.#sendAll(this.#filler, cellIntervalMs(CELL_BYTES, this.#shape.rate));
  }

  /** Never rejects. The first cell leaves before this returns. */
  async #sendAll(filler: CellFiller, intervalMs: number): Promise<void> {
    const { clock } = this.#options;
    try {
      await pace({
        clock,
        schedule: new CellSchedule(intervalMs, clock.now()),
        next: () => this.#cell(filler),
        send: (cell) => this.#send(cell),
        signal: this.#stop.signal,
      });
    } catch (error) {
      if (!this.#stop.signal.aborted) throw error;
      return;
    }
    this.#filler = undefined;
    this.#ended++;
    this.#begin();
    this.#changes.notify();
  }

  #cell(filler: CellFiller): Uint8Array | undefined {
    const before = filler.queued;
    const cell = filler.next();
    // Headers count until all has left: a guest that sends single bytes makes the box keep no more of them.
    const headerBytes = filler.queued === 0 ? this.#headerBytes : 0;
    this.#headerBytes -= headerBytes;
    const bytes = before - filler.queued + headerBytes;
    if (bytes > 0) this.#options.onConsumed(bytes);
    return cell;
  }

  #send(cell: Uint8Array): Promise<void> | undefined {
    if (this.#freeBytes < CELL_COST) return this.#sendLater(cell);
    this.#freeBytes -= CELL_COST;
    this.#options.onCell(cell, CELL_COST);
    return undefined;
  }

  async #sendLater(cell: Uint8Array): Promise<void> {
    while (this.#freeBytes < CELL_COST) await orAborted(this.#changes.next, this.#stop.signal);
    await this.#send(cell);
  }

  /** Until `answer` has ended. Rejects with the signal's reason. */
  async #until(answer: number, signal: AbortSignal): Promise<void> {
    while (this.#ended <= answer) await orAborted(this.#changes.next, signal);
  }
}
