// How much a function may log: a burst, then a rate. What is over is counted, and the count is told once.

import type { Clock } from "../../base/clock.ts";
import { Limits } from "../../wire/limits.ts";
import type { GuestLogLine } from "./guest-calls.ts";

/** Lines at once, and lines a second after that: enough to follow a function, too few to fill a disk. */
const BURST_LINES = 200;
const LINES_PER_SECOND = 20;

export class LogLimit {
  readonly #clock: Clock;
  #tokens = BURST_LINES;
  #at: number;
  #dropped = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#at = clock.now();
  }

  /** The line as it may be kept, undefined when it is dropped. */
  admit(line: GuestLogLine): GuestLogLine | undefined {
    const now = this.#clock.now();
    this.#tokens = Math.min(BURST_LINES, this.#tokens + ((now - this.#at) / 1000) * LINES_PER_SECOND);
    this.#at = now;
    if (this.#tokens < 1) {
      this.#dropped += 1;
      return undefined;
    }
    this.#tokens -= 1;
    const note = this.#dropped > 0 ? `[${this.#dropped} lines dropped] ` : "";
    this.#dropped = 0;
    // A UTF-16 unit is at most three bytes of UTF-8.
    return { level: line.level, text: note + line.text.slice(0, Limits.logTextBytesMax / 3).toWellFormed() };
  }
}
