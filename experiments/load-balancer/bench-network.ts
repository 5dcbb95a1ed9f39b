// The network of the experiment: service nodes with slow uplinks, clients with a tor process each, one web server.
// A service node is a relay that (almost) nobody else chooses, and what stands beside it: a box, or a C tor onion service
// whose only guard it is. All links into such a relay share one rate. What comes in is what its node sends: relays open
// their links away from it, and what comes over those is not limited.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { BentoError } from "../../src/base/errors.ts";
import { type RunningNetwork, startNetwork, stopNetwork } from "../../src/bin/local-network.ts";

/** Measured bandwidth of service nodes' relays, a thousandth of the others': path selection leaves them alone. */
const NODE_BANDWIDTH = 10;

export interface BenchNetworkOptions {
  /** Service nodes with limited uplinks: boxes 0 to nodes - 1. */
  readonly nodes: number;
  readonly uplinkMbit?: number;
  /** Further boxes, without limit. */
  readonly freeBoxes?: number;
  /** Relays beside those of boxes. */
  readonly relays: number;
  readonly clients: number;
  readonly latencyMs?: number;
  /** Bytes that the web server sends for "/". */
  readonly siteBytes: number;
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
}

export interface BenchNetwork extends AsyncDisposable {
  readonly net: RunningNetwork;
  readonly dir: string;
  /** The web server that every service forwards to. */
  readonly target: { readonly host: string; readonly port: number };
}

const AUTHORITIES = 3;

export async function startBenchNetwork(options: BenchNetworkOptions): Promise<BenchNetwork> {
  const { nodes, uplinkMbit, freeBoxes = 0, signal } = options;
  const dir = await mkdtemp(path.join(tmpdir(), "bento-lb-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(dir, { recursive: true, force: true }));
  undo.defer(() => stopNetwork(dir));
  const names = Array.from({ length: nodes }, (_, index) => `e${index}`);
  const boxes = nodes + freeBoxes;
  const net = await startNetwork({
    dir,
    boxes,
    relays: AUTHORITIES + Math.max(2, boxes) + options.relays,
    clients: options.clients,
    ...(options.latencyMs === undefined ? {} : { latencyMs: options.latencyMs }),
    ...(uplinkMbit === undefined
      ? {}
      : { links: Object.fromEntries(names.map((name) => [name, { intoMbit: uplinkMbit }])) }),
    bandwidths: Object.fromEntries(names.map((name) => [name, NODE_BANDWIDTH])),
    detached: false,
    signal,
    onProgress: (phase, elapsedMs) => options.say(`network: ${phase} (${(elapsedMs / 1000).toFixed(1)} s)`),
  });
  const host = net.testnet.plan.webAddress;
  const web = await startHelper("web-server.ts", [host, String(options.siteBytes)]);
  undo.defer(() => web.end());
  const owned = undo.move();
  return {
    net,
    dir,
    target: { host, port: Number(web.said) },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

export interface Helper {
  readonly child: ChildProcess;
  /** Its first line. */
  readonly said: string;
  end(): Promise<void>;
}

/** A program of this folder, which says one line when it is ready and ends when its input does. */
export async function startHelper(file: string, args: readonly string[]): Promise<Helper> {
  const program = path.join(import.meta.dirname, file);
  const flags = (process.env["BENTO_HELPER_FLAGS"] ?? "").split(" ").filter((flag) => flag !== "");
  const child = spawn(process.execPath, [...flags, program, ...args], { stdio: ["pipe", "pipe", "inherit"] });
  const exited = once(child, "exit");
  const end = async () => {
    child.stdin?.end();
    await exited;
  };
  const line = await Promise.race([
    once(child.stdout, "data"),
    exited.then(() => {
      throw new BentoError("benchmark-failed", `Cannot start ${file}: it ended`);
    }),
  ]);
  return { child, said: String(line[0]).trim(), end };
}
