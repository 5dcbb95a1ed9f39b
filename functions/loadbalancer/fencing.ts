// Whether somebody else has the service: a later instance of this function, or a standby that took it over. A relay that ends
// the circuit of an introduction point may say so, or mean nothing by it.
// Boundary: relays and the boxes of replicas, any of which may lie; none of them can bring us to leave alone.

import type { Storage } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { readState } from "./state.ts";

/** What is known of the standby, of the replicas and of the points. */
export interface FencingFacts {
  readonly clock: Clock;
  readonly standby: {
    /** When it last said that it waits: Unix milliseconds. */
    readonly heardMs: number;
    readonly silentMs: number;
    /** Another one may have taken over, although this one waits. */
    readonly isUncertain: boolean;
  };
  /** Somebody else has attached to a replica, or all points are gone. */
  readonly isEvident: () => boolean;
  readonly isOver: () => boolean;
}

const LOOK_MS = 200;
/** A point that was lost while the standby is not heard of is replaced after this long, where others are left: milliseconds. */
const UNHEARD_MS = 60_000;

/**
 * After a point was lost: whether a standby has it. It does not say that it waits, and what else shows it is evident. No
 * relay and no box of a replica can bring that about alone. Until then the other points stay as they are: relays may take
 * long to end the circuits of points that somebody else has claimed.
 */
export async function isFencedOff({ clock, standby, isEvident, isOver }: FencingFacts): Promise<boolean> {
  const lostMs = clock.now();
  for (let sinceMs = 0; sinceMs < UNHEARD_MS; sinceMs = clock.now() - lostMs) {
    await clock.sleep(LOOK_MS);
    if (isOver()) return true;
    if (standby.heardMs > lostMs && !standby.isUncertain) return false;
    if (isEvident() && sinceMs >= standby.silentMs) return true;
  }
  return false;
}

/** Whether a later instance of this function runs, which shares the storage. */
export async function hasSuccessor(storage: Storage, epoch: number): Promise<boolean> {
  try {
    const kept = await readState(storage);
    return kept !== undefined && kept.epoch > epoch;
  } catch {
    return false;
  }
}
