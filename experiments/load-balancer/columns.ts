// The columns of the experiment: who serves the site. Each is started alone, measured, and stopped.

import path from "node:path";
import type { BenchNetwork } from "./bench-network.ts";
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
  start(bench: BenchNetwork, signal: AbortSignal): Promise<Running>;
}

export const TOR_COLUMN: Column = {
  name: "c-tor",
  title: "One C tor onion service",
  path: "/",
  start: async ({ net, dir, target }, signal) =>
    startTorService({
      dir: path.join(dir, "c-tor"),
      testnet: net.testnet,
      guard: net.testnet.node("e0"),
      target,
      usesKist: true,
      signal,
    }),
};
