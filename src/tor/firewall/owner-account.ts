// What one owner may do with a tor that several share, and how much of it is used up. Every count is checked before
// anything is sent to tor. It outlives the tor process: an owner whose tor was started again has no more than before.
// Spec: docs/spec/tor-firewall.md 3.

import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";

export type Routine = "circuits" | "streams" | "onions" | "events" | "directory";
type Counted = "circuits" | "streams" | "onions";

export interface OwnerLimits {
  /** What is not listed is refused. */
  readonly routines: readonly Routine[];
  /** At once, those being made included. */
  readonly circuits: number;
  /** At once, to and from the owner together. */
  readonly streams: number;
  readonly onions: number;
  /** Hops of circuits built and extended; whatever else makes tor build a circuit counts as TOR_CIRCUIT_HOPS. */
  readonly extendsPerMinute: number;
  /** Of all streams, both ways together. */
  readonly bytes: number;
}

/** Of a circuit that tor builds by itself: for a new isolation, an onion service, a connection to one. */
export const TOR_CIRCUIT_HOPS = 3;
/** Of the account's bytes, for each connection or name asked for: else one could knock without end. About two cells each way. */
export const ATTEMPT_BYTES = 1024;
export const READS_PER_MINUTE = 60;
const MINUTE_MS = 60_000;
const NAMES: Readonly<Record<Counted, string>> = {
  circuits: "circuits",
  streams: "streams",
  onions: "onion services",
};

export class OwnerAccount {
  readonly limits: OwnerLimits;
  readonly clock: Clock;
  readonly #used: Record<Counted, number> = { circuits: 0, streams: 0, onions: 0 };
  readonly #extendsAt: number[] = [];
  readonly #readsAt: number[] = [];
  #lastId = 0;
  #bytesLeft: number;
  readBytes = 0;
  writtenBytes = 0;

  constructor(limits: OwnerLimits, clock: Clock) {
    this.limits = limits;
    this.clock = clock;
    this.#bytesLeft = limits.bytes;
  }

  get bytesLeft(): number {
    return this.#bytesLeft;
  }

  /** Names what the owner makes. From 1 up for every owner by itself: tells nothing about anybody else. */
  nextId(): number {
    return ++this.#lastId;
  }

  /** Throws BentoError `tor-refused` unless the routine was granted. */
  require(routine: Routine): void {
    if (!this.limits.routines.includes(routine))
      throw new BentoError("tor-refused", `Cannot use tor: the routine "${routine}" was not granted`);
  }

  used(what: Counted): number {
    return this.#used[what];
  }

  /** Counts one more. Throws BentoError `tor-limit`. The function that comes back gives it back, once. */
  take(what: Counted): () => void {
    if (this.#used[what] >= this.limits[what])
      throw new BentoError(
        "tor-limit",
        `Cannot use tor: ${String(this.#used[what])} ${NAMES[what]} are open, and no more are granted`,
      );
    this.#used[what]++;
    let isTaken = true;
    return () => {
      if (isTaken) this.#used[what]--;
      isTaken = false;
    };
  }

  /** Counts hops that tor is to build. Throws BentoError `tor-limit` when the last minute would have more than granted. */
  takeExtends(hops: number = TOR_CIRCUIT_HOPS): void {
    const now = this.clock.now();
    while (this.#extendsAt[0] !== undefined && this.#extendsAt[0] <= now - MINUTE_MS) this.#extendsAt.shift();
    if (this.#extendsAt.length + hops > this.limits.extendsPerMinute)
      throw new BentoError(
        "tor-limit",
        `Cannot use tor: ${String(this.#extendsAt.length + hops)} hops within a minute, and ${String(this.limits.extendsPerMinute)} are granted`,
      );
    for (let hop = 0; hop < hops; hop++) this.#extendsAt.push(now);
  }

  /** One reading of the directory, which costs the host some milliseconds. Throws BentoError `tor-limit`. */
  takeRead(): void {
    const now = this.clock.now();
    while (this.#readsAt[0] !== undefined && this.#readsAt[0] <= now - MINUTE_MS) this.#readsAt.shift();
    if (this.#readsAt.length >= READS_PER_MINUTE)
      throw new BentoError(
        "tor-limit",
        `Cannot read the directory: it was read ${String(READS_PER_MINUTE)} times within a minute`,
      );
    this.#readsAt.push(now);
  }

  /** Pays for one attempt to connect. Throws BentoError `tor-limit` when too few bytes are left. */
  takeAttempt(): void {
    if (this.#bytesLeft < ATTEMPT_BYTES) throw bytesSpent();
    this.#bytesLeft -= ATTEMPT_BYTES;
  }

  /** Throws BentoError `tor-limit` when no byte is left. */
  requireBytes(): void {
    if (this.#bytesLeft <= 0) throw bytesSpent();
  }

  /** Takes up to `count` bytes; how many there were. */
  spend(count: number, direction: "read" | "written"): number {
    const taken = Math.min(count, this.#bytesLeft);
    this.#bytesLeft -= taken;
    if (direction === "read") this.readBytes += taken;
    else this.writtenBytes += taken;
    return taken;
  }
}

export function bytesSpent(): BentoError {
  return new BentoError("tor-limit", "Cannot use tor: all granted bytes are used up");
}
