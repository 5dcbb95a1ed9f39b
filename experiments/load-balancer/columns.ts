// The columns of the experiment: who serves the site. Each is started alone, measured, and stopped.

import { readdir, stat } from "node:fs/promises";
import path from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import type { ScaleSettings } from "../../src/wire/loadbalancer.ts";
import type { BenchNetwork } from "./bench-network.ts";
import { LoadBalancer } from "./load-balancer.ts";
import { startTorService } from "./tor-service.ts";

export interface Running extends AsyncDisposable {
  readonly address: string;
  /** What it says of itself afterwards, for the results. */
  readonly report?: () => unknown;
}

export interface Column {
  /** Of its files. */
  readonly name: string;
  readonly title: string;
  /** The path that clients ask for. */
  readonly path: string;
  /** What they get. */
  readonly siteBytes: number;
  /** Between two clients. */
  readonly arrivalMs: number;
  start(bench: BenchNetwork, signal: AbortSignal): Promise<Running>;
}

/** As in the paper. */
export const ARRIVAL_MS = 1000;

export const torColumn = (siteBytes: number): Column => ({
  name: "c-tor",
  title: "One C tor onion service",
  path: "/",
  siteBytes,
  arrivalMs: ARRIVAL_MS,
  start: async ({ net, dir, target }, signal) =>
    startTorService({
      dir: path.join(dir, "c-tor"),
      testnet: net.testnet,
      guard: net.testnet.node("e0"),
      target,
      usesKist: true,
      signal,
    }),
});

export interface BalancerColumnOptions {
  readonly name: string;
  readonly title: string;
  readonly nodes: number;
  readonly siteBytes: number;
  readonly scale: ScaleSettings;
  readonly arrivalMs?: number;
}

/** LoadBalancer on the box beside the first node's relay. */
export function balancerColumn({
  arrivalMs = ARRIVAL_MS,
  name,
  title,
  nodes,
  siteBytes,
  scale,
}: BalancerColumnOptions): Column {
  return {
    name,
    title,
    path: "/site",
    siteBytes,
    arrivalMs,
    start: async ({ net, dir }, signal) => {
      const balancer = await LoadBalancer.start({
        boxes: net.boxes.slice(0, nodes),
        scale,
        siteBytes,
        signal,
      });
      // The load balancer brings the site to boxes before it needs them, one after the other. Clients come to a service that
      // has been up for so long.
      const further = net.boxes.slice(1, scale.replicasMax).map((box) => path.join(dir, "boxes", box.name));
      for (const boxDir of further) await awaitBytes(path.join(boxDir, "data", "storage"), siteBytes, signal);
      return {
        address: balancer.address,
        report: () => ({ events: balancer.events, last: balancer.reports.at(-1) }),
        [Symbol.asyncDispose]: () => balancer[Symbol.asyncDispose](),
      };
    },
  };
}

const POLL_MS = 200;

/** Resolves when the files below `dir` have so many bytes. */
async function awaitBytes(dir: string, bytes: number, signal: AbortSignal): Promise<void> {
  for (;;) {
    let found = 0;
    for (const entry of await readdir(dir, { recursive: true }).catch(() => []))
      found += (await stat(path.join(dir, entry)).catch(() => undefined))?.size ?? 0;
    if (found >= bytes) return;
    await systemClock.sleep(POLL_MS, signal);
  }
}
