// The two-sample Kolmogorov-Smirnov test: could two sets of measurements be of one kind? Small `p` says no.

export interface TwoSample {
  /** Largest distance of the two empirical distributions, 0 to 1. */
  readonly distance: number;
  /** Chance of a distance at least as large when both are of one kind (asymptotic; on the safe side with ties). */
  readonly p: number;
}

export function twoSample(first: readonly number[], second: readonly number[]): TwoSample {
  const a = [...first].sort((x, y) => x - y);
  const b = [...second].sort((x, y) => x - y);
  let distance = 0;
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const value = Math.min(a[i] ?? 0, b[j] ?? 0);
    while (i < a.length && (a[i] ?? 0) <= value) i++;
    while (j < b.length && (b[j] ?? 0) <= value) j++;
    distance = Math.max(distance, Math.abs(i / a.length - j / b.length));
  }
  const n = (a.length * b.length) / (a.length + b.length);
  return { distance, p: tail((Math.sqrt(n) + 0.12 + 0.11 / Math.sqrt(n)) * distance) };
}

/** Kolmogorov's distribution: the chance to exceed `lambda` (Stephens 1970 gives the argument for small samples). */
function tail(lambda: number): number {
  if (lambda < 0.2) return 1;
  let sum = 0;
  for (let k = 1; k <= 100; k++) sum += 2 * (-1) ** (k - 1) * Math.exp(-2 * k * k * lambda * lambda);
  return Math.min(1, Math.max(0, sum));
}
