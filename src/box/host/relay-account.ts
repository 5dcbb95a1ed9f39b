// What one instance has used of its `relays` grant, all its links together. Every count is checked before anything
// happens. Pure but for the clock.
// Spec: docs/spec/policy.md 2.6.

import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import type { RelaysGrant } from "../../wire/grant.ts";
import type { CellCounts } from "./cell-gate.ts";

/** Of the instance's bytes, for each link asked for: about what a handshake takes on the wire. */
export const LINK_BYTES = 4096;
/** A handshake costs the box some milliseconds. Whoever keeps links needs few. */
export const LINKS_PER_MINUTE = 60;
/** tor-spec 5.6: relays take so many RELAY_EARLY cells of one circuit, each of which may extend it. */
export const EARLY_PER_CIRCUIT = 8;

export class RelayAccount implements CellCounts {
  readonly #grant: RelaysGrant;
  readonly #clock: Clock;
  readonly #opened = new MinuteCount();
  readonly #circuits = new MinuteCount();
  readonly #early = new MinuteCount();
  #links = 0;
  #bytesLeft: number;

  constructor(grant: RelaysGrant, clock: Clock) {
    this.#grant = grant;
    this.#clock = clock;
    this.#bytesLeft = grant.bytes;
  }

  get links(): number {
    return this.#links;
  }

  /** Room for one link. Throws BentoError `relays-limit`. The function that comes back gives it back, once. */
  takeLink(): () => void {
    if (this.#links >= this.#grant.links)
      throw limit(`Cannot open link: ${String(this.#links)} are open, and no more are granted`);
    if (this.#bytesLeft < LINK_BYTES) throw bytesSpent("Cannot open link");
    if (!this.#opened.take(this.#clock.now(), LINKS_PER_MINUTE))
      throw limit(`Cannot open link: ${String(LINKS_PER_MINUTE)} were opened within a minute`);
    this.#bytesLeft -= LINK_BYTES;
    this.#links++;
    let isTaken = true;
    return () => {
      if (isTaken) this.#links--;
      isTaken = false;
    };
  }

  takeCircuit(): void {
    this.#take(this.#circuits, this.#grant.circuitsPerMinute, "circuits");
  }

  takeEarly(): void {
    this.#take(this.#early, this.#grant.circuitsPerMinute * EARLY_PER_CIRCUIT, "RELAY_EARLY cells");
  }

  /** Throws BentoError `relays-limit` unless so many bytes are left; takes them otherwise. */
  spend(bytes: number): void {
    if (bytes > this.#bytesLeft) throw bytesSpent("Link closed");
    this.#bytesLeft -= bytes;
  }

  #take(count: MinuteCount, max: number, what: string): void {
    if (!count.take(this.#clock.now(), max))
      throw limit(`Link closed: more than ${String(max)} ${what} within a minute`);
  }
}

const SECONDS = 60;

/** How often something happened in the last minute, by seconds: each is forgotten 60 to 61 s after it happened. */
class MinuteCount {
  readonly #bySecond = new Uint32Array(SECONDS + 1);
  #second = 0;
  #total = 0;

  /** Counts one more unless there are `max`. */
  take(nowMs: number, max: number): boolean {
    const second = Math.floor(nowMs / 1000);
    const length = this.#bySecond.length;
    for (let passed = Math.min(second - this.#second, length); passed > 0; passed--) {
      const oldest = (((second - passed + 1) % length) + length) % length;
      this.#total -= this.#bySecond[oldest] ?? 0;
      this.#bySecond[oldest] = 0;
    }
    // A clock that was set back stands still here.
    this.#second = Math.max(this.#second, second);
    if (this.#total >= max) return false;
    const at = ((this.#second % length) + length) % length;
    this.#bySecond[at] = (this.#bySecond[at] ?? 0) + 1;
    this.#total++;
    return true;
  }
}

function limit(message: string): BentoError {
  return new BentoError("relays-limit", message);
}

function bytesSpent(what: string): BentoError {
  return limit(`${what}: the instance has used up its bytes`);
}
