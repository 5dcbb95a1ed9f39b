// Which files of a style sheet's fonts are needed: one format a face, and only faces whose characters the page has.

import type { FontFace } from "../../src/wire/page/css.ts";
import { BrowserLimits as Limits } from "./limits.ts";

/** The URL to fetch for `face`, as written; undefined for none. woff2 where there is one, else the first that works. */
export function chooseFont(face: FontFace, codePoints: Uint32Array): string | undefined {
  if (face.unicodeRange !== undefined && !isNeeded(face.unicodeRange, codePoints)) return undefined;
  const usable = face.sources.filter((source) => isSupported(source.format, source.url));
  const best = usable.find((source) => isWoff2(source.format, source.url)) ?? usable[0];
  return best && !/^data:/i.test(best.url) ? best.url : undefined;
}

function isWoff2(format: string | undefined, url: string): boolean {
  return format === undefined ? /\.woff2([?#]|$)/i.test(url) : format.startsWith("woff2");
}

function isSupported(format: string | undefined, url: string): boolean {
  if (format !== undefined) return /^(woff2?|truetype|opentype|collection)(-variations)?$/.test(format);
  return !/\.(eot|svg)([?#]|$)/i.test(url);
}

/** `"U+0025-00FF, U+4??"`. Private use counts as needed: icons come from style sheets, not from the text. */
function isNeeded(unicodeRange: string, codePoints: Uint32Array): boolean {
  const ranges = unicodeRange.split(",").slice(0, Limits.unicodeRangesMax);
  return ranges.some((range) => {
    const match = /^\s*u\+([0-9a-f]{0,6})(\?{0,6})(?:-([0-9a-f]{1,6}))?\s*$/i.exec(range);
    if (!match) return true;
    const [, digits = "", wild = "", last] = match;
    const from = Number.parseInt(digits + "0".repeat(wild.length), 16);
    const to = Number.parseInt(last ?? digits + "f".repeat(wild.length), 16);
    if (Number.isNaN(from) || Number.isNaN(to)) return true;
    return (from <= 0xf8ff && to >= 0xe000) || holdsAny(codePoints, from, Math.min(to, 0x10ffff));
  });
}

function holdsAny(codePoints: Uint32Array, from: number, to: number): boolean {
  for (let word = from >> 5; word <= to >> 5; word++) {
    let bits = codePoints[word] ?? 0;
    if (word === from >> 5) bits &= -1 << (from & 31);
    if (word === to >> 5 && (to & 31) !== 31) bits &= (1 << ((to & 31) + 1)) - 1;
    if (bits !== 0) return true;
  }
  return false;
}
