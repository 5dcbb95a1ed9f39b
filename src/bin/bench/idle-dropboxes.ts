// `bento bench idle-dropboxes`: what 10,000 Dropboxes with content cost a box that is idle: its process, and no other.
// Each is put as users put them, in a process of its own, which takes minutes: it runs when it is asked for. What a box
// grows by working is told from what is theirs: it has worked before, and afterwards all are shut down.

import { randomBytes } from "node:crypto";
import { systemClock } from "../../base/clock.ts";
import type { BoxClient, StoredFunction } from "../../client/client.ts";
import { Download } from "../../client/dropbox/get.ts";
import { dropboxPackage, newWriter, putContent, putRequest } from "../../client/dropbox/put.ts";
import { loadPackage } from "../../client/package-loader.ts";
import type { PackageInput } from "../../wire/package.ts";
import type { InvocationToken, ShutdownToken } from "../../wire/token.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { BenchBox, type BoxMemory } from "./support/box-process.ts";
import { descendants } from "./support/memory.ts";

const COUNT = 10_000;
const CONTENT_BYTES = 4096;
/** Put and shut down before: memory that a box takes when it works stays with it. */
const WORKED = 300;
const CONCURRENT = 8;
const CHECKED = 20;
const WARM = 4;
/** Until what the last instances left is gone. */
const SETTLE_MS = 3000;
const MIB = 2 ** 20;
const TOML = `[policy.net]
enabled = false
[policy.total]
functions = 10001
storage = "8GiB"
[warm]
deno = ${WARM}
python = 0`;

export const benchmark: Benchmark = {
  name: "idle-dropboxes",
  description: "10,000 Dropboxes with content on one box: memory while nobody asks",
  onRequest: true,
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  context.phase("starting a box");
  await using box = await BenchBox.start({ toml: TOML });
  using client = box.client();
  const { package: pack, bytes: packageBytes } = await loadPackage("dropbox");
  await shutDown(client, await fill(client, pack, WORKED, context), context);
  const before = await settled(box, context);
  const processesBefore = (await descendants(box.pid)).length;
  const startedMs = performance.now();
  const deposits = await fill(client, pack, COUNT, context);
  const perSecond = COUNT / ((performance.now() - startedMs) / 1000);
  const after = await settled(box, context);
  const processes = (await descendants(box.pid)).length;
  const gets: number[] = [];
  for (let at = 0; at < CHECKED; at++) {
    await box.warmedUp();
    const [deposit] = deposits.splice(Math.floor((at * COUNT) / CHECKED) % deposits.length, 1);
    const began = performance.now();
    await collect(client, deposit as Deposit, context.signal);
    gets.push(performance.now() - began);
  }
  await shutDown(client, deposits, context);
  const without = await settled(box, context);
  const grown = (from: BoxMemory) => (after.pssBytes - from.pssBytes) / MIB;
  const heap = ({ heapBytes, externalBytes }: BoxMemory) => (heapBytes + externalBytes) / MIB;
  return [
    {
      name: `memory of ${COUNT} Dropboxes`,
      value: grown(before),
      unit: "MiB",
      target: { most: 50 },
      note: `${CONTENT_BYTES} bytes each; growth of the box process (PSS)`,
    },
    {
      name: "given back when they are shut down",
      value: grown(without),
      unit: "MiB",
      note: "PSS; the rest a box grows by working",
    },
    {
      name: "heap of them",
      value: heap(after) - heap(before),
      unit: "MiB",
      note: `after garbage collection; ${(heap(after) - heap(without)).toFixed(1)} MiB given back`,
    },
    { name: "box process in all", value: after.pssBytes / MIB, unit: "MiB", note: "PSS" },
    {
      name: "processes of them",
      value: processes - processesBefore,
      unit: "",
      target: { most: 0 },
      note: `beside ${processesBefore} of the warm pool`,
    },
    {
      name: "put",
      value: perSecond,
      unit: "/s",
      note: `${CONCURRENT} clients at once, each with a fresh process`,
    },
    { name: "get", value: median(gets), unit: "ms", note: `n ${CHECKED}, median, content checked` },
    { name: "package", value: packageBytes / 1024, unit: "KiB", note: "the function as it is sent" },
  ];
}

async function settled(box: BenchBox, { signal }: BenchContext): Promise<BoxMemory> {
  await box.warmedUp();
  await systemClock.sleep(SETTLE_MS, signal);
  return await box.memory();
}

interface Deposit {
  readonly token: InvocationToken;
  readonly shutdownToken: ShutdownToken;
  readonly content: Uint8Array;
}

async function fill(
  client: BoxClient,
  pack: PackageInput,
  count: number,
  context: BenchContext,
): Promise<Deposit[]> {
  const deposits: Deposit[] = [];
  await inParallel(count, "putting", context, async () => {
    deposits.push(await deposit(client, pack, context.signal));
  });
  return deposits;
}

async function shutDown(
  client: BoxClient,
  deposits: readonly Deposit[],
  context: BenchContext,
): Promise<void> {
  await inParallel(deposits.length, "shutting down", context, async (at) => {
    await client.shutdown((deposits[at] as Deposit).shutdownToken, { signal: context.signal });
  });
}

/** Does `count` of something, CONCURRENT at a time. */
async function inParallel(
  count: number,
  what: string,
  context: BenchContext,
  task: (at: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const work = async () => {
    for (let at = next++; at < count; at = next++) {
      context.signal.throwIfAborted();
      if (at % 100 === 0) context.phase(`${what}, ${at} of ${count}`);
      await task(at);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT }, work));
}

async function deposit(client: BoxClient, pack: PackageInput, signal: AbortSignal): Promise<Deposit> {
  const content = randomBytes(CONTENT_BYTES);
  const request = putRequest(newWriter(), content.length, { gets: 1 });
  const packed = dropboxPackage(pack, request, { size: content.length });
  let stored: StoredFunction | undefined;
  const read = async function* () {
    yield content;
  };
  await putContent(
    client,
    { package: packed },
    request,
    { size: content.length, read },
    {
      signal,
      onStored: (given) => {
        stored = given;
      },
    },
  );
  const { invocationToken: token, shutdownToken } = stored as StoredFunction;
  return { token, shutdownToken, content };
}

async function collect(client: BoxClient, { token, content }: Deposit, signal: AbortSignal): Promise<void> {
  await using download = new Download(client, token, { signal });
  const parts: Uint8Array[] = [];
  for await (const part of download.content()) parts.push(part);
  if (!Buffer.concat(parts).equals(content)) throw new Error("a Dropbox gave other content than was put");
  await download.confirm();
}
