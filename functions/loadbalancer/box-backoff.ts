// Boxes that refused, or lost what ran there: each is left alone for a while, longer each time.

import type { Clock } from "../../src/base/clock.ts";

/** After a box has failed it is not asked for this long; doubled each time: milliseconds. */
export const REFUSED_MS = 5000;
export const REFUSED_MS_MAX = 300_000;

export class BoxBackoff {
  readonly #clock: Clock;
  readonly #failures = new Map<string, { readonly untilMs: number; readonly waitMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Whether it may be asked now. */
  isFree(box: string): boolean {
    return this.waitMs(box) === 0;
  }

  /** Until it may be: milliseconds. */
  waitMs(box: string): number {
    return Math.max(0, (this.#failures.get(box)?.untilMs ?? 0) - this.#clock.now());
  }

  failed(box: string): void {
    const before = this.#failures.get(box)?.waitMs;
    const waitMs = Math.min(REFUSED_MS_MAX, before === undefined ? REFUSED_MS : 2 * before);
    this.#failures.set(box, { untilMs: this.#clock.now() + waitMs, waitMs });
  }

  succeeded(box: string): void {
    this.#failures.delete(box);
  }
}
