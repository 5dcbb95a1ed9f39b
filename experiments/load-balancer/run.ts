// LoadBalancer against one C tor onion service and OnionBalance: `experiments/load-balancer/run [--quick] [part ...]`.
// README.md says what is measured and what came out. Writes results.json and the charts beside this file.

import { readFile, writeFile } from "node:fs/promises";
import { cpus, loadavg, tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { messageOf } from "../../src/base/errors.ts";
import type { ScaleSettings } from "../../src/wire/loadbalancer.ts";
import { startBenchNetwork } from "./bench-network.ts";
import { ARRIVAL_MS, balancerColumn, type Column, torColumn } from "./columns.ts";
import { type ColumnResult, figure5, writeCharts } from "./figure5.ts";
import { round } from "./figures.ts";
import { firstByte } from "./first-byte.ts";
import { introductions } from "./introductions.ts";
import { startOnionBalance } from "./onion-balance.ts";
import { type Results, withResults } from "./results-text.ts";
import { scaleUp } from "./scale-up.ts";
import { throughput } from "./throughput.ts";

const { values: flags, positionals } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    only: { type: "string", multiple: true },
    write: { type: "boolean", default: false },
  },
  allowPositionals: true,
});
const { only } = flags;
const NODES = 4;
const CLIENTS = 13;
const UPLINK_MBIT = 10;
/** Of each link, one way, where delay counts. */
const LATENCY_MS = 25;
const SITE_BYTES = flags.quick ? 3_000_000 : 10_000_000;
/** Where only the rate of a number of replicas matters. */
const SMALL_SITE_BYTES = flags.quick ? 2_000_000 : 4_000_000;
/** Of the columns in the results. */
const ORDER = ["c-tor", "onionbalance", "lb-4", "lb-4-random", "lb-1", "lb-2", "lb-3", "lb-4-ready"];
const HERE = import.meta.dirname;

const stop = new AbortController();
process.once("SIGINT", () => stop.abort(new Error("interrupted")));
process.once("SIGTERM", () => stop.abort(new Error("terminated")));
const startMs = performance.now();
const say = (text: string) => {
  process.stderr.write(`${((performance.now() - startMs) / 1000).toFixed(1).padStart(6)} s  ${text}\n`);
};
const wants = (part: string) => positionals.length === 0 || positionals.includes(part);

const load = () => loadavg().map((value) => round(value, 1));
const summary = {
  date: new Date().toISOString().slice(0, 16),
  machine: `${cpus().length} cores of ${cpus()[0]?.model.trim()}`,
  quick: flags.quick,
  uplinkMbit: UPLINK_MBIT,
  latencyMs: LATENCY_MS,
  loadAverageBefore: load(),
};

let hasFailed = false;
const columns: ColumnResult[] = [];
const isWritten = flags.write || (positionals.length === 0 && only === undefined);
let results: Results = {
  summary: { ...summary, loadAverageAfter: load(), tookS: 0 },
  parts: {},
  columns: [],
};
if (wants("figure5")) {
  const failed = await attempt(runFigure5);
  const sorted = columns.toSorted((one, other) => ORDER.indexOf(one.name) - ORDER.indexOf(other.name));
  await add({ columns: sorted, ...("error" in failed ? { columnsError: failed.error } : {}) });
  if (columns.length > 0) await writeCharts(isWritten ? HERE : tmpdir(), columns);
}
if (wants("throughput") || wants("introductions")) {
  const found = await attempt(runFast);
  await add({ parts: "error" in found ? { throughput: found, introductions: found } : found });
}
if (wants("first-byte") || wants("scale-up")) {
  const found = await attempt(runDelayed);
  const parts = "error" in found ? { firstByte: found, scaleUp: found } : found;
  await add({ parts: { ...results.parts, ...parts } });
}
const { columns: _, ...short } = results;
process.stdout.write(`${JSON.stringify(short, null, 1)}\n`);
process.exit(hasFailed ? 1 : 0);

/** Written after each part: what comes later may fail. */
async function add(more: Partial<Results>): Promise<void> {
  const tookS = round((performance.now() - startMs) / 1000);
  results = { ...results, ...more, summary: { ...summary, loadAverageAfter: load(), tookS } };
  if (!isWritten) return;
  await writeFile(path.join(HERE, "results.json"), `${JSON.stringify(results)}\n`);
  const readme = path.join(HERE, "README.md");
  await writeFile(readme, withResults(await readFile(readme, "utf8"), results));
}

