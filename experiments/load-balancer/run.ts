// LoadBalancer against one C tor onion service and OnionBalance: `experiments/load-balancer/run [--quick] [part ...]`.
// README.md says what is measured and what came out. Writes results.json and the charts beside this file.

import { writeFile } from "node:fs/promises";
import { cpus, loadavg } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import type { ScaleSettings } from "../../src/wire/loadbalancer.ts";
import { startBenchNetwork } from "./bench-network.ts";
import { balancerColumn, type Column, TOR_COLUMN } from "./columns.ts";
import { figure5, writeCharts } from "./figure5.ts";
import { round } from "./figures.ts";
import { firstByte } from "./first-byte.ts";
import { introductions } from "./introductions.ts";
import { startOnionBalance } from "./onion-balance.ts";
import { scaleUp } from "./scale-up.ts";
import { throughput } from "./throughput.ts";

const { values: flags, positionals } = parseArgs({
  options: { only: { type: "string", multiple: true }, quick: { type: "boolean", default: false } },
  allowPositionals: true,
});
const { only } = flags;
const NODES = 4;
const CLIENTS = 13;
const UPLINK_MBIT = 8;
/** Of each link, one way, where delay counts. */
const LATENCY_MS = 25;
const SITE_BYTES = flags.quick ? 3_000_000 : 10_000_000;

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
  loadAverageBefore: load(),
};

const columns = wants("figure5") ? await runFigure5() : [];
const parts = { ...(await runFast()), ...(await runDelayed()) };
const after = { loadAverageAfter: load(), tookS: round((performance.now() - startMs) / 1000) };
const results = { summary: { ...summary, ...after }, parts, columns };
await writeFile(path.join(import.meta.dirname, "results.json"), `${JSON.stringify(results)}\n`);
process.exit(0);

async function runFigure5() {
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
    path: "/",
    start: async () => ({
      address: balanced.address,
      [Symbol.asyncDispose]: () => balanced[Symbol.asyncDispose](),
    }),
  };
  const found = await figure5({
    bench,
    columns: [TOR_COLUMN, onionBalance, ...balancerColumns()].filter(
      ({ name }) => only === undefined || only.includes(name),
    ),
    clients: CLIENTS,
    say,
    signal,
  });
  await writeCharts(import.meta.dirname, found);
  return found;
}

/** Without delay or limits: the processor decides. */
async function runFast() {
  if (!wants("throughput") && !wants("introductions")) return {};
  const { signal } = stop;
  await using bench = await startBenchNetwork({ nodes: 1, relays: 4, clients: 1, siteBytes: 1, say, signal });
  const part = { bench, say, signal };
  return {
    ...(wants("throughput")
      ? { throughput: await throughput({ ...part, rounds: flags.quick ? 3 : 7, bytes: 20_000_000 }) }
      : {}),
    ...(wants("introductions")
      ? {
          introductions: await introductions({
            ...part,
            count: flags.quick ? 200 : 1000,
            overMs: flags.quick ? 12_000 : 60_000,
          }),
        }
      : {}),
  };
}

/** With the delay of real links. */
async function runDelayed() {
  if (!wants("first-byte") && !wants("scale-up")) return {};
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
    latencyMs: LATENCY_MS,
    ...(wants("first-byte")
      ? { firstByte: await firstByte({ ...part, samples: flags.quick ? 6 : 20 }) }
      : {}),
    ...(wants("scale-up") ? { scaleUp: await scaleUp({ ...part, siteBytes: 1_000_000 }) } : {}),
  };
}

function balancerColumns(): Column[] {
  const column = (name: string, title: string, nodes: number, scale: Partial<ScaleSettings>) =>
    balancerColumn({
      name,
      title,
      nodes,
      siteBytes: SITE_BYTES,
      scale: { replicasMin: 1, replicasMax: nodes, high: {}, low: {}, choice: "least-loaded", ...scale },
    });
  // As in the paper: two clients at a time are enough for a replica.
  const scale = { high: { connections: 2 }, low: { connections: 1 } };
  return [
    column("lb-1", "LoadBalancer, one replica", 1, {}),
    column("lb-4", "LoadBalancer, up to 4 replicas", 4, scale),
    column("lb-4-random", "LoadBalancer, up to 4 replicas, chosen at random", 4, {
      ...scale,
      choice: "random",
    }),
    column("lb-4-ready", "LoadBalancer, 4 replicas from the start", 4, { replicasMin: 4 }),
  ];
}
