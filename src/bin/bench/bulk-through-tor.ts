// `bento bench bulk-through-tor`: how fast a function's output comes through Tor, against a plain download of as
// many bytes out of the same relay, in turn. Neither can be compressed; both end at the client's last byte.

import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { BentoError } from "../../base/errors.ts";
import type { BoxClient, Dial } from "../../client/client.ts";
import type { InvocationToken } from "../../wire/token.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { BULK } from "./support/functions.ts";
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
  await using web = await plainServer(tor.net.testnet.plan.webAddress);
  using client = tor.exitClient();
  using onion = tor.onionClient();
  const { invocationToken } = await client.store(BULK);
  const samples = await interleaved(
    {
      plain: () => plainDownload(tor.exitDial, web, client.isolation, context.signal),
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
  const until = AbortSignal.any([signal, AbortSignal.timeout(TRANSFER_MS)]);
  await using session = await client.run({ token }, { args: [BYTES] }, { signal: until });
  let received = 0;
  for await (const { bytes } of session.chunks()) received += bytes.length;
  check(received);
}

async function plainDownload(
  dial: Dial,
  web: WebAddress,
  isolation: string,
  signal: AbortSignal,
): Promise<void> {
  const until = AbortSignal.any([signal, AbortSignal.timeout(TRANSFER_MS)]);
  const request = Buffer.from(`GET / HTTP/1.1\r\nHost: ${web.host}\r\nConnection: close\r\n\r\n`);
  const stream = await dial(web, { isolation, firstBytes: request, signal: until });
  let received = 0;
  try {
    for await (const chunk of stream as AsyncIterable<Uint8Array>) received += chunk.length;
  } finally {
    stream.destroy();
  }
  check(received);
}

function check(received: number): void {
  if (received >= BYTES) return;
  throw new BentoError("benchmark-failed", `Cannot measure: ${received} of ${BYTES} bytes came`);
}

interface WebAddress extends AsyncDisposable {
  readonly host: string;
  readonly port: number;
}

async function plainServer(host: string): Promise<WebAddress> {
  const body = randomBytes(BYTES);
  const server = createServer({ noDelay: true }, (_, response) => {
    response.end(body);
  });
  server.listen(0, host);
  await once(server, "listening");
  return {
    host,
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
