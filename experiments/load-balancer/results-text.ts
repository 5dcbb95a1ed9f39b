// The results as README.md shows them: tables between two marks, written anew by each whole run. Pure.

import type { ColumnResult } from "./figure5.ts";
import { round } from "./figures.ts";
import type { firstByte } from "./first-byte.ts";
import type { introductions } from "./introductions.ts";
import type { scaleUp } from "./scale-up.ts";
import type { throughput } from "./throughput.ts";

export const BEGIN = "<!-- results: written by run -->";
export const END = "<!-- end of results -->";

type Failed = { readonly error: string };
type Part<F extends (...args: never[]) => Promise<unknown>> = Awaited<ReturnType<F>> | Failed;

export interface Results {
  readonly summary: {
    readonly date: string;
    readonly machine: string;
    readonly quick: boolean;
    readonly uplinkMbit: number;
    readonly latencyMs: number;
    readonly loadAverageBefore: readonly number[];
    readonly loadAverageAfter: readonly number[];
    readonly tookS: number;
  };
  readonly parts: {
    readonly throughput?: Part<typeof throughput>;
    readonly introductions?: Part<typeof introductions>;
    readonly firstByte?: Part<typeof firstByte>;
    readonly scaleUp?: Part<typeof scaleUp>;
  };
  readonly columns: readonly ColumnResult[];
  readonly columnsError?: string;
}

/** `readme` with its results replaced by these. */
export function withResults(readme: string, results: Results): string {
  const [before = "", rest = ""] = readme.split(BEGIN);
  const after = rest.split(END)[1] ?? "\n";
  return `${before}${BEGIN}\n\n${resultsText(results)}\n${END}${after}`;
}

function resultsText(results: Results): string {
  const { summary } = results;
  const load = (values: readonly number[]) => values.join(", ");
  return [
    `${summary.date} UTC, ${summary.machine}; load average (1, 5, 15 min) ${load(summary.loadAverageBefore)} before and ${load(summary.loadAverageAfter)} after; ${summary.tookS} s${summary.quick ? "; a quick run: smaller files, fewer samples" : ""}.`,
    "",
    columnsTable(results),
    shownTable(results),
    memoryTable(results),
  ].join("\n");
}

function columnsTable({ columns, columnsError }: Results): string {
  if (columnsError !== undefined) return `Columns failed: ${columnsError}\n`;
  const rows = columns.map(({ title, name, siteBytes, figures, cpuPercent, loadAverage }) =>
    row([
      `[${title}](${name}.svg)`,
      `${siteBytes / 1e6}`,
      `${figures.plateauKBs}`,
      `${figures.meanKBs}`,
      `${figures.allS}`,
      `${figures.clientKBs.least} / ${figures.clientKBs.median} / ${figures.clientKBs.most}`,
      figures.jain.toFixed(3),
      `${figures.downloadS.median} / ${figures.downloadS.most}`,
      `${figures.firstByteMs.median} / ${figures.firstByteMs.most}`,
      `${figures.failed} / ${figures.retries}`,
      `${cpuPercent} % (${loadAverage})`,
    ]),
  );
  const head = [
    "who serves",
    "MB each",
    "best 5 s, KB/s",
    "over all, KB/s",
    "all done, s",
    "a client's mean, KB/s: least / median / most",
    "Jain's index",
    "download, s: median / most",
    "first byte, ms: median / most",
    "failed / tried again",
    "CPU (load)",
  ];
  return [row(head), row(head.map(() => "---")), ...rows, ""].join("\n");
}

