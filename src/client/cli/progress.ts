// Progress of a transfer on stderr: what, how much, how fast, how long yet. One line that is redrawn where a person
// watches; otherwise a plain line now and then, so that logs stay readable.

import { formatBytes } from "../../base/bytes.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import type { Io } from "./io.ts";

/** How often the line is drawn: milliseconds. */
const LIVE_MS = 200;
const PLAIN_MS = 10_000;
/** The rate is taken over this much time: long enough to be steady, short enough to notice a stall. */
const RATE_WINDOW_MS = 5000;

export class Progress implements Disposable {
  readonly #io: Io;
  readonly #clock: Clock;
  readonly #startedMs: number;
  #samples: { atMs: number; bytes: number }[] = [];
  #label: string;
  #bytes = 0;
  #total: number | undefined;
  #cancel: (() => void) | undefined;
  #drawn = false;

  constructor(io: Io, label: string, options: { total?: number; clock?: Clock } = {}) {
    this.#io = io;
    this.#label = label;
    this.#total = options.total;
    this.#clock = options.clock ?? systemClock;
    this.#startedMs = this.#clock.now();
    this.#samples.push({ atMs: this.#startedMs, bytes: 0 });
    this.#schedule();
  }

  /** Changes what the line says. */
  phase(label: string): void {
    this.#label = label;
    if (this.#io.live) this.#draw();
  }

  /** Bytes so far, and how many there will be if that is known. */
  update(bytes: number, total?: number): void {
    this.#bytes = bytes;
    if (total !== undefined) this.#total = total;
  }

  /** Takes the live line away. */
  [Symbol.dispose](): void {
    this.#cancel?.();
    this.#cancel = undefined;
    if (this.#drawn) this.#io.clearLine();
  }

  /** The line as it stands: `Receiving 1.2 MiB of 3 MiB (40 %), 310 KiB/s, 6 s left`. */
  line(): string {
    const parts = [this.#label];
    if (this.#bytes > 0) {
      const of = this.#total === undefined ? "" : ` of ${formatBytes(this.#total)}`;
      const share = this.#total ? ` (${Math.floor((100 * this.#bytes) / this.#total)} %)` : "";
      parts[0] = `${this.#label} ${formatBytes(this.#bytes)}${of}${share}`;
      const rate = this.#rate();
      if (rate > 0) {
        parts.push(`${formatBytes(Math.round(rate))}/s`);
        if (this.#total !== undefined && this.#total > this.#bytes) {
          parts.push(`${formatSeconds((this.#total - this.#bytes) / rate)} left`);
        }
      }
    } else {
      const waitedMs = this.#clock.now() - this.#startedMs;
      if (waitedMs >= 1000) parts.push(formatSeconds(waitedMs / 1000));
    }
    return parts.join(", ");
  }

  #rate(): number {
    const now = this.#clock.now();
    this.#samples.push({ atMs: now, bytes: this.#bytes });
    while (this.#samples.length > 2 && (this.#samples[0]?.atMs ?? now) < now - RATE_WINDOW_MS)
      this.#samples.shift();
    const first = this.#samples[0];
    if (!first || now <= first.atMs) return 0;
    return ((this.#bytes - first.bytes) * 1000) / (now - first.atMs);
  }

  #schedule(): void {
    this.#cancel = this.#clock.after(this.#io.live ? LIVE_MS : PLAIN_MS, () => {
      this.#draw();
      this.#schedule();
    });
  }

  #draw(): void {
    if (this.#io.json) return;
    const line = this.line();
    this.#drawn = true;
    if (!this.#io.live) this.#io.note(line);
    else this.#io.drawLine(line);
  }
}

/** `75` -> `"1 min 15 s"`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
