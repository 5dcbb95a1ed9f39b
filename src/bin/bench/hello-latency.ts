// `bento bench hello-latency`: how long a stranger with a box at hand waits for the first byte of a function that
// the box has never seen. Durable: the answer comes after the function is flushed to disk.

import type { BoxClient } from "../../client/client.ts";
import { loadPackage } from "../../client/package-loader.ts";
import type { PackageInput } from "../../wire/package.ts";
import { type BenchContext, type Benchmark, type Figure, median, percentile } from "./benchmark.ts";
import { Reference2021 } from "./reference-2021.ts";
import { BenchBox } from "./support/box-process.ts";

const WARM_UP = 10;
const SAMPLES = 100;
const REFERENCE_CODE = 'def hello():\n    api.send("hello world")\n';

export const benchmark: Benchmark = {
  name: "hello-latency",
  description: "store + exec + open + first byte, no Tor, warm pool, durable",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  context.phase("starting a box and the 2021 stand-in");
  await using box = await BenchBox.start({
    toml: "[policy.total]\nfunctions = 100000\n[warm]\ndeno = 4\npython = 2\n[policy.net]\nenabled = false",
  });
  await using reference = await Reference2021.start();
  using client = box.client();
  const deno = (await loadPackage("hello")).package;
  const python: PackageInput = {
    manifest: { name: "hello", image: "python", memory: "64MiB" },
    source: REFERENCE_CODE,
  };
  const ways = {
    reference: () => reference.storeExecuteOpen(REFERENCE_CODE, "hello()"),
    three: () => threeRequests(client, deno),
    run: () => oneRequest(client, deno),
    python: () => oneRequest(client, python, "hello()"),
  };
  const samples = { reference: [], three: [], run: [], python: [] } as Record<keyof typeof ways, number[]>;
  for (let round = 0; round < WARM_UP + SAMPLES; round++) {
    context.signal.throwIfAborted();
    context.phase(`sample ${round} of ${WARM_UP + SAMPLES}`);
    for (const [name, way] of Object.entries(ways) as [keyof typeof ways, () => Promise<unknown>][]) {
      // What is measured is a warm pool; how fast it fills again is another benchmark.
      await box.warmedUp();
      const startedMs = performance.now();
      await way();
      if (round >= WARM_UP) samples[name].push(performance.now() - startedMs);
    }
  }
  return figures(samples);
}

function figures(samples: Record<"reference" | "three" | "run" | "python", number[]>): Figure[] {
  const reference = median(samples.reference);
  const note = `n ${SAMPLES}, interleaved with the reference`;
  return [
    { name: "three requests p50", value: median(samples.three), unit: "ms", target: { most: 5 }, note },
    { name: "three requests p99", value: percentile(samples.three, 0.99), unit: "ms" },
    { name: "run, one request p50", value: median(samples.run), unit: "ms", target: { most: 5 }, note },
    { name: "run, one request p99", value: percentile(samples.run, 0.99), unit: "ms" },
    { name: "run, python p50", value: median(samples.python), unit: "ms", note },
    { name: "run, python p99", value: percentile(samples.python, 0.99), unit: "ms" },
    {
      name: "2021 stand-in p50",
      value: reference,
      unit: "ms",
      note: "a new interpreter a call, three requests, polled file",
    },
    { name: "2021 stand-in p99", value: percentile(samples.reference, 0.99), unit: "ms" },
    {
      name: "reference / three requests",
      value: reference / median(samples.three),
      unit: "x",
      target: { least: 20 },
      note: "medians",
    },
    {
      name: "reference / run",
      value: reference / median(samples.run),
      unit: "x",
      target: { least: 20 },
      note: "medians",
    },
  ];
}

async function threeRequests(client: BoxClient, pack: PackageInput): Promise<void> {
  const { invocationToken } = await client.store(pack);
  const instance = await client.exec(invocationToken, { args: [] });
  await using session = await client.open(instance);
  await firstByte(session);
}

async function oneRequest(client: BoxClient, pack: PackageInput, call?: string): Promise<void> {
  await using session = await client.run({ package: pack }, call === undefined ? { args: [] } : { call });
  await firstByte(session);
}

async function firstByte(session: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _ of session) return;
  throw new Error("hello said nothing");
}
