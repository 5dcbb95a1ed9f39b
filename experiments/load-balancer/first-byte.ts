// From the client's request to the first byte of a first connection: circuits of its own each time, for C tor's onion
// service and ours in turn, over links with delay. The replica stands on the load balancer's own box, then on another.
// Part of that time the client's tor decides alone: whether it has circuits ready. The rest is counted as well.

import path from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";
import { median, percentile } from "../../src/bin/bench/benchmark.ts";
import { awaitService, downloadOne } from "./downloads.ts";
import { round } from "./figures.ts";
import { LoadBalancer } from "./load-balancer.ts";
import type { PartOptions } from "./throughput.ts";
import { startTorService } from "./tor-service.ts";

const WARM_UP = 2;
const TRIES_MAX = 5;
/** Between two connections: tor builds one circuit a second for what may come. */
const PAUSE_MS = 2500;
const CLIENT = "c0";

export async function firstByte({ bench, samples, say, signal }: PartOptions & { readonly samples: number }) {
  const { net, dir, target } = bench;
  const { testnet } = net;
  const scale = { replicasMin: 1, replicasMax: 1, high: {}, low: {}, choice: "least-loaded" } as const;
  const [one, other] = net.boxes;
  if (!one || !other)
    throw new BentoError("benchmark-failed", "Cannot measure: the network has no two boxes");
  const guard = testnet.node("e0");
  await using tor = await startTorService({
    dir: path.join(dir, "first-byte-tor"),
    testnet,
    guard,
    target,
    signal,
  });
  await using near = await LoadBalancer.start({ boxes: [one], scale, siteBytes: 1000, signal });
  await using far = await LoadBalancer.start({
    boxes: [one, other],
    excludesOwn: true,
    scale,
    siteBytes: 1000,
    signal,
  });
  const addresses = { tor: tor.address, ownBox: near.address, otherBox: far.address };
  const names = Object.keys(addresses) as (keyof typeof addresses)[];
  const proxy = testnet.socks(CLIENT);
  for (const name of names) await awaitService(proxy, addresses[name], signal);
  await using clientTor = await testnet.control(CLIENT, { signal });
  let sentMs: number | undefined;
  await using _introductions = await clientTor.subscribe(["CIRC_MINOR"], ({ keywords }) => {
    if (keywords.get("HS_STATE") === "HSCI_INTRO_SENT") sentMs ??= performance.now();
  });
  const taken = { tor: [], ownBox: [], otherBox: [] } as Record<keyof typeof addresses, Taken[]>;
  let failed = 0;
  for (let turn = 0; turn < WARM_UP + samples; turn++) {
    // None always comes first.
    for (const name of [...names.slice(turn % names.length), ...names.slice(0, turn % names.length)]) {
      for (let tries = 1; ; tries++) {
        await systemClock.sleep(PAUSE_MS, signal);
        sentMs = undefined;
        const startMs = performance.now();
        const options = { proxy, client: 0, address: addresses[name], path: "/1", startMs, signal };
        const { firstByteMs, error = "its introduction was not seen" } = await downloadOne(options);
        if (firstByteMs !== undefined && sentMs !== undefined) {
          const serviceMs = firstByteMs - (sentMs - startMs);
          if (turn >= WARM_UP) taken[name].push({ firstByteMs, serviceMs });
          break;
        }
        failed++;
        say(`first byte: ${name}: ${error}`);
        if (tries === TRIES_MAX) throw new BentoError("benchmark-failed", `Cannot measure: ${error}`);
      }
    }
    const last = (name: keyof typeof addresses) => taken[name].at(-1);
    say(
      `first byte, and since the introduction was sent: ${names.map((name) => `${name} ${round(last(name)?.firstByteMs ?? 0)}, ${round(last(name)?.serviceMs ?? 0)} ms`).join("; ")}`,
    );
  }
  const figures = (values: readonly number[]) => ({
    median: round(median([...values])),
    p90: round(percentile([...values], 0.9)),
    least: round(Math.min(...values)),
  });
  const part = (of: keyof Taken) => {
    const values = (name: keyof typeof addresses) => taken[name].map((one) => one[of]);
    const percent = (name: keyof typeof addresses) =>
      round((100 * median(values(name))) / median(values("tor")));
    return {
      ms: {
        tor: figures(values("tor")),
        ownBox: figures(values("ownBox")),
        otherBox: figures(values("otherBox")),
      },
      percentOfTor: { ownBox: percent("ownBox"), otherBox: percent("otherBox") },
    };
  };
  return { samples, failed, ...part("firstByteMs"), sinceIntroduction: part("serviceMs") };
}

interface Taken {
  readonly firstByteMs: number;
  /** Since the client's tor had sent the introduction. */
  readonly serviceMs: number;
}
