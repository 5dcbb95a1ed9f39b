// `bento bench tor-round-trips`: what a function costs beyond the circuit that carries it. The circuit's own round
// trip is measured over the same circuit, in turn with what is compared to it, by the smallest request there is.

import type { BoxClient } from "../../client/client.ts";
import { loadPackage } from "../../client/package-loader.ts";
import type { PackageInput } from "../../wire/package.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { firstMessage } from "./support/functions.ts";
import { interleaved, spread } from "./support/samples.ts";
import { startTorNetwork } from "./support/tor-network.ts";

const LATENCY_MS = 25;
const WARM_UP = 3;
const SAMPLES = 15;

export const benchmark: Benchmark = {
  name: "tor-round-trips",
  description: "run hello through Tor over a warm circuit, against the round trip of that circuit",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  await using tor = await startTorNetwork(context, { latencyMs: LATENCY_MS });
  const pack = (await loadPackage("hello")).package;
  using onion = tor.onionClient();
  using exit = tor.exitClient();
  return [
    ...(await measureWay("onion service", onion, pack, context)),
    ...(await measureWay("relay's address", exit, pack, context)),
    {
      name: "network ready",
      value: (tor.phases.at(-1)?.atMs ?? 0) / 1000,
      unit: "s",
      target: { most: 30 },
      note: tor.phases.map(({ phase, atMs }) => `${phase} ${(atMs / 1000).toFixed(1)}`).join(", "),
    },
  ];
}

async function measureWay(
  way: string,
  client: BoxClient,
  pack: PackageInput,
  context: BenchContext,
): Promise<Figure[]> {
  const samples = await interleaved(
    {
      roundTrip: () => client.info({ signal: context.signal }),
      run: () => run(client, pack, context.signal),
      three: () => threeRequests(client, pack, context.signal),
    },
    {
      warmUp: WARM_UP,
      samples: SAMPLES,
      signal: context.signal,
      onRound: (done, all) => context.phase(`${way}: round ${done} of ${all}`),
    },
  );
  const roundTrip = median(samples.roundTrip);
  return [
    ...spread(`${way}: round trip`, samples.roundTrip, {}, `${LATENCY_MS} ms a link; GET over a kept stream`),
    ...spread(`${way}: run hello`, samples.run),
    {
      name: `${way}: run - round trip`,
      value: median(samples.run) - roundTrip,
      unit: "ms",
      target: { most: 10 },
      note: "medians, same circuit, interleaved",
    },
    { name: `${way}: run / round trip`, value: median(samples.run) / roundTrip, unit: "x", note: "2021: 4" },
    {
      name: `${way}: three requests / round trip`,
      value: median(samples.three) / roundTrip,
      unit: "x",
      note: "store, exec, open, one after the other",
    },
  ];
}

async function run(client: BoxClient, pack: PackageInput, signal: AbortSignal): Promise<void> {
  const session = await client.run({ package: pack }, { args: [] }, { signal });
  await firstMessage(session);
  // Its last frames are on the way: leaving is not part of the sample's wait.
  void session.detach();
}

async function threeRequests(client: BoxClient, pack: PackageInput, signal: AbortSignal): Promise<void> {
  const { invocationToken } = await client.store(pack, { signal });
  const instance = await client.exec(invocationToken, { args: [] }, { signal });
  const session = await client.open(instance, { signal });
  await firstMessage(session);
  void session.detach();
}
