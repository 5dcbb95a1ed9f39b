// Cells at a constant rate: when the next one leaves, and the loop that sends them (spec/browse 4). Pure: clock and
// send are passed in, so that a function in its sandbox and a client pace alike, and tests move time.
// What is sent never decides when. A receiver that takes less than the rate moves the whole schedule; it causes no burst.

/** As much of a clock as pacing needs. */
export interface PaceClock {
  /** Milliseconds; fractions are welcome. */
  now(): number;
  /** Resolves after `delayMs`, or a little later; rejects with the signal's reason when aborted first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
}

/** Cells that may leave one behind the other to make up for a late timer; more are spread over the time after. */
export const CATCH_UP_CELLS = 4;

/** Milliseconds between two cells. */
export function cellIntervalMs(cellBytes: number, bytesPerSecond: number): number {
  return (1000 * cellBytes) / bytesPerSecond;
}

/**
 * The times at which cells are due. A sender that wakes up late makes up for it, at twice the rate on the mean and with up to
 * CATCH_UP_CELLS at once, however late each of its timers is, so that its own load does not change when the last cell leaves.
 * Time that the receiver made it wait is not made up for.
 */
export class CellSchedule {
  readonly #intervalMs: number;
  #dueMs: number;
  /** When the cell after those that left would leave at twice the rate. */
  #spacedMs = Number.NEGATIVE_INFINITY;

  /** The first cell is due at `startMs`. */
  constructor(intervalMs: number, startMs: number) {
    this.#intervalMs = intervalMs;
    this.#dueMs = startMs;
  }

  /** Milliseconds until the next cell may leave; 0 when it may. */
  waitMs(nowMs: number): number {
    const burstMs = ((CATCH_UP_CELLS - 1) * this.#intervalMs) / 2;
    return Math.max(0, this.#dueMs - nowMs, this.#spacedMs - burstMs - nowMs);
  }

  /** A cell leaves now. */
  sent(nowMs: number): void {
    this.#dueMs += this.#intervalMs;
    this.#spacedMs = Math.max(this.#spacedMs, nowMs) + this.#intervalMs / 2;
  }

  /** The receiver took its time: everything that follows is later by as much. */
  slip(byMs: number): void {
    this.#dueMs += byMs;
  }
}

export interface PaceOptions {
  readonly clock: PaceClock;
  readonly schedule: CellSchedule;
  /** Asked at the moment when a cell leaves: the cell, or undefined to end. */
  readonly next: () => Uint8Array | undefined;
  /** Resolves when there is room for another; undefined when there is room already. */
  readonly send: (cell: Uint8Array) => Promise<void> | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Sends cell after cell until `next` has no more. Throws what `send` throws, or the signal's reason. */
export async function pace({ clock, schedule, next, send, signal }: PaceOptions): Promise<void> {
  for (;;) {
    for (let waitMs = schedule.waitMs(clock.now()); waitMs > 0; waitMs = schedule.waitMs(clock.now())) {
      await clock.sleep(waitMs, signal);
    }
    signal?.throwIfAborted();
    const cell = next();
    if (!cell) return;
    const beforeMs = clock.now();
    schedule.sent(beforeMs);
    const sending = send(cell);
    if (!sending) continue;
    await sending;
    schedule.slip(clock.now() - beforeMs);
  }
}
