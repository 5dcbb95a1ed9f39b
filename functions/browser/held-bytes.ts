// Memory for bodies. Readers take bytes before they keep them and wait when too many are held; the writer gives them
// back when the client has them. So a slow circuit slows the fetching, and a fast server cannot fill the sandbox.

import { Changes } from "../../src/base/changes.ts";

export class HeldBytes {
  readonly #bytesMax: number;
  #held = 0;
  /** Readers in the order they began: the first may always go on, so that somebody can finish. */
  readonly #readers = new Set<object>();
  /** Whole bodies that wait for the writer. While there is one, progress comes from the writer. */
  #waitingBodies = 0;
  readonly #changes = new Changes();

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  get held(): number {
    return this.#held;
  }

  begin(reader: object): void {
    this.#readers.add(reader);
  }

  /** Waits until `bytes` more may be held. */
  async take(reader: object, bytes: number, signal: AbortSignal): Promise<void> {
    while (!this.#mayTake(reader, bytes)) {
      signal.throwIfAborted();
      const aborted = Promise.withResolvers<void>();
      const onAbort = () => {
        aborted.resolve();
      };
      signal.addEventListener("abort", onAbort, { once: true });
      await Promise.race([this.#changes.next, aborted.promise]);
      signal.removeEventListener("abort", onAbort);
    }
    this.#held += bytes;
  }

  /** The reader is done. `kept`: its bytes now wait for the writer; otherwise they are given back here. */
  end(reader: object, bytes: number, kept: boolean): void {
    this.#readers.delete(reader);
    if (kept) this.#waitingBodies++;
    else this.#held -= bytes;
    this.#changes.notify();
  }

  /** The writer has passed a body on. */
  release(bytes: number): void {
    this.#waitingBodies--;
    this.#held -= bytes;
    this.#changes.notify();
  }

  #mayTake(reader: object, bytes: number): boolean {
    if (this.#held + bytes <= this.#bytesMax) return true;
    const [first] = this.#readers;
    return first === reader && this.#waitingBodies === 0;
  }
}
