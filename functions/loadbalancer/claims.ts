// The introduction points that were there before an instance took the service up: whether it has them all by now. Points that
// are new do not count: clients who ask now do not know of them.

import { orAborted } from "../../src/base/abort.ts";
import type { Clock } from "../../src/base/clock.ts";

/** So long all of them are waited for: milliseconds. Clients wait longer for a replica. */
const CLAIMS_MS = 10_000;

export class Claims {
  readonly #all = Promise.withResolvers<void>();
  #missing = new Set<string>();
  #wanted = 0;

  /** These there were, by their names. */
  expect(points: readonly string[]): void {
    this.#missing = new Set(points);
    this.#wanted = points.length;
  }

  /** How many there were. */
  get wanted(): number {
    return this.#wanted;
  }

  /** This point is ours. */
  add(point: string): void {
    this.#missing.delete(point);
    if (this.#missing.size === 0) this.#all.resolve();
  }

  /** Resolves when all of them are ours, or do not come. Rejects with the signal's reason. */
  async all(clock: Clock, signal: AbortSignal): Promise<void> {
    const stop = clock.after(CLAIMS_MS, () => this.#all.resolve());
    try {
      await orAborted(this.#all.promise, signal);
    } finally {
      stop();
    }
  }
}
