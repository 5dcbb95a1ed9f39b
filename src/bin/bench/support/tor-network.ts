// A private Tor network with one box for benchmarks, and the ways to it: its onion service, and its relay's own
// address. Ends with its scope; nothing is left behind.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { BentoError } from "../../../base/errors.ts";
import { parseAddress } from "../../../client/address.ts";
import { BoxClient, type Dial } from "../../../client/client.ts";
import { RelayDialers } from "../../../client/relay-dial.ts";
import { torDial } from "../../../client/tor-dial.ts";
import { type RunningNetwork, startNetwork, stopNetwork } from "../../local-network.ts";
import type { BenchContext } from "../benchmark.ts";

export interface TorNetwork extends AsyncDisposable {
  readonly net: RunningNetwork;
  /** What each phase of the start took: milliseconds since it began. */
  readonly phases: readonly { readonly phase: string; readonly atMs: number }[];
  /** The way to the box's onion service. */
  readonly onionAddress: string;
  readonly onionDial: Dial;
  /** A client of it. Dispose it. */
  onionClient(): BoxClient;
  /** A client of the box at its relay's address, over circuits that end at this relay. Dispose it. */
  exitClient(): BoxClient;
  /** Streams out of the box's relay, to any address. */
  readonly exitDial: Dial;
}

export async function startTorNetwork(
  context: BenchContext,
  options: {
    readonly latencyMs: number;
    readonly boxToml?: string;
    /** Further lines for the client's torrc. */
    readonly clientTorrc?: readonly string[];
  },
): Promise<TorNetwork> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-bench-net-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(dir, { recursive: true, force: true }));
  undo.defer(() => stopNetwork(dir));
  const phases: { phase: string; atMs: number }[] = [];
  const net = await startNetwork({
    ...options,
    dir,
    boxes: 1,
    detached: false,
    signal: context.signal,
    onProgress: (phase, atMs) => {
      phases.push({ phase, atMs });
      context.phase(`private Tor network: ${phase}`);
    },
  });
  const [box] = net.boxes;
  if (!box || box.exit === undefined || box.fingerprint === undefined) {
    throw new BentoError("benchmark-failed", "Cannot measure: the network has no box");
  }
  const { fingerprint, exit } = box;
  const control = await net.testnet.controlAddress("c0");
  const exitDial = undo.use(new RelayDialers()).dial(control, net.testnet.socks(), fingerprint);
  const onionDial = torDial(net.testnet.socksTcp());
  const owned = undo.move();
  return {
    net,
    phases,
    exitDial,
    onionAddress: box.address,
    onionDial,
    onionClient: () => new BoxClient({ address: box.address, dial: onionDial }),
    exitClient: () => new BoxClient({ address: parseAddress(exit), dial: exitDial }),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}
