// From the client's request to the first byte of a first connection: circuits of its own each time, for C tor's onion
// service and ours in turn, over links with delay. The replica stands on the load balancer's own box, then on another.

import path from "node:path";
import { BentoError } from "../../src/base/errors.ts";
import { median, percentile } from "../../src/bin/bench/benchmark.ts";
import { awaitService, downloadOne } from "./downloads.ts";
import { round } from "./figures.ts";
import { LoadBalancer } from "./load-balancer.ts";
import type { PartOptions } from "./throughput.ts";
import { startTorService } from "./tor-service.ts";

const WARM_UP = 2;
const TRIES_MAX = 5;

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
  const proxy = testnet.socks();
  for (const name of names) await awaitService(proxy, addresses[name], signal);
  const taken: Record<keyof typeof addresses, number[]> = { tor: [], ownBox: [], otherBox: [] };
  let failed = 0;
  for (let turn = 0; turn < WARM_UP + samples; turn++) {
    for (const name of names) {
      for (let tries = 1; ; tries++) {
        signal.throwIfAborted();
        const options = {
          proxy,
          client: 0,
          address: addresses[name],
          path: "/1",
          startMs: performance.now(),
          signal,
        };
        const { firstByteMs, arrivedMs, error } = await downloadOne(options);
        if (firstByteMs !== undefined) {
          if (turn >= WARM_UP) taken[name].push(firstByteMs - arrivedMs);
          break;
        }
        failed++;
        say(`first byte: ${name}: ${error}`);
        if (tries === TRIES_MAX) throw new BentoError("benchmark-failed", `Cannot measure: ${error}`);
      }
    }
    say(`first byte: ${names.map((name) => `${name} ${round(taken[name].at(-1) ?? 0)} ms`).join(", ")}`);
  }
  const of = (name: keyof typeof addresses) => ({
    median: round(median(taken[name])),
    p90: round(percentile(taken[name], 0.9)),
    least: round(Math.min(...taken[name])),
  });
  const percent = (name: keyof typeof addresses) => round((100 * median(taken[name])) / median(taken.tor));
  return {
    samples,
    failed,
    ms: { tor: of("tor"), ownBox: of("ownBox"), otherBox: of("otherBox") },
    percentOfTor: { ownBox: percent("ownBox"), otherBox: percent("otherBox") },
  };
}
