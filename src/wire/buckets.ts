// Which sizes answers may have (spec/browse 5): K sizes for which padding a population of pages costs least, and what
// they guarantee. Pure, deterministic. Sizes are bytes.

/** Pages of a population that is fitted to: the fit takes time with its square. */
export const POPULATION_MAX = 4096;

/** How a population fares with a set of sizes. */
export interface BucketReport {
  readonly pages: number;
  /** Pages that are larger than the last size: cut there. */
  readonly cut: number;
  /** Sizes that at least one page has. */
  readonly used: number;
  /**
   * The best that anybody can do who guesses the page by size and duration, each page being as likely as the others:
   * used / pages.
   */
  readonly bound: number;
  /** Padding of all pages together as a share of their bytes, cut ones at their cut size: 0.36 for 36 %. */
  readonly overhead: number;
}

/**
 * At most `count` sizes, ascending, multiples of `step`, the last of which holds the largest page (as far as `cap`):
 * no other such set pads `sizes` with fewer bytes. Pages above `cap` count as large as it. Takes time with the
 * square of the number of different sizes. Throws RangeError.
 */
export function fitBuckets(
  sizes: readonly number[],
  count: number,
  { step = 1, cap = Number.POSITIVE_INFINITY }: { readonly step?: number; readonly cap?: number } = {},
): number[] {
  if (sizes.length < 1 || sizes.length > POPULATION_MAX) {
    throw new RangeError(`Cannot fit sizes: found ${sizes.length} pages, expected 1 to ${POPULATION_MAX}`);
  }
  if (count < 1) throw new RangeError(`Cannot fit sizes: found ${count} of them, expected at least 1`);
  const stepped = sizes.map((size) => Math.max(step, Math.ceil(Math.min(size, cap) / step) * step));
  const { values, upTo } = tally(stepped);
  const n = values.length;
  // cheapest[j]: least bytes of the pages below value j, padded, with the sizes so far; from[k][j]: where the last began.
  let cheapest = Array.from({ length: n + 1 }, (_, j) =>
    j === 0 ? 0 : (values[j - 1] ?? 0) * (upTo[j] ?? 0),
  );
  const from: number[][] = [cheapest.map(() => 0)];
  for (let k = 1; k < Math.min(count, n); k++) {
    const next = [0];
    const begins = [0];
    for (let j = 1; j <= n; j++) {
      let best = cheapest[j] ?? 0;
      let begin = -1;
      const size = values[j - 1] ?? 0;
      const pages = upTo[j] ?? 0;
      for (let i = 1; i < j; i++) {
        const bytes = (cheapest[i] ?? 0) + size * (pages - (upTo[i] ?? 0));
        if (bytes < best) {
          best = bytes;
          begin = i;
        }
      }
      next.push(best);
      begins.push(begin);
    }
    cheapest = next;
    from.push(begins);
  }
  return sizesFrom(from, values);
}

/** Walks back through the choices. -1 stands for "one size fewer is as good". */
function sizesFrom(from: readonly (readonly number[])[], values: readonly number[]): number[] {
  const sizes: number[] = [];
  let j = values.length;
  for (let k = from.length - 1; k >= 0 && j > 0; k--) {
    const begin = from[k]?.[j] ?? 0;
    if (begin < 0) continue;
    sizes.unshift(values[j - 1] ?? 0);
    j = begin;
  }
  return sizes;
}

/** The different sizes, ascending, and how many pages are among the first j of them. */
function tally(sizes: readonly number[]): { values: number[]; upTo: number[] } {
  const counts = new Map<number, number>();
  for (const size of sizes) counts.set(size, (counts.get(size) ?? 0) + 1);
  const values = [...counts.keys()].sort((a, b) => a - b);
  const upTo = [0];
  for (const value of values) upTo.push((upTo.at(-1) ?? 0) + (counts.get(value) ?? 0));
  return { values, upTo };
}

/** The smallest of `buckets` (ascending) that holds `bytes`; undefined when none does. */
export function bucketFor(buckets: readonly number[], bytes: number): number | undefined {
  return buckets.find((size) => size >= bytes);
}

export function reportOn(buckets: readonly number[], sizes: readonly number[]): BucketReport {
  const last = buckets.at(-1) ?? 0;
  const used = new Set<number>();
  let bytes = 0;
  let padded = 0;
  let cut = 0;
  for (const size of sizes) {
    const bucket = bucketFor(buckets, size) ?? last;
    if (size > last) cut++;
    used.add(bucket);
    bytes += Math.min(size, last);
    padded += bucket;
  }
  return {
    pages: sizes.length,
    cut,
    used: used.size,
    bound: sizes.length === 0 ? 1 : used.size / sizes.length,
    overhead: bytes === 0 ? 0 : padded / bytes - 1,
  };
}