/** What issue and paper want, beside what was found. */
function shownTable({ parts, columns }: Results): string {
  const of = (name: string) => columns.find((column) => column.name === name);
  const lines: string[][] = [];
  const [one, four] = [of("lb-1"), of("lb-4-ready")];
  if (one && four)
    lines.push([
      "aggregate of 4 replicas / of one, both at their best",
      "at least 3.6",
      `${round(four.figures.plateauKBs / one.figures.plateauKBs, 2)}`,
    ]);
  const [without, with4] = [of("c-tor"), of("lb-4")];
  if (without && with4)
    lines.push([
      "clients that were slower with up to 4 replicas than with one C tor service",
      "0",
      `${slowerClients(without, with4)} of ${with4.downloads.length}`,
    ]);
  const { throughput: speed, firstByte: first, scaleUp: scale, introductions: intro } = parts;
  if (speed)
    lines.push(
      "error" in speed
        ? ["one replica's throughput, CPU-bound", "at least 70 %", failed(speed)]
        : [
            "one replica's throughput / C tor's onion service's, CPU-bound, median",
            "at least 70 %",
            `${speed.replicaPercentOfTor} % (${speed.MBs["replica"]} and ${speed.MBs["tor"]} MB/s, n ${speed.rounds}; processor ${speed.cpuMsPerMB["replica"]} and ${speed.cpuMsPerMB["tor"]} ms a MB; the onion library alone ${speed.onionLibraryPercentOfTor} %, ${speed.cpuMsPerMB["library"]} ms a MB)`,
          ],
    );
  if (first)
    lines.push(
      "error" in first
        ? ["first byte of a first connection", "at most 110 %", failed(first)]
        : [
            "first byte of a first connection / C tor's, median",
            "at most 110 %",
            `${first.percentOfTor.ownBox} % with the replica on the load balancer's box, ${first.percentOfTor.otherBox} % on another (${first.ms.ownBox.median}, ${first.ms.otherBox.median} and ${first.ms.tor.median} ms, n ${first.samples}); since the client's tor had sent the introduction ${first.sinceIntroduction.percentOfTor.ownBox} and ${first.sinceIntroduction.percentOfTor.otherBox} % (${first.sinceIntroduction.ms.ownBox.median}, ${first.sinceIntroduction.ms.otherBox.median} and ${first.sinceIntroduction.ms.tor.median} ms)`,
          ],
    );
  if (scale)
    lines.push(
      "error" in scale
        ? ["high watermark to a new replica", "at most 5 s", failed(scale)]
        : [
            "high watermark to a new replica on another box that serves",
            "at most 5 s",
            `${scale.highToServingS} s after the first report of it, ${scale.startMs} ms after the load balancer's decision; of ${scale.clientsAfter} clients after that it met ${scale.metByNewReplica}`,
          ],
    );
  if (intro)
    lines.push(
      "error" in intro
        ? ["introductions", "none lost", failed(intro)]
        : [
            `${intro.made} introductions in ${intro.madeInS} s: without an answer`,
            "0",
            `${intro.unanswered} (answered after ${intro.ms.median} ms, median; ${intro.ms.p99} ms, 99th percentile)`,
          ],
    );
  return [row(["what", "wanted", "found"]), row(["---", "---", "---"]), ...lines.map(row), ""].join("\n");
}

function memoryTable({ parts: { introductions: intro } }: Results): string {
  if (!intro || "error" in intro) return "";
  const head = ["seconds since the first introduction", "box, MiB", "its instances, MiB"];
  const rows = intro.memory.map(({ atS, boxMiB, instancesMiB }) =>
    row([`${atS}`, `${boxMiB}`, `${instancesMiB}`]),
  );
  return [row(head), row(head.map(() => "---")), ...rows, ""].join("\n");
}

function slowerClients(without: ColumnResult, other: ColumnResult): number {
  const seconds = (of: ColumnResult, index: number) => {
    const one = of.downloads[index];
    return one && one.error === undefined ? one.endedMs - one.arrivedMs : Number.POSITIVE_INFINITY;
  };
  return other.downloads.filter((_, index) => seconds(other, index) > seconds(without, index)).length;
}

function failed({ error }: Failed): string {
  return `failed: ${error}`;
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(" | ")} |`;
}
