// Bounds how many tasks run at one time. Waiters go in the order in which they came.

/** Lets at most `permits` holders in. */
export class Semaphore {
  #free: number;
  readonly #waiters: (() => void)[] = [];

  constructor(permits: number) {
    this.#free = permits;
  }

  /** Waits for a permit; dispose what it returns to give it back. Rejects with the signal's reason. */
  async acquire(signal?: AbortSignal): Promise<Disposable> {
    signal?.throwIfAborted();
    if (this.#free > 0) this.#free--;
    else await this.#wait(signal);
    let isHeld = true;
    return {
      [Symbol.dispose]: () => {
        if (!isHeld) return;
        isHeld = false;
        const next = this.#waiters.shift();
        if (next) next();
        else this.#free++;
      },
    };
  }

  async #wait(signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = () => {
      const at = this.#waiters.indexOf(resolve);
      if (at < 0) return; // the permit has just been handed over
      this.#waiters.splice(at, 1);
      reject(signal?.reason as Error);
    };
    this.#waiters.push(resolve);
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await promise;
    } finally {
      signal?.removeEventListener("abort", onAbort);
    }
  }
}
