// `bento bench hello-latency`: how long a stranger with a box at hand waits for the first byte of a function that
// the box has never seen. Durable: the answer comes after the function is flushed to disk.

import { closeSync, fdatasyncSync, openSync, writeSync } from "node:fs";
import path from "node:path";
import { systemClock } from "../../base/clock.ts";
import type { BoxClient } from "../../client/client.ts";
import { loadPackage } from "../../client/package-loader.ts";
import type { PackageInput } from "../../wire/package.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { Reference2021 } from "./reference-2021.ts";
import { BenchBox } from "./support/box-process.ts";
import { firstMessage } from "./support/functions.ts";
import { interleaved, spread } from "./support/samples.ts";

const WARM_UP = 5;
const SAMPLES = 60;
/** Ended instances are cleaned up within this; their end is not part of the next sample. */
const SETTLE_MS = 30;
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
  using disk = new DiskProbe(box.dir);
  const samples = await interleaved(
    {
      reference: () => reference.storeExecuteOpen(REFERENCE_CODE, "hello()"),
      three: () => threeRequests(client, deno),
      run: () => oneRequest(client, deno),
      python: () => oneRequest(client, python, "hello()"),
      info: () => client.info(),
      flush: async () => disk.flush(),
    },
    {
      warmUp: WARM_UP,
      samples: SAMPLES,
      signal: context.signal,
      before: async () => {
        await box.warmedUp();
        await systemClock.sleep(SETTLE_MS, context.signal);
      },
      onRound: (done, all) => context.phase(`round ${done} of ${all}`),
    },
  );
  const ratio = (of: number[]) => median(samples.reference) / median(of);
  return [
    ...spread("three requests", samples.three, { p50: 5 }, "store, exec, open, one after the other"),
    ...spread("run", samples.run, { p50: 5 }, "one request"),
    ...spread("run, python", samples.python, {}, "one request"),
    ...spread(
      "2021 stand-in",
      samples.reference,
      {},
      "a new interpreter a call, three requests, polled file",
    ),
    {
      name: "2021 / three requests",
      value: ratio(samples.three),
      unit: "x",
      target: { least: 20 },
      note: "medians",
    },
    { name: "2021 / run", value: ratio(samples.run), unit: "x", target: { least: 20 }, note: "medians" },
    ...spread(
      "bare HTTP request",
      samples.info,
      {},
      "GET of the box's info: the least a request can take here",
    ),
    ...spread("flush of 16 KiB to disk", samples.flush, {}, "the least that durable can take here"),
  ];
}

async function threeRequests(client: BoxClient, pack: PackageInput): Promise<void> {
  const { invocationToken } = await client.store(pack);
  const instance = await client.exec(invocationToken, { args: [] });
  await using session = await client.open(instance);
  await firstMessage(session);
}

async function oneRequest(client: BoxClient, pack: PackageInput, call?: string): Promise<void> {
  await using session = await client.run({ package: pack }, call === undefined ? { args: [] } : { call });
  await firstMessage(session);
}

/** Appends to a file as a database's log does. */
class DiskProbe implements Disposable {
  readonly #file: number;
  readonly #block = Buffer.alloc(16 * 1024, 1);

  constructor(dir: string) {
    this.#file = openSync(path.join(dir, "probe"), "a");
  }

  flush(): void {
    writeSync(this.#file, this.#block);
    fdatasyncSync(this.#file);
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
  }
}
