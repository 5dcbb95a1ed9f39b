// `bento bench installed-functions`: what 10,000 idle functions cost the box in memory and time. They lie in the
// database; the box's own process must hardly notice them.

import { systemClock } from "../../base/clock.ts";
import type { BoxClient } from "../../client/client.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { BenchBox } from "./support/box-process.ts";
import { ECHO, firstMessage } from "./support/functions.ts";
import { interleaved, spread } from "./support/samples.ts";

const FEW = 10;
const MANY = 10_000;
const CONCURRENT = 32;
const SAMPLES = 40;
const WARM_UP = 5;
const MIB = 2 ** 20;
const TOML =
  "[policy.net]\nenabled = false\n[policy.total]\nfunctions = 20000\n[warm]\ndeno = 3\npython = 0\n[policy.function]\ninstances = 64";

export const benchmark: Benchmark = {
  name: "installed-functions",
  description: "10,000 installed idle functions: memory of the box, and exec latency against a box with 10",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  context.phase("starting two boxes");
  await using few = await BenchBox.start({ toml: TOML });
  await using many = await BenchBox.start({ toml: TOML });
  using fewClient = few.client();
  using manyClient = many.client();
  const fewToken = await install(fewClient, FEW, context);
  await install(manyClient, FEW, context);
  const before = await many.memory();
  const startedMs = performance.now();
  const manyToken = await install(manyClient, MANY - FEW, context);
  const perSecond = (MANY - FEW) / ((performance.now() - startedMs) / 1000);
  const after = await many.memory();
  const samples = await interleaved(
    { few: () => execute(fewClient, fewToken), many: () => execute(manyClient, manyToken) },
    {
      warmUp: WARM_UP,
      samples: SAMPLES,
      signal: context.signal,
      before: async () => {
        await Promise.all([few.warmedUp(), many.warmedUp()]);
        await systemClock.sleep(30, context.signal);
      },
      onRound: (done, all) => context.phase(`exec, round ${done} of ${all}`),
    },
  );
  const heap = after.heapBytes + after.externalBytes - before.heapBytes - before.externalBytes;
  return [
    {
      name: `memory of ${MANY} functions`,
      value: (after.pssBytes - before.pssBytes) / MIB,
      unit: "MiB",
      target: { most: 50 },
      note: "growth of the box process (PSS)",
    },
    { name: "heap of them", value: heap / MIB, unit: "MiB", note: "after garbage collection" },
    { name: "box process in all", value: after.pssBytes / MIB, unit: "MiB", note: "PSS" },
    ...spread(`exec, open and first byte with ${FEW}`, samples.few),
    ...spread(`exec, open and first byte with ${MANY}`, samples.many),
    {
      name: `latency with ${MANY} / with ${FEW}`,
      value: median(samples.many) / median(samples.few),
      unit: "x",
      target: { most: 1.1 },
      note: "medians, interleaved; beyond 10 % counts as changed",
    },
    { name: "durable stores", value: perSecond, unit: "/s", note: `${CONCURRENT} clients at once` },
  ];
}

type Token = Parameters<BoxClient["exec"]>[0];

/** Installs `count` functions that all differ; returns a token from the middle of them. */
async function install(client: BoxClient, count: number, context: BenchContext): Promise<Token> {
  let next = 0;
  let chosen: Token | undefined;
  const work = async () => {
    for (;;) {
      const number = next++;
      if (number >= count) return;
      context.signal.throwIfAborted();
      if (number % 500 === 0) context.phase(`installing, ${number} of ${count}`);
      const pack = { ...ECHO.deno, source: `${ECHO.deno.source}\n// ${number} ${"x".repeat(1000)}` };
      const stored = await client.store(pack);
      if (number === Math.floor(count / 2)) chosen = stored.invocationToken;
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT }, work));
  if (chosen === undefined) throw new Error("nothing was installed");
  return chosen;
}

async function execute(client: BoxClient, token: Token): Promise<void> {
  const instance = await client.exec(token, { args: [] });
  await using session = await client.open(instance);
  await session.send("x");
  await firstMessage(session);
  await session.endInput();
}
