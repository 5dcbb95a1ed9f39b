// From the high watermark to a new replica that serves, on another box, over links with delay; and whether clients who come
// then are met by it.

import { BentoError } from "../../src/base/errors.ts";
import { downloadOne } from "./downloads.ts";
import { round } from "./figures.ts";
import { LoadBalancer } from "./load-balancer.ts";
import type { PartOptions } from "./throughput.ts";

const HIGH = 2;
const CLIENTS_AFTER = 4;

export async function scaleUp({
  bench,
  siteBytes,
  say,
  signal,
}: PartOptions & { readonly siteBytes: number }) {
  const { net } = bench;
  await using balancer = await LoadBalancer.start({
    boxes: net.boxes.slice(0, 2),
    scale: {
      replicasMin: 1,
      replicasMax: 2,
      high: { connections: HIGH },
      low: { connections: 1 },
      choice: "least-loaded",
    },
    siteBytes,
    signal,
  });
  const leaving = new AbortController();
  const until = AbortSignal.any([signal, leaving.signal]);
  const proxy = net.testnet.socks();
  const get = async (of: string) =>
    downloadOne({
      proxy,
      client: 0,
      address: balancer.address,
      path: of,
      startMs: performance.now(),
      signal: until,
    });
  // They stay until the end: the file is fetched again and again.
  const stay = async () => {
    while (!until.aborted) await get("/site");
  };
  const staying = Array.from({ length: HIGH }, stay);
  try {
    const started = () => balancer.events.find((event) => event.kind === "replica-started" && event.id !== 1);
    await balancer.until(() => started() !== undefined && balancer.serving === 2, signal);
    const event = started();
    const reached = balancer.reports.find(({ replicas }) => (replicas[0]?.connections ?? 0) >= HIGH);
    if (!event || !reached)
      throw new BentoError("benchmark-failed", "Cannot measure: the watermark was never reached");
    const after = await Promise.all(Array.from({ length: CLIENTS_AFTER }, () => get("/1")));
    const metBefore = balancer.reports.at(-1)?.nowMs ?? 0;
    await balancer.until(() => (balancer.reports.at(-1)?.nowMs ?? 0) > metBefore + 1000, signal);
    const second = balancer.reports.at(-1)?.replicas.find(({ box }) => box !== "self");
    const result = {
      // Reports come four times a second: so much later than the watermark itself this may be seen.
      highToServingS: round((event.atMs - reached.nowMs) / 1000, 2),
      startMs: event.kind === "replica-started" ? round(event.afterMs) : undefined,
      metByNewReplica: second?.met ?? 0,
      clientsAfter: after.filter(({ error }) => error === undefined).length,
    };
    say(`scale up: ${JSON.stringify(result)}`);
    return result;
  } finally {
    leaving.abort(new Error("measured"));
    await Promise.all(staying);
  }
}
