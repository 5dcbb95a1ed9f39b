// Samples taken fairly: ways that are to be compared take turns, so that what else the machine does meets all of
// them alike, and the first rounds, which load code and fill caches, are not counted.

import { type Figure, percentile } from "../benchmark.ts";

export interface Rounds {
  readonly warmUp: number;
  readonly samples: number;
  readonly signal: AbortSignal;
  /** Called before every single measurement, outside of the measured time. */
  readonly before?: () => Promise<void>;
  readonly onRound?: (done: number, all: number) => void;
}

/** Milliseconds of each way, `rounds.samples` of them, interleaved. */
export async function interleaved<Name extends string>(
  ways: Readonly<Record<Name, () => Promise<unknown>>>,
  rounds: Rounds,
): Promise<Record<Name, number[]>> {
  const names = Object.keys(ways) as Name[];
  const taken = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>;
  const all = rounds.warmUp + rounds.samples;
  for (let round = 0; round < all; round++) {
    rounds.onRound?.(round, all);
    for (const name of names) {
      rounds.signal.throwIfAborted();
      await rounds.before?.();
      const startedMs = performance.now();
      await ways[name]();
      if (round >= rounds.warmUp) taken[name].push(performance.now() - startedMs);
    }
  }
  return taken;
}

/** p50 and p99 of samples in milliseconds. */
export function spread(
  name: string,
  samples: readonly number[],
  targets: { readonly p50?: number; readonly p99?: number } = {},
  note?: string,
): Figure[] {
  const count = `n ${samples.length}`;
  const one = (share: number, target: number | undefined): Figure => ({
    name: `${name} p${share * 100}`,
    value: percentile(samples, share),
    unit: "ms",
    ...(target === undefined ? {} : { target: { most: target } }),
    note: note === undefined ? count : `${count}; ${note}`,
  });
  return [one(0.5, targets.p50), one(0.99, targets.p99)];
}
