// `bento bench idle-dropboxes`: what 10,000 Dropboxes with content cost a box that is idle: its process, and no other.

import { randomBytes } from "node:crypto";
import { systemClock } from "../../base/clock.ts";
import type { BoxClient } from "../../client/client.ts";
import { Download } from "../../client/dropbox/get.ts";
import { dropboxPackage, newWriter, putContent, putRequest } from "../../client/dropbox/put.ts";
import { loadPackage } from "../../client/package-loader.ts";
import type { PackageInput } from "../../wire/package.ts";
import type { InvocationToken } from "../../wire/token.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { BenchBox } from "./support/box-process.ts";
import { descendants } from "./support/memory.ts";

const COUNT = 10_000;
const CONTENT_BYTES = 4096;
const CONCURRENT = 4;
const CHECKED = 20;
const WARM = 2;
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
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  context.phase("starting a box");
  await using box = await BenchBox.start({ toml: TOML });
  using client = box.client();
  const { package: pack, bytes: packageBytes } = await loadPackage("dropbox");
  await fill(client, pack, 20, context);
  await box.warmedUp();
  const before = await box.memory();
  const processesBefore = (await descendants(box.pid)).length;
  const startedMs = performance.now();
  const deposits = await fill(client, pack, COUNT - 20, context);
  const perSecond = (COUNT - 20) / ((performance.now() - startedMs) / 1000);
  await box.warmedUp();
  await systemClock.sleep(2000, context.signal);
  const after = await box.memory();
  const processes = (await descendants(box.pid)).length;
  const gets: number[] = [];
  for (let at = 0; at < CHECKED; at++) {
    await box.warmedUp();
    const deposit = deposits[Math.floor((at * deposits.length) / CHECKED)] as Deposit;
    const began = performance.now();
    await collect(client, deposit, context.signal);
    gets.push(performance.now() - began);
  }
  return [
    {
      name: `memory of ${COUNT} Dropboxes`,
      value: (after.pssBytes - before.pssBytes) / MIB,
      unit: "MiB",
      target: { most: 50 },
      note: `${CONTENT_BYTES} bytes each; growth of the box process (PSS)`,
    },
    {
      name: "heap of them",
      value: (after.heapBytes + after.externalBytes - before.heapBytes - before.externalBytes) / MIB,
      unit: "MiB",
      note: "after garbage collection",
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

interface Deposit {
  readonly token: InvocationToken;
  readonly content: Uint8Array;
}

async function fill(
  client: BoxClient,
  pack: PackageInput,
  count: number,
  context: BenchContext,
): Promise<Deposit[]> {
  const deposits: Deposit[] = [];
  let next = 0;
  const work = async () => {
    for (let number = next++; number < count; number = next++) {
      context.signal.throwIfAborted();
      if (number % 100 === 0) context.phase(`putting, ${number} of ${count}`);
      deposits.push(await deposit(client, pack, context.signal));
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT }, work));
  return deposits;
}

async function deposit(client: BoxClient, pack: PackageInput, signal: AbortSignal): Promise<Deposit> {
  const content = randomBytes(CONTENT_BYTES);
  const request = putRequest(newWriter(), content.length, { gets: 1 });
  const packed = dropboxPackage(pack, request, { size: content.length });
  let token: InvocationToken | undefined;
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
      onStored: (stored) => {
        token = stored.invocationToken;
      },
    },
  );
  return { token: token as InvocationToken, content };
}

async function collect(client: BoxClient, { token, content }: Deposit, signal: AbortSignal): Promise<void> {
  await using download = new Download(client, token, { signal });
  const parts: Uint8Array[] = [];
  for await (const part of download.content()) parts.push(part);
  if (!Buffer.concat(parts).equals(content)) throw new Error("a Dropbox gave other content than was put");
  await download.confirm();
}
