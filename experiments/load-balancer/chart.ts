// The paper's Figure 5 of one column: download speed over time, one line for each client. Pure: numbers in, SVG out.

import { BUCKET_MS, type Download } from "./downloads.ts";

export interface ChartOptions {
  readonly title: string;
  /** Of both axes, the same for all columns, so that they can be laid side by side. */
  readonly seconds: number;
  readonly kilobytesPerS: number;
}

const WIDTH = 560;
const HEIGHT = 340;
const PLOT = { left: 62, right: 446, top: 34, bottom: 292 };
/** A line shows the mean over this long: single cells of a slow link are no speed. */
const SMOOTH_MS = 2000;
const COLORS = [
  "#9400d3",
  "#009e73",
  "#56b4e9",
  "#e69f00",
  "#c9b400",
  "#0072b2",
  "#e51e10",
  "#111111",
  "#8c6d31",
  "#7f7f7f",
  "#d6619e",
  "#17a2b8",
  "#5aa02c",
] as const;

export function chart(downloads: readonly Download[], options: ChartOptions): string {
  const { left, right, top, bottom } = PLOT;
  const x = (ms: number) => left + (ms / 1000 / options.seconds) * (right - left);
  const y = (speed: number) =>
    bottom - (Math.min(speed, options.kilobytesPerS) / options.kilobytesPerS) * (bottom - top);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="11">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    `<text x="${(left + right) / 2}" y="20" text-anchor="middle" font-size="13">${options.title}</text>`,
  ];
  for (const value of ticks(options.kilobytesPerS)) {
    parts.push(`<line x1="${left}" y1="${at(y(value))}" x2="${right}" y2="${at(y(value))}" stroke="#ddd"/>`);
    parts.push(`<text x="${left - 6}" y="${at(y(value) + 4)}" text-anchor="end">${value}</text>`);
  }
  for (const value of ticks(options.seconds)) {
    parts.push(
      `<line x1="${at(x(1000 * value))}" y1="${bottom}" x2="${at(x(1000 * value))}" y2="${bottom + 4}" stroke="#000"/>`,
    );
    parts.push(`<text x="${at(x(1000 * value))}" y="${bottom + 17}" text-anchor="middle">${value}</text>`);
  }
  for (const [index, one] of downloads.entries()) {
    const color = COLORS[index % COLORS.length] ?? "#000";
    const points = speeds(one).map(([ms, speed]) => `${at(x(ms))},${at(y(speed))}`);
    parts.push(`<polyline fill="none" stroke="${color}" stroke-width="1.5" points="${points.join(" ")}"/>`);
    const row = top + 12 + 19 * index;
    parts.push(
      `<line x1="${right + 14}" y1="${row}" x2="${right + 38}" y2="${row}" stroke="${color}" stroke-width="2"/>`,
    );
    parts.push(`<text x="${right + 44}" y="${row + 4}">Client ${one.client}</text>`);
  }
  parts.push(
    `<rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}" fill="none" stroke="#000"/>`,
    `<text x="${(left + right) / 2}" y="${HEIGHT - 14}" text-anchor="middle">Time (s)</text>`,
    `<text transform="translate(16 ${(top + bottom) / 2}) rotate(-90)" text-anchor="middle">Download Speed (KB/s)</text>`,
    "</svg>",
  );
  return `${parts.join("\n")}\n`;
}

/** The highest value that a chart of these has to show, KB/s. */
export function peakKBs(downloads: readonly Download[]): number {
  return Math.max(...downloads.flatMap((one) => speeds(one).map(([, speed]) => speed)));
}

/** Milliseconds and KB/s, from the client's arrival to its end. */
function speeds({ arrivedMs, endedMs, buckets }: Download): (readonly [ms: number, speed: number])[] {
  const half = SMOOTH_MS / 2;
  const points: (readonly [number, number])[] = [[arrivedMs, 0]];
  for (let ms = Math.ceil(arrivedMs / BUCKET_MS) * BUCKET_MS; ms < endedMs; ms += BUCKET_MS) {
    const from = Math.max(arrivedMs, ms - half);
    const to = Math.min(endedMs, ms + half);
    let bytes = 0;
    for (const [index, count] of buckets.entries()) {
      const overlap = Math.min(to, (index + 1) * BUCKET_MS) - Math.max(from, index * BUCKET_MS);
      if (overlap > 0) bytes += (count * overlap) / BUCKET_MS;
    }
    points.push([ms, bytes / (to - from)]);
  }
  return [...points, [endedMs, 0]];
}

/** Round numbers from 0 on, some six of them. */
function ticks(end: number): number[] {
  const rough = end / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough) ?? 10 * power;
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, index) => Math.round(index * step));
}

function at(value: number): string {
  return value.toFixed(1);
}
