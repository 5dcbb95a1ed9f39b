// `bento bench cover`: what an observer of the client's link sees of a covered session on a private Tor network: how
// steady the bytes of each second are, and whether a two-sample test can tell content from idle. Idle and content take
// turns, so that whatever else the machine does meets both. Controls: idle against idle, and the same without cover.

import { loadavg } from "node:os";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { systemClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { BoxClient, type Session } from "../../client/client.ts";
import { loadPackage } from "../../client/package-loader.ts";
import { busiestLink, bytesPerBin, ObservedLink, type Passed } from "../../testnet/observed-link.ts";
import { turnsTest } from "../../testnet/two-sample.ts";
import { type BenchContext, type Benchmark, type Figure, median, percentile } from "./benchmark.ts";
import {
  CONTENT_BYTES,
  CONTENT_EVERY_MS,
  meanOf,
  percentOff,
  RATE,
  SETTLE_MS,
  startCover,
} from "./support/covered.ts";
import { observedDial } from "./support/observed-dial.ts";
import { startTorNetwork, type TorNetwork } from "./support/tor-network.ts";

const LATENCY_MS = 5;
const TURN_SECONDS = 5;
/** C(12, 6) = 924 ways to split them: p down to 0.002. */
const TURNS = 12;
const CONTROL_TURNS = 8;
/** At the start of each turn, what began in the one before. */
const CARRY_OVER_MS = 300;
/** For the two-sample test: of each turn so much, in such bins. */
const WINDOW_MS = TURN_SECONDS * 1000 - 2 * CARRY_OVER_MS;
const BIN_MS = 100;
/** How often it is looked how late timers are. */
const LATENESS_MS = 5;
/** When nothing can be told apart, one figure in a hundred is below. */
const P_MIN = 0.01;
/** The least that CONTROL_TURNS can show is 2 in C(8, 4) = 70. */
const P_CONTROL_MAX = 0.03;
/**
 * What Tor does besides, whatever the client does: fetching the directory anew (every 20 s on a private network, every
 * hour elsewhere) and circuits in reserve.
 */
const QUIET_TOR = [
  ["FetchServerDescriptors", "0"],
  ["__DisablePredictedCircuits", "1"],
  ["LearnCircuitBuildTimeout", "0"],
] as const;

export const benchmark: Benchmark = {
  name: "cover",
  description: "a covered session on the client's link: how steady each second is, and content against idle",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  await using link = await ObservedLink.start();
  await using tor = await startTorNetwork(context, { latencyMs: LATENCY_MS, clientTorrc: [link.torrc] });
  const app: Passed[] = [];
  const lateness = monitorEventLoopDelay({ resolution: LATENESS_MS });
  using client = new BoxClient({ address: tor.onionAddress, dial: observedDial(tor.onionDial, app) });
  const echo = await loadPackage("echo");
  const covered = await (async () => {
    await using cover = await startCover(client, context.signal);
    const session = await cover.run(echo, { args: [] });
    await quiet(tor);
    lateness.enable();
    const turns = await takeTurns(session, TURNS, "covered", context);
    lateness.disable();
    return turns;
  })();
  const plain = await (async () => {
    await using session = await client.run(echo, { args: [] });
    return await takeTurns(session, CONTROL_TURNS, "without cover", context);
  })();
  const passed = await link.passed();
  const late = (ns: number) => Math.max(0, ns / 1e6 - LATENESS_MS);
  const machine: readonly Figure[] = [
    {
      name: "timers of the client late, p99",
      value: late(lateness.percentile(99)),
      unit: "ms",
      note: "2 % of a second are 20 ms: on a busier machine the seconds below say little",
    },
    { name: "timers of the client late, worst", value: late(lateness.max), unit: "ms" },
  ];
  const ways = (["up", "down"] as const).flatMap((direction) => [
    ...steadiness(direction, linkOf(passed, covered), app, covered),
    ...likeness(direction, linkOf(passed, covered), covered),
    control(direction, linkOf(passed, plain), plain),
  ]);
  return [...machine, ...ways];
}

async function quiet({ net }: TorNetwork): Promise<void> {
  await using control = await net.testnet.control("c0");
  await control.setConf(QUIET_TOR);
}

interface Turn {
  readonly isBusy: boolean;
  readonly fromMs: number;
}

async function takeTurns(
  session: Session,
  count: number,
  what: string,
  context: BenchContext,
): Promise<Turn[]> {
  await systemClock.sleep(SETTLE_MS, context.signal);
  const turns: Turn[] = [];
  let echoedBytes = 0;
  const reading = (async () => {
    for await (const message of session) echoedBytes += message.length;
  })();
  // It is told of when the turns are over; sending ends them when the session is lost.
  reading.catch(() => undefined);
  for (let at = 0; at < count; at++) {
    const isBusy = at % 2 === 1;
    context.phase(
      `${what}: turn ${at + 1} of ${count}, ${TURN_SECONDS} s each: ${isBusy ? "content" : "idle"}`,
    );
    const fromMs = Date.now();
    turns.push({ isBusy, fromMs });
    while (Date.now() < fromMs + TURN_SECONDS * 1000) {
      if (isBusy) await session.send(new Uint8Array(CONTENT_BYTES));
      await systemClock.sleep(CONTENT_EVERY_MS, context.signal);
    }
  }
  await session.endInput();
  await reading;
  const least = CONTENT_BYTES * count * TURN_SECONDS;
  if (echoedBytes < least) {
    throw new BentoError(
      "benchmark-failed",
      `Cannot measure: ${echoedBytes} bytes came back, expected at least ${least}`,
    );
  }
  return turns;
}

/** The link of the session: the busiest while it lasted. */
function linkOf(passed: readonly Passed[], turns: readonly Turn[]): readonly Passed[] {
  const fromMs = turns[0]?.fromMs ?? 0;
  const toMs = (turns.at(-1)?.fromMs ?? 0) + TURN_SECONDS * 1000;
  return busiestLink(passed.filter(({ atMs }) => atMs >= fromMs && atMs < toMs));
}

type Direction = Passed["direction"];
const WAY = { up: "to the guard", down: "from the guard" } as const;

/** Each second of each turn, idle and with content, on the link and at the client: how far off the mean of all. */
function steadiness(
  direction: Direction,
  passed: readonly Passed[],
  app: readonly Passed[],
  turns: readonly Turn[],
): Figure[] {
  const secondsOf = (of: readonly Passed[], isBusy: boolean) =>
    turns
      .filter((turn) => turn.isBusy === isBusy)
      .flatMap(({ fromMs }) =>
        bytesPerBin(of, direction, {
          fromMs: fromMs + CARRY_OVER_MS,
          binMs: 1000,
          count: TURN_SECONDS - 1,
        }),
      );
  const offOf = (of: readonly Passed[]) => {
    const [idle, busy] = [secondsOf(of, false), secondsOf(of, true)];
    const mean = meanOf([...idle, ...busy]);
    return { mean, idle: percentOff(idle, mean), busy: percentOff(busy, mean) };
  };
  const [link, client] = [offOf(passed), offOf(app)];
  const way = WAY[direction];
  const load = loadavg()[0]?.toFixed(1) ?? "";
  return [
    {
      name: `${way}: mean`,
      value: link.mean / 1024,
      unit: "KiB/s",
      note: `${RATE / 1024} KiB/s of cells, with Tor's and TLS's framing`,
    },
    {
      name: `${way}: at the client, median second off the mean`,
      value: median([...client.idle, ...client.busy]),
      unit: "%",
      note: direction === "up" ? "as the client hands cells to tor" : "as tor hands them over",
    },
    {
      name: `${way}: at the client, worst second off the mean`,
      value: percentile([...client.idle, ...client.busy], 1),
      unit: "%",
    },
    ...(["idle", "busy"] as const).flatMap((state): Figure[] => [
      {
        name: `${way}: ${state}, median second off the mean`,
        value: median(link[state]),
        unit: "%",
        note: "on the link",
      },
      {
        name: `${way}: ${state}, p90 second off the mean`,
        value: percentile(link[state], 0.9),
        unit: "%",
      },
      {
        name: `${way}: ${state}, worst second off the mean`,
        value: percentile(link[state], 1),
        unit: "%",
        target: { most: 2 },
        note: `n ${link[state].length} seconds, load ${load}`,
      },
    ]),
  ];
}

/** What an observer may compare: how many bytes, and how they come one after another. */
const LOOKS: readonly {
  readonly name: string;
  readonly values: (passed: readonly Passed[], direction: Direction, fromMs: number) => number[];
}[] = [
  {
    name: `bytes of ${BIN_MS} ms`,
    values: (passed, direction, fromMs) =>
      bytesPerBin(passed, direction, { fromMs, binMs: BIN_MS, count: WINDOW_MS / BIN_MS }),
  },
  {
    name: "pauses",
    values: (passed, direction, fromMs) => {
      const times = passed
        .filter((one) => one.direction === direction && one.atMs >= fromMs && one.atMs < fromMs + WINDOW_MS)
        .map(({ atMs }) => atMs);
      return times.slice(1).map((atMs, at) => atMs - (times[at] ?? 0));
    },
  },
];

/** Content against idle; and as a control idle against idle, whose p is small as often as chance has it. */
function likeness(direction: Direction, passed: readonly Passed[], turns: readonly Turn[]): Figure[] {
  const idle = turns.filter(({ isBusy }) => !isBusy).map((turn, at) => ({ ...turn, isBusy: at % 2 === 1 }));
  return LOOKS.flatMap((look): Figure[] => {
    const compare = (of: readonly Turn[]) => compareTurns(look, direction, passed, of);
    const [own, same] = [compare(turns), compare(idle)];
    return [
      {
        name: `${WAY[direction]}: content against idle, ${look.name}, p`,
        value: own.p,
        unit: "",
        target: { least: P_MIN },
        note: `two-sample Kolmogorov-Smirnov over all splits of ${turns.length} turns, distance ${own.distance.toFixed(3)}`,
      },
      {
        name: `${WAY[direction]}: idle against idle, ${look.name}, p`,
        value: same.p,
        unit: "",
        note: `control; distance ${same.distance.toFixed(3)}`,
      },
    ];
  });
}

function control(direction: Direction, passed: readonly Passed[], turns: readonly Turn[]): Figure {
  const { p, distance } = compareTurns(LOOKS[0] as (typeof LOOKS)[number], direction, passed, turns);
  return {
    name: `${WAY[direction]}: content against idle without cover, p`,
    value: p,
    unit: "",
    target: { most: P_CONTROL_MAX },
    note: `control; distance ${distance.toFixed(3)}`,
  };
}

function compareTurns(
  look: (typeof LOOKS)[number],
  direction: Direction,
  passed: readonly Passed[],
  turns: readonly Turn[],
) {
  return turnsTest(
    turns.map(({ isBusy, fromMs }) => ({
      isFirst: isBusy,
      values: look.values(passed, direction, fromMs + CARRY_OVER_MS),
    })),
  );
}
