// Quantities as people write them in manifests and policy files: "64MiB", "10m", "50%".
// Parsed once at the edge into plain numbers of bytes, milliseconds and percent of one core.

import { z } from "zod";

const BYTE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};
const TIME_UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1e3, m: 60e3, h: 3600e3, d: 86400e3 };

/** `"64MiB"` -> 67108864. undefined when the text is not a byte count. */
export function parseBytes(text: string): number | undefined {
  return parseQuantity(text, /^(\d{1,12})\s*(B|KiB|MiB|GiB|TiB)$/, BYTE_UNITS);
}

/** `"10m"` -> 600000 (milliseconds). undefined when the text is not a duration. */
export function parseDuration(text: string): number | undefined {
  return parseQuantity(text, /^(\d{1,12})\s*(ms|s|m|h|d)$/, TIME_UNITS);
}

/** `600000` -> `"10m"`: the largest unit that divides it. */
export function formatDuration(durationMs: number): string {
  for (const unit of ["d", "h", "m", "s"]) {
    const factor = TIME_UNITS[unit] ?? 1;
    if (durationMs >= factor && durationMs % factor === 0) return `${durationMs / factor}${unit}`;
  }
  return `${durationMs}ms`;
}

function parseQuantity(
  text: string,
  grammar: RegExp,
  units: Readonly<Record<string, number>>,
): number | undefined {
  const match = grammar.exec(text);
  const factor = match?.[2] === undefined ? undefined : units[match[2]];
  if (!match || factor === undefined) return undefined;
  const value = Number(match[1]) * factor;
  return Number.isSafeInteger(value) ? value : undefined;
}

function quantity(parse: (text: string) => number | undefined, example: string, pattern: string) {
  return z
    .string()
    .regex(new RegExp(pattern), `expected a quantity such as "${example}"`)
    .transform((text, context) => {
      const value = parse(text);
      if (value !== undefined) return value;
      context.addIssue({ code: "custom", message: `expected a quantity such as "${example}"` });
      return z.NEVER;
    });
}

/** Text such as "64MiB" -> bytes. */
export const byteCount = quantity(parseBytes, "64MiB", "^\\d{1,12}\\s*(B|KiB|MiB|GiB|TiB)$");
/** Text such as "10m" -> milliseconds. */
export const duration = quantity(parseDuration, "10m", "^\\d{1,12}\\s*(ms|s|m|h|d)$");
/** Text such as "50%" -> 50, percent of one core. */
export const percent = quantity(
  (text) => parseQuantity(text, /^(\d{1,5})\s*(%)$/, { "%": 1 }),
  "50%",
  "^\\d{1,5}\\s*%$",
);
