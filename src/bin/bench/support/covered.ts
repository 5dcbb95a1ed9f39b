// A covered session as benchmarks look at it: what runs in it, and how steady its seconds are.

import type { BoxClient } from "../../../client/client.ts";
import { Cover } from "../../../client/cover.ts";
import { loadPackage } from "../../../client/package-loader.ts";

/** Bytes of cells per second, each way. */
export const RATE = 64 * 1024;
/** Content while there is some: two thirds of what the cells carry, there and back. */
export const CONTENT_BYTES = 4096;
export const CONTENT_EVERY_MS = 100;
/** Until circuits and windows have settled. */
export const SETTLE_MS = 2000;

export async function startCover(client: BoxClient, signal: AbortSignal): Promise<Cover> {
  return Cover.start(client, { rate: RATE, cover: await loadPackage("cover"), signal });
}

export function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** How far each value is off `mean`, in percent of it. */
export function percentOff(values: readonly number[], mean: number): number[] {
  return values.map((value) => (100 * Math.abs(value - mean)) / mean);
}
