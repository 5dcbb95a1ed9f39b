// Long work in short pieces: cells of a shaped answer leave on time only if nothing keeps the thread for long.

/** Work at a stretch, milliseconds: below the time between two cells at the usual rates. */
const STRETCH_MS = 4;

export class Breather {
  #stretchFromMs = performance.now();
  #workedMs = 0;

  /** Time spent working, pauses left out. */
  get workedMs(): number {
    return this.#workedMs + performance.now() - this.#stretchFromMs;
  }

  /** Whether the stretch was long enough. */
  get isDue(): boolean {
    return performance.now() - this.#stretchFromMs >= STRETCH_MS;
  }

  /** Lets everything else run when it is due. */
  async breathe(): Promise<void> {
    if (!this.isDue) return;
    this.#workedMs += performance.now() - this.#stretchFromMs;
    await new Promise((resolve) => setTimeout(resolve, 0));
    this.#stretchFromMs = performance.now();
  }
}
