// The introduction points that were there before an instance took the service up: how many of them it has by now.

import { orAborted } from "../../src/base/abort.ts";
import type { Clock } from "../../src/base/clock.ts";

/** A renewed instance waits so long for all of its points: milliseconds. Clients wait longer for a replica. */
const CLAIMS_MS = 10_000;

export class Claims {
  readonly #all = Promise.withResolvers<void>();
  #claimed = 0;
  #wanted = 0;

  /** So many there were. */
  expect(count: number): void {
    this.#wanted = count;
  }

  /** What there were. */
  get wanted(): number {
    return this.#wanted;
  }

  /** One point is ours. Returns whether it was the last one of those that there were. */
  add(): boolean {
    this.#claimed++;
    if (this.#claimed >= this.#wanted) this.#all.resolve();
    return this.#claimed === this.#wanted;
  }

  /** Resolves when all of them are ours, or do not come. */
  async all(clock: Clock, signal: AbortSignal): Promise<void> {
    const stop = clock.after(CLAIMS_MS, () => this.#all.resolve());
    try {
      await orAborted(this.#all.promise, signal);
    } finally {
      stop();
    }
  }
}
