// The two-sample Kolmogorov-Smirnov test: could two sets of measurements be of one kind? Small `p` says no.
// Measurements that follow one another are not independent (what is late is missing now and too much later), so
// that its own p can be far off; `turnsTest` asks instead how the same distance comes out when turns change sides.

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

/** Measurements of one turn of several. */
export interface Turn {
  readonly isFirst: boolean;
  readonly values: readonly number[];
}

/**
 * The same distance, between the turns of one side and those of the other, and the share of all ways to split these
 * turns, as many on each side, whose distance is at least as large. Exact for turns that are alike, however the values
 * within one depend on each other; never less than one in the number of ways.
 */
export function turnsTest(turns: readonly Turn[]): TwoSample {
  const all = turns.flatMap(({ values }, turn) => values.map((value) => ({ value, turn })));
  all.sort((a, b) => a.value - b.value);
  const distanceOf = (firsts: ReadonlySet<number>) => {
    const counts = { first: 0, second: 0 };
    for (const { turn } of all) counts[firsts.has(turn) ? "first" : "second"]++;
    let [first, second, distance] = [0, 0, 0];
    for (const [at, { value, turn }] of all.entries()) {
      if (firsts.has(turn)) first++;
      else second++;
      if (all[at + 1]?.value === value) continue;
      distance = Math.max(distance, Math.abs(first / counts.first - second / counts.second));
    }
    return distance;
  };
  const own = new Set(turns.flatMap(({ isFirst }, turn) => (isFirst ? [turn] : [])));
  const distance = distanceOf(own);
  let [ways, asFar] = [0, 0];
  for (const firsts of subsets(turns.length, own.size)) {
    ways++;
    // The same sums in another order may differ in the last bit.
    if (distanceOf(new Set(firsts)) >= distance - 1e-12) asFar++;
  }
  return { distance, p: asFar / ways };
}

/** All choices of `size` numbers below `count`. */
function* subsets(count: number, size: number, from = 0): Generator<number[]> {
  if (size === 0) {
    yield [];
    return;
  }
  for (let first = from; first <= count - size; first++) {
    for (const rest of subsets(count, size - 1, first + 1)) yield [first, ...rest];
  }
}

/** Kolmogorov's distribution: the chance to exceed `lambda` (Stephens 1970 gives the argument for small samples). */
function tail(lambda: number): number {
  if (lambda < 0.2) return 1;
  let sum = 0;
  for (let k = 1; k <= 100; k++) sum += 2 * (-1) ** (k - 1) * Math.exp(-2 * k * k * lambda * lambda);
  return Math.min(1, Math.max(0, sum));
}
