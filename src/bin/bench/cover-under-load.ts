// `bento bench cover-under-load`: how steady a covered session is where the cells are made, without Tor: the client's as it
// hands them to its connection, and the box's as they come out of the other end. Alone, and while functions on the same box
// compute on every core. What Tor does to them afterwards is in `cover`.

import { availableParallelism } from "node:os";
import { systemClock } from "../../base/clock.ts";
import { BoxClient, directDial } from "../../client/client.ts";
import { loadPackage } from "../../client/package-loader.ts";
import { bytesPerBin, type Passed } from "../../testnet/observed-link.ts";
import type { PackageInput } from "../../wire/package.ts";
import { type BenchContext, type Benchmark, type Figure, median, percentile } from "./benchmark.ts";
import { BenchBox } from "./support/box-process.ts";
import {
  CONTENT_BYTES,
  CONTENT_EVERY_MS,
  meanOf,
  percentOff,
  SETTLE_MS,
  startCover,
} from "./support/covered.ts";
import { observedDial } from "./support/observed-dial.ts";

const SECONDS = 24;
const CORES = availableParallelism();

const COMPUTES: PackageInput = {
  manifest: { name: "computes", image: "deno" },
  source: `export default { async invoke(session) {
    await session.send("begins");
    for (;;);
  } };`,
};

export const benchmark: Benchmark = {
  name: "cover-under-load",
  description:
    "a covered session where its cells are made, no Tor: how steady each second is, alone and under load",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  context.phase("starting a box");
  await using box = await BenchBox.start({ toml: "[policy.net]\nenabled = false" });
  await box.warmedUp();
  const passed: Passed[] = [];
  using client = new BoxClient({ address: box.address, dial: observedDial(directDial, passed) });
  using other = box.client();
  await using cover = await startCover(client, context.signal);
  const session = await cover.run(await loadPackage("echo"), { args: [] });
  const reading = session.drain();
  const seconds = async (what: string) => {
    await systemClock.sleep(SETTLE_MS, context.signal);
    const fromMs = Date.now();
    while (Date.now() < fromMs + SECONDS * 1000) {
      const second = Math.floor((Date.now() - fromMs) / 1000);
      context.phase(`${what}: second ${second + 1} of ${SECONDS}`);
      if (second % 2 === 1) await session.send(new Uint8Array(CONTENT_BYTES));
      await systemClock.sleep(CONTENT_EVERY_MS, context.signal);
    }
    return (["up", "down"] as const).flatMap((direction) =>
      steadiness(what, direction, bytesPerBin(passed, direction, { fromMs, binMs: 1000, count: SECONDS })),
    );
  };
  const alone = await seconds("alone");
  const computing = await Promise.all(
    Array.from({ length: CORES }, () => other.run({ package: COMPUTES }, { args: [] })),
  );
  const loaded = await seconds(`${CORES} functions compute`);
  for (const one of computing) await one.detach();
  await session.endInput();
  await reading;
  return [...alone, ...loaded];
}

function steadiness(what: string, direction: Passed["direction"], seconds: readonly number[]): Figure[] {
  const mean = meanOf(seconds);
  const off = percentOff(seconds, mean);
  const whose = direction === "up" ? "client" : "box";
  return [
    { name: `${what}: ${whose}, mean`, value: mean / 1024, unit: "KiB/s", note: "with HTTP's framing" },
    { name: `${what}: ${whose}, median second off the mean`, value: median(off), unit: "%" },
    {
      name: `${what}: ${whose}, worst second off the mean`,
      value: percentile(off, 1),
      unit: "%",
      target: { most: 2 },
      note: `n ${seconds.length} seconds, every other one with content`,
    },
  ];
}
