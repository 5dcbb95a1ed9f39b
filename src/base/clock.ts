// Time enters through a Clock, so that tests can move it. Nothing else calls Date.now or setTimeout.

/** Wall-clock and timers. Times are Unix milliseconds, durations milliseconds. */
export interface Clock {
  now(): number;
  /** Calls `task` once after `delayMs`. The returned function cancels; calling it twice is fine. */
  after(delayMs: number, task: () => void): () => void;
  /** Resolves after `delayMs`; rejects with the signal's reason when aborted first. */
  sleep(delayMs: number, signal?: AbortSignal): Promise<void>;
}

class SystemClock implements Clock {
  now(): number {
    return Date.now();
  }

  after(delayMs: number, task: () => void): () => void {
    // setTimeout fires at once beyond 2^31-1 ms; longer waits are taken in steps.
    const stepMs = Math.min(delayMs, 0x7fff_ffff);
    let cancel: () => void;
    const timer = setTimeout(() => {
      if (stepMs < delayMs) cancel = this.after(delayMs - stepMs, task);
      else task();
    }, stepMs);
    cancel = () => {
      clearTimeout(timer);
    };
    return () => {
      cancel();
    };
  }

  async sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    await sleepOn(this, delayMs, signal);
  }
}

/** `sleep` in terms of `after`: shared by the system clock and test clocks. */
async function sleepOn(clock: Clock, delayMs: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const cancel = clock.after(delayMs, resolve);
  const onAbort = () => {
    reject(signal?.reason as Error);
  };
  signal?.addEventListener("abort", onAbort, { once: true });
  try {
    await promise;
  } finally {
    cancel();
    // Pacers sleep once for each cell: what stayed on their signal would grow with every one.
    signal?.removeEventListener("abort", onAbort);
  }
}

/** The real clock. */
export const systemClock: Clock = new SystemClock();

/** A clock that stands still until `advance` moves it; due tasks run in order of time. */
export class TestClock implements Clock {
  #now: number;
  #tasks: { dueMs: number; task: () => void }[] = [];

  constructor(startMs = 1_700_000_000_000) {
    this.#now = startMs;
  }

  now(): number {
    return this.#now;
  }

  /** Tasks that wait for their time. */
  get pending(): number {
    return this.#tasks.length;
  }

  after(delayMs: number, task: () => void): () => void {
    const entry = { dueMs: this.#now + delayMs, task };
    this.#tasks.push(entry);
    return () => {
      this.#tasks = this.#tasks.filter((other) => other !== entry);
    };
  }

  async sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    await sleepOn(this, delayMs, signal);
  }

  /** Moves time forward and runs what falls due, letting promise continuations run in between. */
  async advance(byMs: number): Promise<void> {
    const endMs = this.#now + byMs;
    for (;;) {
      const next = this.#tasks.filter((entry) => entry.dueMs <= endMs).sort((a, b) => a.dueMs - b.dueMs)[0];
      if (!next) break;
      this.#tasks = this.#tasks.filter((entry) => entry !== next);
      this.#now = Math.max(this.#now, next.dueMs);
      next.task();
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#now = endMs;
  }
}
