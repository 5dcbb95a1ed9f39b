// What the replicas carry together, and what that says about their number: one more, or one less. With hysteresis: one that
// is retired must not be started again at once.

import type { Clock } from "../../src/base/clock.ts";
import type { ScaleSettings, Watermark } from "../../src/wire/loadbalancer.ts";
import type { ReplicaLink } from "./replica-link.ts";

/** A silent replica keeps its place this long; when it comes back later, one too many is retired. */
export const GONE_MS = 10_000;
/** All of the marks that are set must have been undercut for this long before a replica is retired. */
export const LOW_HOLD_MS = 10_000;

/** Serving ones, and those that will: their number, and what they carry together. */
export interface Carried {
  readonly count: number;
  readonly starting: number;
  /** Silent ones that may come back any moment. */
  readonly silent: number;
  readonly sum: Required<Watermark>;
}

/** @param asking boxes that were asked for a replica, and have not answered */
export function carriedBy(links: readonly ReplicaLink[], asking: number): Carried {
  const serving = links.filter(({ state }) => state === "serving");
  const starting = asking + links.filter(({ state }) => state === "starting").length;
  const sum = { connections: 0, bytesPerSecond: 0, cpuPercent: 0 };
  for (const link of serving) {
    sum.connections += link.connections;
    sum.bytesPerSecond += link.load.bytesPerSecond;
    sum.cpuPercent += link.load.cpuPercent;
  }
  const silent = links.filter((link) => link.state === "silent" && link.silentMs < GONE_MS).length;
  return { count: serving.length, starting, silent, sum };
}

/** Whether one more is to be started. */
export function wantsMore({ count, starting, silent, sum }: Carried, scale: ScaleSettings): boolean {
  const { replicasMin, replicasMax, high } = scale;
  const all = count + starting;
  const wanted = all < replicasMin || (all > 0 && isAbove(sum, all, high));
  return wanted && all + silent < Math.max(replicasMin, replicasMax);
}

/** When one is too many. */
export class Surplus {
  readonly #clock: Clock;
  #lowSinceMs: number | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** New settings: what was low may be low no more. */
  reset(): void {
    this.#lowSinceMs = undefined;
  }

  /** To be asked several times a second; true: one is to be retired now. */
  isOneTooMany({ count, starting, sum }: Carried, scale: ScaleSettings): boolean {
    const { replicasMin, replicasMax, high, low } = scale;
    if (count > replicasMax) return true;
    // What the others would carry must be below the high mark, or the one that is retired would be started again.
    const isLow =
      count > Math.max(1, replicasMin) &&
      starting === 0 &&
      isBelow(sum, count, low) &&
      !isAbove(sum, count - 1, high);
    if (!isLow) {
      this.#lowSinceMs = undefined;
      return false;
    }
    this.#lowSinceMs ??= this.#clock.now();
    if (this.#clock.now() - this.#lowSinceMs < LOW_HOLD_MS) return false;
    this.#lowSinceMs = undefined;
    return true;
  }
}

const DIMENSIONS = ["connections", "bytesPerSecond", "cpuPercent"] as const;

/** Whether the mean of `count` replicas is at or above any mark. */
function isAbove(sum: Required<Watermark>, count: number, mark: Watermark): boolean {
  return DIMENSIONS.some((name) => sum[name] / count >= (mark[name] ?? Number.POSITIVE_INFINITY));
}

/** Whether it is below all marks, of which there is one at least. */
function isBelow(sum: Required<Watermark>, count: number, mark: Watermark): boolean {
  const set = DIMENSIONS.filter((name) => mark[name] !== undefined);
  return set.length > 0 && set.every((name) => sum[name] / count < (mark[name] ?? 0));
}
