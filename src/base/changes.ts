// Wakes whoever waits until a state has changed, and looks at it again.

export class Changes {
  #waiters = Promise.withResolvers<void>();

  /** Resolves at the next `notify`: taken in the turn in which the state was looked at, it misses none. */
  get next(): Promise<void> {
    return this.#waiters.promise;
  }

  notify(): void {
    const waiters = this.#waiters;
    this.#waiters = Promise.withResolvers<void>();
    waiters.resolve();
  }
}
