// `bento net up|status|down`: the private Tor network of this machine, with boxes, in the background.

import path from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import type { Cli } from "../../client/cli/cli.ts";
import { EXIT } from "../../client/cli/exit-code.ts";
import { table } from "../../client/cli/io.ts";
import { formatSeconds, Progress } from "../../client/cli/progress.ts";
import { type Forgotten, forgetBoxes } from "../../client/context.ts";
import { formatSocks } from "../../client/tor-dial.ts";
import { Testnet } from "../../testnet/testnet.ts";
import {
  isBoxAlive,
  type NetworkPhase,
  type RunningNetwork,
  startNetwork,
  stopNetwork,
} from "../local-network.ts";

export interface UpOptions {
  readonly dir?: string;
  readonly boxes: number;
  readonly relays?: number;
  readonly latency?: number;
  readonly rate?: number;
  readonly onion: boolean;
}

/** What each phase does, for people. */
export const PHASES: Readonly<Record<NetworkPhase, string>> = {
  keys: "making the relays' keys",
  relays: "starting relays",
  consensus: "authorities agree on a consensus",
  client: "starting the client",
  circuit: "building the first circuit",
  boxes: "starting boxes and publishing their onion services",
  up: "up",
};

export async function up(cli: Cli, options: UpOptions): Promise<number> {
  const { io } = cli;
  const dir = path.resolve(options.dir ?? defaultDir(cli));
  let network: RunningNetwork;
  {
    using progress = new Progress(io, "Starting a private Tor network");
    network = await startNetwork({
      dir,
      boxes: options.boxes,
      relays: options.relays,
      latencyMs: options.latency,
      rateMbit: options.rate,
      onion: options.onion,
      detached: true,
      signal: cli.signal,
      onProgress: (phase, elapsedMs) => {
        io.event({ event: "phase", phase, elapsedMs });
        if (phase === "up") return;
        progress.phase(`Starting a private Tor network: ${PHASES[phase]}`);
        if (!io.live && !io.json) io.note(`${formatSeconds(elapsedMs / 1000).padStart(5)}  ${PHASES[phase]}`);
      },
    });
  }
  const { socks } = network;
  const forgotten = await cli.context.update((data) => {
    const boxes = Object.fromEntries(network.boxes.map(({ name, info: _info, ...entry }) => [name, entry]));
    // Whatever bore these names before is gone, also where `down` never ran.
    const dropped = forgetBoxes(data, { ...boxes, ...data.boxes });
    data.network = { dir, socks };
    data.boxes = boxes;
    return dropped;
  });
  const web = network.testnet.plan.webAddress;
  io.result(
    { event: "up", dir, socks, web, boxes: network.boxes.map(({ info: _info, ...box }) => box), forgotten },
    () =>
      [
        `The network is up: ${network.testnet.nodes.filter(({ kind }) => kind !== "client").length} relays, ${network.boxes.length} ${network.boxes.length === 1 ? "box" : "boxes"}.`,
        `SOCKS  ${socks}`,
        `WEB    ${web}   (serve a site there: boxes reach it)`,
        ...network.boxes.map(
          ({ name, address, exit }) => `${name}   ${address}   (exit port ${exit ?? "none"})`,
        ),
        "Try: bento run hello · bento browse URL · bento net down",
      ].join("\n"),
  );
  noteForgotten(cli, forgotten);
  return EXIT.ok;
}

export async function status(cli: Cli, options: { dir?: string }): Promise<number> {
  const dir = await knownDir(cli, options.dir);
  const testnet = await Testnet.attach(path.join(dir, "tor"));
  const nodes = await testnet.status();
  const data = await cli.context.read();
  const boxes = await Promise.all(
    Object.entries(data.network?.dir === dir ? data.boxes : {}).map(async ([name, entry]) => ({
      name,
      ...entry,
      alive: await isBoxAlive(dir, name),
    })),
  );
  const socks = formatSocks(testnet.socksTcp());
  const isWhole = nodes.every(({ pid }) => pid !== undefined) && boxes.every(({ alive }) => alive);
  const web = testnet.plan.webAddress;
  cli.io.result({ dir, socks, web, whole: isWhole, nodes, boxes }, () =>
    [
      table([
        ["NODE", "ROLE", "PID", "MEMORY", "READY"],
        ...nodes.map(({ name, role, pid, rssBytes, bootstrap }) => [
          name,
          role,
          pid === undefined ? "not running" : String(pid),
          formatBytes(rssBytes),
          `${bootstrap} %`,
        ]),
      ]),
      "",
      `SOCKS  ${socks}`,
      `WEB    ${web}`,
      ...boxes.map(({ name, address, alive }) => `${name}   ${address}${alive ? "" : "   not running"}`),
    ].join("\n"),
  );
  return isWhole ? EXIT.ok : EXIT.torNotReady;
}

export async function down(cli: Cli, options: { dir?: string }): Promise<number> {
  const dir = await knownDir(cli, options.dir);
  {
    using _progress = new Progress(cli.io, "Stopping the network");
    await stopNetwork(dir);
  }
  const forgotten = await cli.context.update((data) => {
    if (data.network?.dir !== dir) return { functions: [], instances: [] };
    const dropped = forgetBoxes(data, data.boxes);
    delete data.network;
    data.boxes = {};
    return dropped;
  });
  cli.io.result({ event: "down", dir, forgotten }, () => "");
  if (!cli.io.json) cli.io.note("The network is down.");
  noteForgotten(cli, forgotten);
  return EXIT.ok;
}

/** What was saved of boxes that are gone. */
function noteForgotten({ io }: Cli, { functions, instances }: Forgotten): void {
  if (io.json || functions.length + instances.length === 0) return;
  const what = [
    ...(functions.length > 0 ? [`functions ${functions.join(", ")}`] : []),
    ...(instances.length > 0 ? [`instances ${instances.join(", ")}`] : []),
  ];
  io.note(`The boxes before are gone, and with them what was saved of them: ${what.join("; ")}.`);
}

function defaultDir(cli: Cli): string {
  return path.join(cli.context.dir, "net");
}

/** The folder named, else that of the network which `net up` started last. */
async function knownDir(cli: Cli, given: string | undefined): Promise<string> {
  return path.resolve(given ?? (await cli.context.read()).network?.dir ?? defaultDir(cli));
}
