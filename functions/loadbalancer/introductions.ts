// Introductions between the introduction points and the replicas: numbered, given to a replica, given to another one when
// that fails, kept for a while where there is none. Boundary: clients, who may introduce themselves as often as they like.

import type { Clock } from "../../src/base/clock.ts";
import type { RendezvousMaterial } from "../../src/onion/service/handover.ts";
import { LoadBalancerLimits as Limits } from "../../src/wire/loadbalancer.ts";

export interface Introduction {
  /** Another one each time that it is given: a replica takes no number twice. */
  number: number;
  readonly material: RendezvousMaterial;
  readonly bornMs: number;
  /** How often it was given to a replica. */
  tries: number;
  /** The replica that it was given to last. */
  replica: number | undefined;
}

/** Replicas that one introduction is given to before it is dropped: a rendezvous point that is not there fails everywhere. */
export const TRIES_MAX = 3;
/** The rate is the mean of this long. */
const RATE_MS = 10_000;
/** Times remembered for it: a rate above this share a second is shown as that. */
const RATES_MAX = 100_000;

export class Introductions {
  readonly #clock: Clock;
  readonly #give: (introduction: Introduction) => boolean;
  readonly #waiting: Introduction[] = [];
  /** When each of the last RATE_MS came; at most RATES_MAX of them. */
  #recent: number[] = [];
  #nextNumber = 1;
  total = 0;
  dropped = 0;
  /** Did not open, or came a second time. */
  refused = 0;

  /** @param give hands it to a replica, or says false when none can take it. Not called while it runs. */
  constructor(clock: Clock, give: (introduction: Introduction) => boolean) {
    this.#clock = clock;
    this.#give = give;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get perSecond(): number {
    this.#forget();
    return this.#recent.length / (RATE_MS / 1000);
  }

  take(material: RendezvousMaterial): void {
    this.total++;
    const nowMs = this.#clock.now();
    this.#forget();
    if (this.#recent.length < RATES_MAX) this.#recent.push(nowMs);
    this.#offer({ number: this.#number(), material, bornMs: nowMs, tries: 0, replica: undefined });
  }

  /** A replica could not meet this one, or is gone: another one may, if the client still waits. */
  again(introduction: Introduction): void {
    if (introduction.tries >= TRIES_MAX || this.#isOld(introduction)) {
      this.dropped++;
      return;
    }
    introduction.number = this.#number();
    this.#offer(introduction);
  }

  /** Tries those that wait, the oldest first. */
  retry(): void {
    while (this.#waiting.length > 0) {
      const [first] = this.#waiting;
      if (!first) return;
      if (this.#isOld(first)) this.dropped++;
      else if (!this.#give(first)) return;
      this.#waiting.shift();
    }
  }

  #offer(introduction: Introduction): void {
    if (this.#waiting.length === 0 && this.#give(introduction)) return;
    if (this.#waiting.length >= Limits.waitingMax) {
      this.dropped++;
      return;
    }
    this.#waiting.push(introduction);
  }

  #number(): number {
    const number = this.#nextNumber;
    // On the wire it has 32 bits.
    this.#nextNumber = number === 0xffff_ffff ? 1 : number + 1;
    return number;
  }

  #isOld({ bornMs }: Introduction): boolean {
    return this.#clock.now() - bornMs > Limits.waitingMs;
  }

  #forget(): void {
    const sinceMs = this.#clock.now() - RATE_MS;
    let gone = 0;
    while ((this.#recent[gone] ?? Number.POSITIVE_INFINITY) <= sinceMs) gone++;
    this.#recent.splice(0, gone);
  }
}
