// `bento bench dropbox-through-tor`: how fast content goes into a Dropbox and comes out of it through Tor, against a
// plain HTTP upload and download of as many bytes out of the same relay, in turn. A put counts until it is sealed, an
// upload until the server has answered; both downloads until the last byte.

import { randomBytes } from "node:crypto";
import type { BoxClient } from "../../client/client.ts";
import { Download } from "../../client/dropbox/get.ts";
import { dropboxPackage, newWriter, putContent, putRequest } from "../../client/dropbox/put.ts";
import { loadPackage } from "../../client/package-loader.ts";
import type { PackageInput } from "../../wire/package.ts";
import { sealFile } from "../../wire/sealed-file.ts";
import type { InvocationToken } from "../../wire/token.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { checkTransfer, PlainServer } from "./support/plain-server.ts";
import { interleaved } from "./support/samples.ts";
import { startTorNetwork } from "./support/tor-network.ts";

const MIB = 2 ** 20;
const BYTES = 8 * MIB;
const LATENCY_MS = 5;
const SAMPLES = 16;
const WARM_UP = 1;
/** A stalled transfer fails rather than hangs. */
const TRANSFER_MS = 120_000;

export const benchmark: Benchmark = {
  name: "dropbox-through-tor",
  description: "Dropbox put and get through Tor, against plain HTTP out of the same relay",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  await using tor = await startTorNetwork(context, { latencyMs: LATENCY_MS });
  await using web = await PlainServer.start(tor.net.testnet.plan.webAddress, BYTES);
  using client = tor.exitClient();
  const pack = (await loadPackage("dropbox")).package;
  const bytes = await sealedBytes();
  const tokens: InvocationToken[] = [];
  const until = () => AbortSignal.any([context.signal, AbortSignal.timeout(TRANSFER_MS)]);
  const samples = await interleaved(
    {
      upload: () => web.upload(tor.exitDial, client.isolation, bytes, until()),
      put: async () => tokens.push(await put(client, pack, bytes, until())),
      download: () => web.download(tor.exitDial, client.isolation, until()),
      get: () => get(client, tokens.pop() as InvocationToken, until()),
    },
    {
      warmUp: WARM_UP,
      samples: SAMPLES,
      signal: context.signal,
      onRound: (done, all) => context.phase(`round ${done} of ${all}, ${BYTES / MIB} MiB each`),
    },
  );
  const rate = (of: number[]) => BYTES / MIB / (median(of) / 1000);
  const note = `${BYTES / MIB} MiB, ${LATENCY_MS} ms a link, n ${SAMPLES}, median`;
  const share = (ours: number[], plain: number[], name: string): Figure => ({
    name,
    value: (100 * rate(ours)) / rate(plain),
    unit: "%",
    target: { least: 85 },
    note: "out of the same relay, interleaved",
  });
  return [
    { name: "plain HTTP upload", value: rate(samples.upload), unit: "MiB/s", note },
    { name: "put, installation included", value: rate(samples.put), unit: "MiB/s", note },
    share(samples.put, samples.upload, "put / plain"),
    { name: "plain HTTP download", value: rate(samples.download), unit: "MiB/s", note },
    { name: "get", value: rate(samples.get), unit: "MiB/s", note },
    share(samples.get, samples.download, "get / plain"),
  ];
}

/** A sealed file of BYTES bytes. */
async function sealedBytes(): Promise<Uint8Array> {
  const content = async function* () {
    yield randomBytes(BYTES - 65_536);
  };
  const parts: Uint8Array[] = [];
  const padding = { kind: "multiple", bytes: BYTES } as const;
  for await (const segment of sealFile(content(), randomBytes(32), { padding })) parts.push(segment);
  return Buffer.concat(parts);
}

async function put(
  client: BoxClient,
  pack: PackageInput,
  bytes: Uint8Array,
  signal: AbortSignal,
): Promise<InvocationToken> {
  const request = putRequest(newWriter(), bytes.length, { gets: 1 });
  let token: InvocationToken | undefined;
  const content = {
    size: bytes.length,
    async *read(from: number) {
      for (let at = from; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
    },
  };
  await putContent(
    client,
    { package: dropboxPackage(pack, request, { size: bytes.length }) },
    request,
    content,
    {
      signal,
      onStored: (stored) => {
        token = stored.invocationToken;
      },
    },
  );
  return token as InvocationToken;
}

async function get(client: BoxClient, token: InvocationToken, signal: AbortSignal): Promise<void> {
  await using download = new Download(client, token, { signal });
  let received = 0;
  for await (const piece of download.content()) received += piece.length;
  checkTransfer(received, BYTES);
  await download.confirm();
}
