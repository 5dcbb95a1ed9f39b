// Memory for bodies on their way from the browser: each is whole here before it is read, several times over (as base64, as
// text, as bytes), so only so many bytes may be on the way at one time. First come, first served.

export class Room {
  readonly #bytesMax: number;
  #taken = 0;
  readonly #waiting: { readonly bytes: number; readonly enter: () => void }[] = [];

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get taken(): number {
    return this.#taken;
  }

  /**
   * Waits for room for a body of `bytes`; one that is larger than all there is waits until it is alone. Resolves with what
   * gives the room back, to be called once or more often. Rejects with the signal's reason.
   */
  async take(bytes: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    const wanted = Math.min(bytes, this.#bytesMax);
    if (this.#waiting.length > 0 || this.#taken + wanted > this.#bytesMax) await this.#wait(wanted, signal);
    else this.#taken += wanted;
    let isTaken = true;
    return () => {
      if (!isTaken) return;
      isTaken = false;
      this.#taken -= wanted;
      this.#admit();
    };
  }

  async #wait(bytes: number, signal: AbortSignal): Promise<void> {
    const turn = Promise.withResolvers<void>();
    const entry = { bytes, enter: turn.resolve };
    const onAbort = () => {
      const at = this.#waiting.indexOf(entry);
      if (at < 0) return; // it is its turn already
      this.#waiting.splice(at, 1);
      turn.reject(signal.reason);
      this.#admit();
    };
    this.#waiting.push(entry);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await turn.promise;
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  #admit(): void {
    for (let first = this.#waiting[0]; first; first = this.#waiting[0]) {
      if (this.#taken + first.bytes > this.#bytesMax) return;
      this.#waiting.shift();
      this.#taken += first.bytes;
      first.enter();
    }
  }
}
