// What a column's downloads amount to. Pure.

import { median, percentile } from "../../src/bin/bench/benchmark.ts";
import { BUCKET_MS, type Download } from "./downloads.ts";

export interface Figures {
  readonly clients: number;
  readonly failed: number;
  /** Connections that clients tried again. */
  readonly retries: number;
  /** From the first arrival to the last byte: seconds. */
  readonly allS: number;
  /** All bytes over that time, KB/s. */
  readonly meanKBs: number;
  /** The best PLATEAU_MS of all clients together, KB/s: what the service carries while there is enough to do. */
  readonly plateauKBs: number;
  /** Each client's bytes over its own time, from its arrival, KB/s. */
  readonly clientKBs: { readonly least: number; readonly median: number; readonly most: number };
  /** Jain's index of those: 1 when all are equal, 1 / n when one has all. */
  readonly jain: number;
  readonly downloadS: { readonly median: number; readonly most: number };
  /** From arrival to the body's first byte, ms. */
  readonly firstByteMs: { readonly median: number; readonly most: number };
}

const PLATEAU_MS = 5000;

export function figuresOf(downloads: readonly Download[]): Figures {
  const done = downloads.filter(({ error }) => error === undefined);
  const speeds = done.map((one) => one.bytes / (one.endedMs - one.arrivedMs));
  const seconds = done.map((one) => (one.endedMs - one.arrivedMs) / 1000);
  const firstBytes = done.flatMap((one) =>
    one.firstByteMs === undefined ? [] : [one.firstByteMs - one.arrivedMs],
  );
  const endMs = Math.max(...downloads.map(({ endedMs }) => endedMs));
  const bytes = downloads.reduce((sum, one) => sum + one.bytes, 0);
  return {
    clients: downloads.length,
    failed: downloads.length - done.length,
    retries: downloads.reduce((sum, { tries }) => sum + tries - 1, 0),
    allS: round(endMs / 1000, 1),
    meanKBs: round(bytes / endMs),
    plateauKBs: round(plateau(downloads)),
    clientKBs: {
      least: round(Math.min(...speeds)),
      median: round(median(speeds)),
      most: round(Math.max(...speeds)),
    },
    jain: round(jain(speeds), 3),
    downloadS: { median: round(median(seconds), 1), most: round(percentile(seconds, 1), 1) },
    firstByteMs: { median: round(median(firstBytes)), most: round(percentile(firstBytes, 1)) },
  };
}

/** R. Jain and others, "A quantitative measure of fairness", 1984. */
export function jain(values: readonly number[]): number {
  const sum = values.reduce((all, value) => all + value, 0);
  const squares = values.reduce((all, value) => all + value * value, 0);
  return (sum * sum) / (values.length * squares);
}

function plateau(downloads: readonly Download[]): number {
  const buckets: number[] = [];
  for (const one of downloads)
    for (const [index, bytes] of one.buckets.entries()) buckets[index] = (buckets[index] ?? 0) + bytes;
  const count = Math.min(PLATEAU_MS / BUCKET_MS, buckets.length);
  let best = 0;
  for (let from = 0; from + count <= buckets.length; from++) {
    let sum = 0;
    for (let at = from; at < from + count; at++) sum += buckets[at] ?? 0;
    best = Math.max(best, sum / (count * BUCKET_MS));
  }
  return best;
}

export function round(value: number, digits = 0): number {
  return Number(value.toFixed(digits));
}
