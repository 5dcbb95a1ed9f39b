// `bento browse`: how its answers are shaped, from options; and --explain, which says what a shape hides and costs.

import { readFile } from "node:fs/promises";
import { formatBytes } from "../../base/bytes.ts";
import { systemCode } from "../../base/errors.ts";
import { BrowseLimits, CELL_BYTES, checkShape, RATES, type Shape } from "../../wire/browse.ts";
import { BUCKET_CAP, BUCKET_STEP, bucketSet, webPageSizes } from "../../wire/bucket-sets.ts";
import { bucketFor, fitBuckets, POPULATION_MAX, reportOn } from "../../wire/buckets.ts";
import { parseBytes } from "../../wire/quantity.ts";
import { type Cli, usage } from "./cli.ts";

export interface ShapeOptions {
  readonly shape?: string | undefined;
  readonly pad?: string | undefined;
  readonly sizes?: string | undefined;
  readonly rate?: string | undefined;
  readonly population?: string | undefined;
  readonly fit?: string | undefined;
}

/** Five sizes at half a mebibyte a second: docs/guide/user says why. */
const DEFAULT_SIZES = "standard";
const DEFAULT_RATE = "512KiB";

/** Pages to measure a shape by. */
export interface Population {
  readonly name: string;
  readonly sizes: readonly number[];
}

export function shapeOf(options: ShapeOptions, population?: Population): Shape {
  const kind = options.shape ?? (options.pad === undefined ? "bucket" : "none");
  if (kind === "none") return { kind, pad: padOf(options.pad ?? "0") };
  if (kind !== "bucket") throw usage(`Cannot shape as "${kind}": wanted bucket or none`);
  if (options.pad !== undefined)
    throw usage("Cannot use --pad with --shape bucket: wanted one or the other", "Sizes: --sizes.");
  const bytes =
    options.fit === undefined ? sizesOf(options.sizes ?? DEFAULT_SIZES) : fitted(options.fit, population);
  return checkShape({ kind, bytes, rate: rateOf(options.rate ?? DEFAULT_RATE) });
}

function padOf(text: string): number {
  const bytes = /^\d{1,12}$/.test(text) ? Number(text) : parseBytes(text);
  if (bytes !== undefined) return bytes;
  throw usage(`Cannot pad to "${text}": wanted a size such as 512KiB or 1MiB, or 0`);
}

/** `standard`, `8`, or `256KiB,1MiB,8MiB`: sizes of one's own are rounded up to whole cells. */
function sizesOf(text: string): readonly number[] {
  if (!/[,B]/.test(text)) return bucketSet(text);
  const sizes = text.split(",").map((one) => {
    const bytes = parseBytes(one.trim());
    if (bytes === undefined || bytes === 0 || bytes > BrowseLimits.bucketBytesMax) {
      throw usage(`Cannot use size "${one}": wanted sizes such as 256KiB,1MiB,8MiB`);
    }
    return Math.ceil(bytes / CELL_BYTES) * CELL_BYTES;
  });
  return [...new Set(sizes)].sort((a, b) => a - b);
}

function rateOf(text: string): number {
  const bytes = parseBytes(text.replace(/\/s$/, ""));
  const rate = RATES.find((one) => one === bytes);
  if (rate !== undefined) return rate;
  throw usage(`Cannot send at "${text}": wanted one of ${RATES.map((one) => `${one / 1024}KiB`).join(", ")}`);
}

function fitted(text: string, population: Population | undefined): readonly number[] {
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > BrowseLimits.bucketsMax) {
    throw usage(`Cannot fit "${text}" sizes: wanted 1 to ${BrowseLimits.bucketsMax}`);
  }
  const { sizes } = population ?? webPopulation();
  return fitBuckets(sizes, count, { step: BUCKET_STEP, cap: Math.min(BUCKET_CAP, Math.max(...sizes)) });
}

export function webPopulation(): Population {
  return { name: "the web, by quantiles of the HTTP Archive", sizes: webPageSizes() };
}

/** One size a line: a number of bytes, `300KiB`, or a line of `bento browse --json`. */
export async function readPopulation(cli: Cli, file: string): Promise<Population> {
  let text: string;
  try {
    text = await readFile(file, "utf8");
  } catch (cause) {
    throw usage(`Cannot read ${file}: ${systemCode(cause) ?? "failed"}`);
  }
  cli.signal.throwIfAborted();
  const sizes = text.split("\n").flatMap((line) => {
    const size = sizeIn(line.trim());
    return size === undefined ? [] : [size];
  });
  if (sizes.length < 1 || sizes.length > POPULATION_MAX) {
    throw usage(
      `Cannot use ${file}: found ${sizes.length} sizes, wanted 1 to ${POPULATION_MAX}`,
      "One a line: bytes, 300KiB, or what `bento browse --json` printed.",
    );
  }
  return { name: file, sizes };
}

function sizeIn(line: string): number | undefined {
  if (/^\d{1,12}$/.test(line)) return Number(line);
  if (!line.startsWith("{")) return parseBytes(line);
  try {
    const bytes: unknown = Reflect.get(JSON.parse(line) as object, "contentBytes");
    return typeof bytes === "number" && bytes > 0 ? bytes : undefined;
  } catch {
    // A log holds other lines as well.
    return undefined;
  }
}

/** What a shape hides and costs, for people; `json` for programs. `contentBytes`: of one page that was fetched. */
export function explain(
  shape: Shape,
  population: Population,
  contentBytes?: number,
): { readonly lines: readonly string[]; readonly json: Readonly<Record<string, unknown>> } {
  if (shape.kind === "none") {
    const lines = [
      `Shape none${shape.pad > 0 ? `, padded to a multiple of ${formatBytes(shape.pad)}` : ", no padding"}.`,
      "How long the box took, and when which part of the page came, shows on the link: nothing is promised.",
    ];
    return { lines, json: { shape } };
  }
  const seconds = (bytes: number) => `${(bytes / shape.rate).toFixed(1)} s`;
  const report = reportOn(shape.bytes, population.sizes);
  const percent = (share: number) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  const count = shape.bytes.length;
  const lines = [
    `${count} sizes at ${formatBytes(shape.rate)}/s:`,
    ...shape.bytes.map((bytes) => `  ${formatBytes(bytes).padStart(8)}  ${seconds(bytes)}`),
  ];
  const last = shape.bytes.at(-1) ?? 0;
  const chosen = contentBytes === undefined ? undefined : (bucketFor(shape.bytes, contentBytes) ?? last);
  if (contentBytes !== undefined && chosen !== undefined) {
    const overhead = chosen / Math.max(1, contentBytes) - 1;
    lines.push(
      `This page has ${formatBytes(contentBytes)} of content: the smallest size for it is ${formatBytes(chosen)} in ${seconds(chosen)}, +${percent(overhead)}; a slow server may take it to a larger one.`,
    );
  }
  lines.push(
    `Population: ${population.name} (${report.pages} pages): +${percent(report.overhead)} bytes in all, ${report.cut} pages cut at ${formatBytes(last)}.`,
    `Bound: whoever sees size and duration of an answer and guesses among N equally likely pages is right at most ${count} times in N: ${percent(count / 100)} of 100 pages, ${percent(Math.min(1, count / report.pages))} of this population.`,
    "It assumes that the circuit carries the rate or is slower for reasons of its own, that the box keeps to the schedule,",
    "and that one answer is looked at. It says nothing about how many pages are visited and when, nor about the box itself.",
  );
  const json = { shape, report, population: population.name, bound: count, contentBytes, size: chosen };
  return { lines, json };
}
