// `bento bench cover`: what an observer of the client's link sees of a covered session on a private Tor network: how
// steady the bytes of each second are, idle and with content, and whether a two-sample test can tell the two apart.
// Idle and busy take turns, so that whatever else the machine does meets both.

import path from "node:path";
import { systemClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import type { Session } from "../../client/client.ts";
import { Cover } from "../../client/cover.ts";
import { loadPackage } from "../../client/package-loader.ts";
import { bytesPerBin, type LinkChunk, readTrace } from "../../testnet/link-trace.ts";
import { twoSample } from "../../testnet/two-sample.ts";
import { type BenchContext, type Benchmark, type Figure, percentile } from "./benchmark.ts";
import { startTorNetwork, type TorNetwork } from "./support/tor-network.ts";

const RATE = 64 * 1024;
const LATENCY_MS = 5;
const TURN_SECONDS = 5;
const TURNS = 8;
/** Until circuits and windows have settled; and at the start of each turn, what began in the one before. */
const SETTLE_MS = 2000;
const CARRY_OVER_MS = 300;
/** For the two-sample test. */
const BIN_MS = 100;
/** Content of a busy turn: two thirds of what the cells carry, there and back. */
const CONTENT_BYTES = 4096;
const CONTENT_EVERY_MS = 100;
/** When nothing can be told apart, one run in a hundred is below. */
const P_MIN = 0.01;

export const benchmark: Benchmark = {
  name: "cover",
  description: "a covered session on the client's link: how steady each second is, and content against idle",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  const traced = ["a0", "a1", "a2", "r0", "e0", "e1"];
  await using tor = await startTorNetwork(context, { latencyMs: LATENCY_MS, traced });
  using client = tor.onionClient();
  const pack = async (name: string) => ({ package: (await loadPackage(name)).package });
  await using cover = await Cover.start(client, {
    rate: RATE,
    cover: await pack("cover"),
    signal: context.signal,
  });
  const session = await cover.run(await pack("echo"), { args: [] });
  await systemClock.sleep(SETTLE_MS, context.signal);
  const turns = await takeTurns(session, context);
  const chunks = await clientLink(tor, turns[0]?.fromMs ?? 0);
  return (["in", "out"] as const).flatMap((direction) => figuresOf(direction, chunks, turns));
}

interface Turn {
  readonly isBusy: boolean;
  readonly fromMs: number;
}

async function takeTurns(session: Session, context: BenchContext): Promise<Turn[]> {
  const turns: Turn[] = [];
  let echoedBytes = 0;
  const reading = (async () => {
    for await (const message of session) echoedBytes += message.length;
  })();
  for (let at = 0; at < TURNS; at++) {
    const isBusy = at % 2 === 1;
    context.phase(`turn ${at + 1} of ${TURNS}, ${TURN_SECONDS} s each: ${isBusy ? "content" : "idle"}`);
    const fromMs = Date.now();
    turns.push({ isBusy, fromMs });
    while (Date.now() < fromMs + TURN_SECONDS * 1000) {
      if (isBusy) await session.send(new Uint8Array(CONTENT_BYTES));
      await systemClock.sleep(CONTENT_EVERY_MS, context.signal);
    }
  }
  await session.endInput();
  await reading;
  const least = CONTENT_BYTES * TURNS * TURN_SECONDS;
  if (echoedBytes < least) {
    throw new BentoError(
      "benchmark-failed",
      `Cannot measure: ${echoedBytes} bytes came back, expected at least ${least}`,
    );
  }
  return turns;
}

function figuresOf(direction: "in" | "out", chunks: readonly LinkChunk[], turns: readonly Turn[]): Figure[] {
  const way = direction === "in" ? "to the guard" : "from the guard";
  const binsOf = (isBusy: boolean, binMs: number, count: number) =>
    turns
      .filter((turn) => turn.isBusy === isBusy)
      .flatMap(({ fromMs }) =>
        bytesPerBin(chunks, direction, { fromMs: fromMs + CARRY_OVER_MS, binMs, count }),
      );
  const seconds = { idle: binsOf(false, 1000, TURN_SECONDS - 1), busy: binsOf(true, 1000, TURN_SECONDS - 1) };
  const all = [...seconds.idle, ...seconds.busy];
  const mean = all.reduce((sum, bytes) => sum + bytes, 0) / all.length;
  const off = (of: readonly number[]) => of.map((bytes) => (100 * Math.abs(bytes - mean)) / mean);
  const bins = (TURN_SECONDS * 1000 - 2 * CARRY_OVER_MS) / BIN_MS;
  const { p, distance } = twoSample(binsOf(false, BIN_MS, bins), binsOf(true, BIN_MS, bins));
  const note = `${RATE / 1024} KiB/s of cells, n ${seconds.idle.length} seconds each`;
  return [
    { name: `${way}: mean`, value: mean / 1024, unit: "KiB/s", note: "with Tor's and TLS's framing" },
    ...(["idle", "busy"] as const).flatMap((state): Figure[] => [
      {
        name: `${way}: ${state}, p95 second off the mean`,
        value: percentile(off(seconds[state]), 0.95),
        unit: "%",
      },
      {
        name: `${way}: ${state}, worst second off the mean`,
        value: percentile(off(seconds[state]), 1),
        unit: "%",
        target: { most: 2 },
        note,
      },
    ]),
    {
      name: `${way}: content against idle, p`,
      value: p,
      unit: "",
      target: { least: P_MIN },
      note: `two-sample Kolmogorov-Smirnov on bytes of ${BIN_MS} ms, distance ${distance.toFixed(3)}`,
    },
  ];
}

/** The busiest of the links between the client and its guards. */
async function clientLink({ net }: TorNetwork, fromMs: number): Promise<readonly LinkChunk[]> {
  await using control = await net.testnet.control("c0");
  const status = (await control.getInfo(["orconn-status"]))["orconn-status"];
  const guards = net.testnet.nodes.filter(({ fingerprint }) => fingerprint && status.includes(fingerprint));
  let best: readonly LinkChunk[] = [];
  for (const { name } of guards) {
    for (const chunks of (await readTrace(path.join(net.testnet.dir, `${name}.trace`))).values()) {
      const later = chunks.filter(({ unixMs }) => unixMs >= fromMs);
      if (later.length > best.length) best = later;
    }
  }
  if (best.length === 0)
    throw new BentoError("benchmark-failed", "Cannot measure: the client's link left no trace");
  return best;
}