/** What a part found, or why it found nothing: the others go on. */
async function attempt<T>(part: () => Promise<T>): Promise<T | { readonly error: string }> {
  try {
    return await part();
  } catch (error) {
    hasFailed = true;
    stop.signal.throwIfAborted();
    say(`failed: ${messageOf(error)}`);
    return { error: messageOf(error) };
  }
}

async function runFigure5(): Promise<Record<string, never>> {
  const { signal } = stop;
  await using bench = await startBenchNetwork({
    nodes: NODES,
    uplinkMbit: UPLINK_MBIT,
    relays: 4,
    // One more waits until each service is there.
    clients: CLIENTS + 1,
    siteBytes: SITE_BYTES,
    say,
    signal,
  });
  const { testnet } = bench.net;
  const guards = Array.from({ length: NODES }, (_, index) => testnet.node(`e${index}`));
  const balanced = await startOnionBalance({
    dir: path.join(bench.dir, "onionbalance"),
    testnet,
    guards,
    target: bench.target,
    signal,
  });
  await using _balanced = balanced;
  say("onionbalance: backends run");
  const onionBalance: Column = {
    name: "onionbalance",
    title: "OnionBalance, 4 C tor backends",
    siteBytes: SITE_BYTES,
    arrivalMs: ARRIVAL_MS,
    path: "/",
    start: async () => ({
      address: balanced.address,
      [Symbol.asyncDispose]: () => balanced[Symbol.asyncDispose](),
    }),
  };
  const wanted = [...balancerColumns(), torColumn(SITE_BYTES), onionBalance].filter(
    ({ name }) => only === undefined || only.includes(name),
  );
  for await (const column of figure5({ bench, columns: wanted, clients: CLIENTS, say, signal }))
    columns.push(column);
  return {};
}

/** Without delay or limits: the processor decides. */
async function runFast(): Promise<Results["parts"]> {
  const { signal } = stop;
  await using bench = await startBenchNetwork({ nodes: 1, relays: 4, clients: 1, siteBytes: 1, say, signal });
  const part = { bench, say, signal };
  return {
    ...(wants("throughput")
      ? {
          throughput: await attempt(() =>
            throughput({ ...part, rounds: flags.quick ? 3 : 7, bytes: 20_000_000 }),
          ),
        }
      : {}),
    ...(wants("introductions")
      ? {
          introductions: await attempt(() =>
            introductions({
              ...part,
              count: flags.quick ? 200 : 1000,
              overMs: flags.quick ? 12_000 : 60_000,
            }),
          ),
        }
      : {}),
  };
}

/** With the delay of real links. */
async function runDelayed(): Promise<Results["parts"]> {
  const { signal } = stop;
  await using bench = await startBenchNetwork({
    nodes: 2,
    relays: 4,
    clients: 1,
    latencyMs: LATENCY_MS,
    siteBytes: 1,
    say,
    signal,
  });
  const part = { bench, say, signal };
  return {
    ...(wants("first-byte")
      ? { firstByte: await attempt(() => firstByte({ ...part, samples: flags.quick ? 6 : 20 })) }
      : {}),
    ...(wants("scale-up")
      ? { scaleUp: await attempt(() => scaleUp({ ...part, siteBytes: 1_000_000 })) }
      : {}),
  };
}

function balancerColumns(): Column[] {
  const column = (name: string, title: string, scale: Partial<ScaleSettings>, more: object = {}) =>
    balancerColumn({
      name,
      title,
      nodes: NODES,
      siteBytes: SITE_BYTES,
      scale: { replicasMin: 1, replicasMax: NODES, high: {}, low: {}, choice: "least-loaded", ...scale },
      ...more,
    });
  // As in the paper: two clients at a time are enough for a replica.
  const scale = { high: { connections: 2 }, low: { connections: 1 } };
  // All at once: what so many replicas carry at their best.
  const ready = (count: number) =>
    column(
      count === NODES ? "lb-4-ready" : `lb-${count}`,
      `LoadBalancer, ${count} ${count === 1 ? "replica" : "replicas"} from the start`,
      { replicasMin: count, replicasMax: count },
      { siteBytes: SMALL_SITE_BYTES, arrivalMs: 0 },
    );
  return [
    column("lb-4", "LoadBalancer, 1 to 4 replicas, least loaded", scale),
    column("lb-4-random", "LoadBalancer, 1 to 4 replicas, at random", {
      ...scale,
      choice: "random",
    }),
    ...(flags.quick ? [1, 4] : [1, 2, 3, 4]).map(ready),
  ];
}
