// What the instances of one function logged, for its owner alone (spec/wire 7). The lines come from hostile code and
// may hold anything, so they live in memory only, bounded for each instance, and die with the instances.

import type { Clock } from "../../base/clock.ts";
import type { LogLine, LogPage } from "../../wire/api.ts";
import { Limits } from "../../wire/limits.ts";

/** What a kept line costs beyond its text: bytes. */
const LINE_COST_BYTES = 64;
/** What a line costs in an answer beyond its text: bytes. */
const LINE_JSON_BYTES = 128;
/** Positions are microseconds since 1970, so that they go on rising when a function's log begins anew. */
const POSITIONS_PER_MS = 1000;

/** The logs of a function, as long as the box knows an instance of it or somebody waits for a line. */
export class FunctionLog {
  readonly #clock: Clock;
  readonly #instances = new Set<InstanceLog>();
  readonly #waiting = new Set<() => void>();
  #position = 0;
  #number = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get isUnused(): boolean {
    return this.#instances.size === 0 && this.#waiting.size === 0;
  }

  /** The log of one more instance. Dispose it with the instance. */
  open(): InstanceLog {
    this.#number++;
    const log = new InstanceLog(this.#number, {
      stamp: () => this.#stamp(),
      onLine: () => this.#wake(),
      onClosed: () => {
        this.#instances.delete(log);
        this.#wake();
      },
    });
    this.#instances.add(log);
    return log;
  }

  /** Lines after a position, oldest first, as many as one answer holds. */
  read(after: number): LogPage {
    // A position that was never given out is another box's, or from before a clock was set back: begin anew.
    const from = after > this.#position ? 0 : after;
    const instances = [...this.#instances];
    const found = instances.flatMap((log) => log.after(from)).sort((a, b) => a.position - b.position);
    const lines: LogLine[] = [];
    let bytes = 0;
    for (const line of found) {
      bytes += Buffer.byteLength(JSON.stringify(line.text)) + LINE_JSON_BYTES;
      if (bytes > Limits.logAnswerBytesMax) break;
      lines.push(line);
    }
    return {
      lines,
      next: lines.at(-1)?.position ?? from,
      more: lines.length < found.length,
      missed: instances.some((log) => log.droppedTo > from),
    };
  }

  /** Resolves when there is something after a position, when an instance is forgotten, or when `signal` aborts. */
  async changed(after: number, signal: AbortSignal): Promise<void> {
    if (signal.aborted || this.read(after).lines.length > 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.add(resolve);
    signal.addEventListener("abort", () => resolve(), { once: true });
    await promise;
    this.#waiting.delete(resolve);
  }

  #stamp(): { position: number; at: number } {
    const at = this.#clock.now();
    this.#position = Math.max(this.#position + 1, at * POSITIONS_PER_MS);
    return { position: this.#position, at };
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve();
  }
}

interface Owner {
  readonly stamp: () => { position: number; at: number };
  readonly onLine: () => void;
  readonly onClosed: () => void;
}

/** The newest lines of one instance; older ones make room. */
export class InstanceLog implements Disposable {
  /** Counts a function's instances, from 1: what the owner sees in place of their ids, which are capabilities. */
  readonly number: number;
  readonly #owner: Owner;
  readonly #lines: LogLine[] = [];
  #bytes = 0;
  #droppedTo = 0;

  constructor(number: number, owner: Owner) {
    this.number = number;
    this.#owner = owner;
  }

  /** Position of the newest line that made room; 0 when none did. */
  get droppedTo(): number {
    return this.#droppedTo;
  }

  append({ level, text }: Pick<LogLine, "level" | "text">): void {
    const { position, at } = this.#owner.stamp();
    const kept = text.slice(0, Limits.logTextBytesMax);
    this.#lines.push({ position, at, instance: this.number, level, text: kept });
    this.#bytes += costOf(kept);
    while (this.#bytes > Limits.logBytesMax) {
      const oldest = this.#lines.shift();
      if (!oldest) break;
      this.#bytes -= costOf(oldest.text);
      this.#droppedTo = oldest.position;
    }
    this.#owner.onLine();
  }

  after(position: number): readonly LogLine[] {
    return this.#lines.filter((line) => line.position > position);
  }

  [Symbol.dispose](): void {
    this.#lines.length = 0;
    this.#owner.onClosed();
  }
}

function costOf(text: string): number {
  return Buffer.byteLength(text) + LINE_COST_BYTES;
}
