// `bento bench bulk-through-tor`: how fast a function's output comes through Tor, against a plain download of as
// many bytes out of the same relay, in turn. Neither can be compressed; both end at the client's last byte.

import type { BoxClient } from "../../client/client.ts";
import type { InvocationToken } from "../../wire/token.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { BULK } from "./support/functions.ts";
import { checkTransfer, PlainServer } from "./support/plain-server.ts";
import { interleaved } from "./support/samples.ts";
import { startTorNetwork } from "./support/tor-network.ts";

const MIB = 2 ** 20;
const BYTES = 8 * MIB;
const LATENCY_MS = 5;
const SAMPLES = 4;
/** A stalled transfer fails rather than hangs. */
const TRANSFER_MS = 120_000;

export const benchmark: Benchmark = {
  name: "bulk-through-tor",
  description: "output of a function through Tor, against a plain download out of the same relay",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  await using tor = await startTorNetwork(context, { latencyMs: LATENCY_MS });
  await using web = await PlainServer.start(tor.net.testnet.plan.webAddress, BYTES);
  using client = tor.exitClient();
  using onion = tor.onionClient();
  const { invocationToken } = await client.store(BULK);
  const samples = await interleaved(
    {
      plain: () => web.download(tor.exitDial, client.isolation, inTime(context.signal)),
      bulk: () => functionOutput(client, invocationToken, context.signal),
      onion: () => functionOutput(onion, invocationToken, context.signal),
    },
    {
      warmUp: 1,
      samples: SAMPLES,
      signal: context.signal,
      onRound: (done, all) => context.phase(`round ${done} of ${all}, ${BYTES / MIB} MiB each`),
    },
  );
  const rate = (of: number[]) => BYTES / MIB / (median(of) / 1000);
  const note = `${BYTES / MIB} MiB, ${LATENCY_MS} ms a link, n ${SAMPLES}, median`;
  return [
    { name: "plain download", value: rate(samples.plain), unit: "MiB/s", note },
    { name: "function, relay's address", value: rate(samples.bulk), unit: "MiB/s", note },
    { name: "function, onion service", value: rate(samples.onion), unit: "MiB/s", note },
    {
      name: "function / plain",
      value: (100 * rate(samples.bulk)) / rate(samples.plain),
      unit: "%",
      target: { least: 90 },
      note: "out of the same relay, interleaved",
    },
  ];
}

async function functionOutput(client: BoxClient, token: InvocationToken, signal: AbortSignal): Promise<void> {
  await using session = await client.run({ token }, { args: [BYTES] }, { signal: inTime(signal) });
  let received = 0;
  for await (const { bytes } of session.chunks()) received += bytes.length;
  checkTransfer(received, BYTES);
}

function inTime(signal: AbortSignal): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(TRANSFER_MS)]);
}
