// What a client and the `poster` function say to each other (functions/poster). Types and numbers alone.

import { cellIntervalMs } from "./pace.ts";

export const PosterLimits = {
  circuitsMax: 64,
  durationMsMax: 24 * 3600_000,
  /** Failed attempts of one lane, after which it is given up. */
  failuresMax: 5,
} as const;

/** The only argument of an invocation. */
export type PosterRequest = {
  /** Circuits at once, with one stream each. */
  readonly circuits: number;
  /** Bytes of cells per second, on each circuit and each way. */
  readonly rate: number;
  readonly cellBytes: number;
  readonly durationMs: number;
  /** Where streams lead; without one, to an onion service of the function's own. */
  readonly sink?: { readonly host: string; readonly port: number };
};

/** Cells that one circuit carries each way. */
export function cellsOf({ rate, cellBytes, durationMs }: PosterRequest): number {
  return Math.max(1, Math.floor(durationMs / cellIntervalMs(cellBytes, rate)));
}

export interface PosterCounts {
  /** Streams that were opened, each on a circuit of its own, those that replaced broken ones included. */
  readonly opened: number;
  /** Cells sent from this end, and bytes that came back to it. */
  readonly cellsSent: number;
  readonly bytesReceived: number;
  /** The same at the sink, where that is the function's own. */
  readonly sinkCellsSent: number;
  readonly sinkBytesReceived: number;
  /** Attempts that failed. */
  readonly failed: number;
}

/** Messages of the function, JSON: the first two as it goes, the last one once. */
export type PosterAnswer =
  | { readonly open: { readonly lane: number; readonly path: readonly (string | null)[] | null } }
  | { readonly failure: { readonly lane: number; readonly code: string; readonly message: string } }
  | { readonly now: PosterCounts }
  | { readonly done: PosterCounts };
