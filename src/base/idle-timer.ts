// Notices that nothing has happened for a while: one timer at a time, set again for what is left, so that a busy
// connection costs no timer a byte.

import type { Clock } from "./clock.ts";

export class IdleTimer {
  readonly #clock: Clock;
  readonly #idleMs: number;
  readonly #onIdle: () => void;
  #touchedAt: number;
  #stop: () => void = () => undefined;

  /** Runs from now on. `onIdle` is called once, when `idleMs` have passed since the last `touch`. */
  constructor(clock: Clock, idleMs: number, onIdle: () => void) {
    this.#clock = clock;
    this.#idleMs = idleMs;
    this.#onIdle = onIdle;
    this.#touchedAt = clock.now();
    this.#watch(idleMs);
  }

  /** Something happened. */
  touch(): void {
    this.#touchedAt = this.#clock.now();
  }

  /** `onIdle` is not called any more. */
  stop(): void {
    this.#stop();
  }

  #watch(delayMs: number): void {
    this.#stop = this.#clock.after(delayMs, () => {
      const leftMs = this.#touchedAt + this.#idleMs - this.#clock.now();
      if (leftMs > 0) this.#watch(leftMs);
      else this.#onIdle();
    });
  }
}
