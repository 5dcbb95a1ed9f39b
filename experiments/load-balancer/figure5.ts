// The paper's set-up: four service nodes with limited uplinks, 13 clients a second apart, 10 MB each; one column after
// the other in one network, with a chart of each.

import { readFile, writeFile } from "node:fs/promises";
import { loadavg } from "node:os";
import path from "node:path";
import { messageOf } from "../../src/base/errors.ts";
import type { BenchNetwork } from "./bench-network.ts";
import { chart, peakKBs } from "./chart.ts";
import type { Column } from "./columns.ts";
import { awaitService, type Download, downloadAll } from "./downloads.ts";
import { type Figures, figuresOf, round } from "./figures.ts";

export interface ColumnResult {
  readonly name: string;
  readonly title: string;
  readonly siteBytes: number;
  readonly figures: Figures;
  /** Of the whole machine, meanwhile. */
  readonly cpuPercent: number;
  readonly loadAverage: number;
  readonly report?: unknown;
  readonly downloads: readonly Download[];
}

/** Beyond these a column has failed. */
const START_MS = 100_000;
const COLUMN_MS = 400_000;

export interface Figure5Options {
  readonly bench: BenchNetwork;
  readonly columns: readonly Column[];
  readonly clients: number;
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
}

/** One column after the other. One that fails is said, and left out. */
export async function* figure5({ columns, ...options }: Figure5Options): AsyncGenerator<ColumnResult> {
  for (const column of columns) {
    try {
      yield await measure(column, options);
    } catch (error) {
      options.signal.throwIfAborted();
      options.say(`${column.name} failed: ${messageOf(error)}`);
    }
  }
}

async function measure(
  column: Column,
  { bench, clients, say, signal }: Omit<Figure5Options, "columns">,
): Promise<ColumnResult> {
  const { testnet } = bench.net;
  const proxies = Array.from({ length: clients }, (_, index) => testnet.socks(`c${index}`));
  say(`${column.name}: starting`);
  const startUntil = AbortSignal.any([signal, AbortSignal.timeout(START_MS)]);
  await using running = await column.start(bench, startUntil);
  // By a client of its own, so that all others have everything before them.
  await awaitService(testnet.socks(`c${clients}`), running.address, startUntil);
  say(`${column.name}: ${clients} clients`);
  const cpuBefore = await cpuTimes();
  const downloads = await downloadAll({
    proxies,
    address: running.address,
    path: column.path,
    arrivalMs: column.arrivalMs,
    signal: AbortSignal.any([signal, AbortSignal.timeout(COLUMN_MS)]),
  });
  const cpuAfter = await cpuTimes();
  const figures = figuresOf(downloads);
  const report = await running.report?.();
  const cpuPercent = round((100 * (cpuAfter.busy - cpuBefore.busy)) / (cpuAfter.all - cpuBefore.all));
  say(`${column.name}: ${JSON.stringify(figures)}, CPU ${cpuPercent} %`);
  for (const { client, error } of downloads) if (error !== undefined) say(`  client ${client}: ${error}`);
  return {
    name: column.name,
    title: column.title,
    siteBytes: column.siteBytes,
    figures,
    cpuPercent,
    loadAverage: round(loadavg()[0] ?? 0, 1),
    ...(report === undefined ? {} : { report }),
    downloads,
  };
}

/** All charts with the same axes. */
export async function writeCharts(dir: string, results: readonly ColumnResult[]): Promise<void> {
  const seconds = Math.ceil(Math.max(...results.map(({ figures }) => figures.allS)) / 10) * 10;
  const kilobytesPerS =
    Math.ceil((1.05 * Math.max(...results.map(({ downloads }) => peakKBs(downloads)))) / 100) * 100;
  for (const { name, title, downloads } of results)
    await writeFile(path.join(dir, `${name}.svg`), chart(downloads, { title, seconds, kilobytesPerS }));
}

// Sample of /proc/stat: "cpu  106473 0 41208 2312041 ..."; the fourth and fifth are idle time.
async function cpuTimes(): Promise<{ readonly busy: number; readonly all: number }> {
  const [line = ""] = (await readFile("/proc/stat", "utf8")).split("\n");
  const fields = line.trim().split(/\s+/u).slice(1, 9).map(Number);
  const all = fields.reduce((sum, value) => sum + value, 0);
  return { all, busy: all - (fields[3] ?? 0) - (fields[4] ?? 0) };
}
