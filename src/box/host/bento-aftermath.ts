// What has to be done at other boxes after an instance has ended: shut down what was deployed as linked, and what was
// deployed by a call that nobody waits for any more. In the background, since a far box may take minutes to be
// reached, tried again a few times, bounded in number, and given up when the box itself stops for good.

import type { Clock } from "../../base/clock.ts";
import { messageOf } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { BoxError } from "../../wire/error-code.ts";

/** Milliseconds before each further attempt. */
const RETRY_MS = [5_000, 30_000, 120_000] as const;
/** Tasks of the whole box at once; each is a function at some box that ends by itself when it expires. */
const TASKS_MAX = 2048;
/** How long a box that stops goes on with them: milliseconds. */
const STOP_GRACE_MS = 3_000;

export class Aftermath implements AsyncDisposable {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #running = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  #retries = true;

  constructor(deps: { readonly clock: Clock; readonly log: Log }) {
    this.#clock = deps.clock;
    this.#log = deps.log;
  }

  /** Tasks that are not done. */
  get size(): number {
    return this.#running.size;
  }

  /** Does `task` in the background, again when it fails. What the other box refuses is done. */
  add(task: (signal: AbortSignal) => Promise<unknown>): void {
    if (this.#stop.signal.aborted || this.#running.size >= TASKS_MAX) {
      this.#log.warn("a deployed function is left to its own end: too much is to be cleaned up");
      return;
    }
    const running = this.#attempt(task).finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#retries = false;
    const cancel = this.#clock.after(STOP_GRACE_MS, () => {
      this.#stop.abort(new Error("the box is stopping"));
    });
    await Promise.all(this.#running);
    cancel();
    this.#stop.abort(new Error("the box is stopping"));
  }

  async #attempt(task: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
    const { signal } = this.#stop;
    for (const delayMs of [0, ...RETRY_MS]) {
      if (delayMs > 0 && !this.#retries) return;
      try {
        if (delayMs > 0) await this.#clock.sleep(delayMs, signal);
        await task(signal);
        return;
      } catch (error) {
        if (signal.aborted || error instanceof BoxError) return;
        this.#log.debug("cleaning up at another box failed", { reason: messageOf(error) });
      }
    }
  }
}
