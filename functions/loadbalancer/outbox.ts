// What the owner is told, in order. The function never waits for an owner who does not read: events beyond a number are
// dropped, the oldest first, and of reports only the newest is of use.

import type { Clock } from "../../src/base/clock.ts";
import type { LoadBalancerEvent, LoadBalancerReport, OwnerAnswer } from "../../src/wire/loadbalancer.ts";

const WAITING_MAX = 256;

export class Outbox {
  readonly #send: (message: string) => Promise<void>;
  readonly #clock: Clock;
  readonly #waiting: OwnerAnswer[] = [];
  #sending: Promise<void> | undefined;

  constructor(send: (message: string) => Promise<void>, clock: Clock) {
    this.#send = send;
    this.#clock = clock;
  }

  event(event: LoadBalancerEvent): void {
    this.say({ event: { ...event, atMs: this.#clock.now() } });
  }

  /** Dropped while others wait. */
  report(report: LoadBalancerReport): void {
    if (!this.#sending) this.say({ report });
  }

  say(answer: OwnerAnswer): void {
    this.#waiting.push(answer);
    if (this.#waiting.length > WAITING_MAX) this.#waiting.shift();
    this.#sending ??= this.#sendAll();
  }

  /** Resolves when all that was said is on its way. */
  async flush(): Promise<void> {
    await this.#sending;
  }

  async #sendAll(): Promise<void> {
    try {
      for (let next = this.#waiting.shift(); next; next = this.#waiting.shift())
        await this.#send(JSON.stringify(next));
    } catch {
      // The instance ends: nobody is told any more.
    } finally {
      this.#sending = undefined;
    }
  }
}
