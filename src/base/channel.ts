// A bounded queue between a producer and a consumer: the one place where back-pressure is made.

import { Changes } from "./changes.ts";

/** Why a channel takes no more values. */
export class ChannelClosed extends Error {
  override readonly name = "ChannelClosed";
}

/**
 * A first-in first-out queue that holds at most `capacity` units of cost. `send` waits while it is full;
 * iteration waits while it is empty, ends after `close()`, and throws after `fail(error)` once drained.
 */
export class Channel<T> implements AsyncIterable<T> {
  readonly #capacity: number;
  readonly #costOf: (value: T) => number;
  #values: { value: T; cost: number }[] = [];
  #cost = 0;
  #end: { error?: unknown } | undefined;
  readonly #changes = new Changes();

  /** @param costOf defaults to 1 per value; pass the byte length to bound bytes. */
  constructor(capacity: number, costOf: (value: T) => number = () => 1) {
    this.#capacity = capacity;
    this.#costOf = costOf;
  }

  /** Units of cost waiting to be received. */
  get cost(): number {
    return this.#cost;
  }

  get isClosed(): boolean {
    return this.#end !== undefined;
  }

  /** Queues at once, whatever the fill. Returns false when the channel is now at or over capacity. */
  push(value: T): boolean {
    if (this.#end) throw new ChannelClosed("Cannot send: channel is closed");
    const cost = this.#costOf(value);
    this.#values.push({ value, cost });
    this.#cost += cost;
    this.#changes.notify();
    return this.#cost < this.#capacity;
  }

  /** Queues when there is room. Throws ChannelClosed, or the signal's reason. A value larger than the capacity passes alone. */
  async send(value: T, options: { signal?: AbortSignal } = {}): Promise<void> {
    while (!this.#end && this.#cost > 0 && this.#cost + this.#costOf(value) > this.#capacity) {
      await this.#wait(options.signal);
    }
    options.signal?.throwIfAborted();
    this.push(value);
  }

  /** The next value, or undefined when the channel was closed and is empty. */
  async receive(options: { signal?: AbortSignal } = {}): Promise<T | undefined> {
    for (;;) {
      const first = this.#values.shift();
      if (first) {
        this.#cost -= first.cost;
        this.#changes.notify();
        return first.value;
      }
      if (this.#end) {
        if ("error" in this.#end) throw this.#end.error;
        return undefined;
      }
      await this.#wait(options.signal);
    }
  }

  /** No more values. Those queued are still delivered. */
  close(): void {
    this.#end ??= {};
    this.#changes.notify();
  }

  /** Ends with an error, which the consumer gets after the queued values. First reason wins. */
  fail(error: unknown): void {
    this.#end ??= { error };
    this.#changes.notify();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      const value = await this.receive();
      if (value === undefined) return;
      yield value;
    }
  }

  async #wait(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    const changed = this.#changes.next;
    if (!signal) return changed;
    const aborted = Promise.withResolvers<never>();
    const onAbort = () => {
      aborted.reject(signal.reason as Error);
    };
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      await Promise.race([changed, aborted.promise]);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }
}
