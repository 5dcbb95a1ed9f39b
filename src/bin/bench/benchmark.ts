// What a benchmark is. Each other file of this folder exports one as `benchmark`; `bento bench` finds and runs them.

/** One measured number, with what it must reach. */
export interface Figure {
  readonly name: string;
  readonly value: number;
  /** "ms", "MiB", "/s", "%", ... */
  readonly unit: string;
  /** The bound to reach, in the same unit; absent for a reference. */
  readonly target?: { readonly most: number } | { readonly least: number };
  /** How it was measured, or what it is compared with. */
  readonly note?: string;
}

export interface BenchContext {
  /** Ends the benchmark early; everything it started must be stopped then. */
  readonly signal: AbortSignal;
  /** Says what is being measured now. */
  phase(text: string): void;
}

export interface Benchmark {
  readonly name: string;
  readonly description: string;
  /** Takes many minutes: runs when it is named, not with all others. */
  readonly onRequest?: true;
  run(context: BenchContext): Promise<readonly Figure[]>;
}

export function reached(figure: Figure): boolean | undefined {
  if (!figure.target) return undefined;
  return "most" in figure.target ? figure.value <= figure.target.most : figure.value >= figure.target.least;
}

/** The value below which `share` (0 to 1) of the samples lie; nearest rank. */
export function percentile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
}

export function median(samples: readonly number[]): number {
  return percentile(samples, 0.5);
}
