// `bento bench instance-memory`: what one idle instance holds in memory while 20 of an image run, everything that
// belongs to it counted: runtime and bubblewrap's own processes, shared pages in their proportion.

import type { BoxClient } from "../../client/client.ts";
import { type BenchContext, type Benchmark, type Figure } from "./benchmark.ts";
import { BenchBox } from "./support/box-process.ts";
import { ECHO, firstMessage, invocationOf } from "./support/functions.ts";
import { descendants, readMemory } from "./support/memory.ts";

const INSTANCES = 20;
const MIB = 2 ** 20;
const TARGETS = { deno: 12, python: 4 } as const;

export const benchmark: Benchmark = {
  name: "instance-memory",
  description:
    "memory of one idle instance while 20 run, bubblewrap included, shared pages in proportion (PSS)",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  const figures: Figure[] = [];
  for (const image of ["deno", "python"] as const) {
    context.signal.throwIfAborted();
    context.phase(`${INSTANCES} instances of ${image}`);
    figures.push(...(await measureImage(image)));
  }
  return figures;
}

async function measureImage(image: "deno" | "python"): Promise<Figure[]> {
  await using box = await BenchBox.start({
    toml: "[policy.net]\nenabled = false\n[policy.function]\ninstances = 64\n[warm]\ndeno = 0\npython = 0",
  });
  using client = box.client();
  const { invocationToken } = await client.store(ECHO[image]);
  await using sessions = new AsyncDisposableStack();
  for (let i = 0; i < INSTANCES; i++) sessions.use(await idleInstance(client, invocationToken, image));
  const processes = await instanceProcesses(box.pid);
  let pssBytes = 0;
  let privateBytes = 0;
  for (const { pid } of processes) {
    const memory = await readMemory(pid);
    pssBytes += memory.pssBytes;
    privateBytes += memory.privateBytes;
  }
  const note = `${INSTANCES} instances, ${(processes.length / INSTANCES).toFixed(1)} processes each`;
  return [
    {
      name: `${image} PSS`,
      value: pssBytes / INSTANCES / MIB,
      unit: "MiB",
      target: { most: TARGETS[image] },
      note,
    },
    {
      name: `${image} private`,
      value: privateBytes / INSTANCES / MIB,
      unit: "MiB",
      note: "what its end frees",
    },
  ];
}

/** bubblewrap and what runs below it; the box has other children that belong to no instance. */
async function instanceProcesses(boxPid: number): Promise<{ pid: number }[]> {
  const found: { pid: number }[] = [];
  for (const { pid, command } of await descendants(boxPid)) {
    if (command === "bwrap") found.push({ pid }, ...(await descendants(pid)));
  }
  // A bubblewrap may stand below another: each process counts once.
  return [...new Map(found.map((each) => [each.pid, each])).values()];
}

/** An instance that has answered one message and waits for the next. */
async function idleInstance(
  client: BoxClient,
  token: Parameters<BoxClient["exec"]>[0],
  image: "deno" | "python",
): Promise<AsyncDisposable> {
  const session = await client.run({ token }, invocationOf(image, "echo"));
  await session.send("x");
  await firstMessage(session);
  return session;
}
