// The sizes that Bento offers: constants, the same for everybody, so that they tell nothing about who uses them.
// Fitted with fitBuckets to WEB_PAGE_SIZES by the test beside this file, which fails when they no longer agree.

import { BentoError } from "../base/errors.ts";

const KB = 1000;
const MIB = 1024 * 1024;

/**
 * Bytes that loading a page transfers, by twentieths of the pages: HTTP Archive, as published for the EcoIndex
 * (github.com/cnumr/ecoindex_reference). Pages have grown since (the Web Almanac 2025 has a median of 2412 kB on desktops,
 * 29 % of it scripts, which a digest for reading leaves out); who knows their own pages better fits their own sizes.
 */
export const WEB_PAGE_QUANTILES: readonly number[] = [
  0, 1.4, 145, 320, 479, 632, 783, 938, 1099, 1265, 1448, 1648, 1876, 2142, 2465, 2866, 3402, 4156, 5400,
  8038, 223_212,
].map((kilobytes) => kilobytes * KB);

/** The largest size: 19 of 20 pages are smaller. It bounds what a page may cost; larger ones are cut. */
export const BUCKET_CAP = 12 * MIB;
/** Sizes are multiples of this. */
export const BUCKET_STEP = 64 * 1024;
const PAGES_PER_QUANTILE = 50;

/** A thousand page sizes with these quantiles: evenly between two, and evenly by ratio in the last. */
export function webPageSizes(): number[] {
  return WEB_PAGE_QUANTILES.slice(1).flatMap((high, at) => {
    const low = WEB_PAGE_QUANTILES[at] ?? 0;
    const isTail = at === WEB_PAGE_QUANTILES.length - 2;
    return Array.from({ length: PAGES_PER_QUANTILE }, (_, page) => {
      const share = (page + 0.5) / PAGES_PER_QUANTILE;
      return Math.round(isTail ? low * (high / low) ** share : low + (high - low) * share);
    });
  });
}

/** By the number of sizes, K. Of N pages nobody can tell more than K apart on average: accuracy K/N. In units of 64 KiB. */
const SETS: Readonly<Record<number, readonly number[]>> = {
  1: [192],
  2: [52, 192],
  3: [32, 82, 192],
  5: [17, 36, 64, 116, 192],
  8: [8, 18, 29, 43, 61, 83, 123, 192],
  10: [4, 12, 19, 27, 37, 49, 64, 83, 123, 192],
};

/** Names for people: how much is hidden, and so how much is padded. */
export const LEVELS = { light: 10, standard: 5, strong: 2, constant: 1 } as const;
export type Level = keyof typeof LEVELS;

/** The sizes of one set: `which` is a level or a number of sizes. Throws BentoError "usage". */
export function bucketSet(which: string): readonly number[] {
  const count = Object.hasOwn(LEVELS, which) ? LEVELS[which as Level] : Number(which);
  const units = Object.hasOwn(SETS, count) ? SETS[count] : undefined;
  if (units) return units.map((unit) => unit * BUCKET_STEP);
  throw new BentoError(
    "usage",
    `Cannot find sizes "${which}": wanted one of ${[...Object.keys(LEVELS), ...Object.keys(SETS)].join(", ")}`,
  );
}
