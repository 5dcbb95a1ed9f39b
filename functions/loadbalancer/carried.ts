// What the replicas carry together, and what that says about their number. Pure.

import type { Watermark } from "../../src/wire/loadbalancer.ts";
import type { ReplicaLink } from "./replica-link.ts";

/** A silent replica keeps its place this long; when it comes back later, one too many is retired. */
export const GONE_MS = 10_000;

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

const DIMENSIONS = ["connections", "bytesPerSecond", "cpuPercent"] as const;

/** Whether the mean of `count` replicas is at or above any mark. */
export function isAbove(sum: Required<Watermark>, count: number, mark: Watermark): boolean {
  return DIMENSIONS.some((name) => sum[name] / count >= (mark[name] ?? Number.POSITIVE_INFINITY));
}

/** Whether it is below all marks, of which there is one at least. */
export function isBelow(sum: Required<Watermark>, count: number, mark: Watermark): boolean {
  const set = DIMENSIONS.filter((name) => mark[name] !== undefined);
  return set.length > 0 && set.every((name) => sum[name] / count < (mark[name] ?? 0));
}
