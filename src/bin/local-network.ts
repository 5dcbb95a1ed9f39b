// A private Tor network with boxes beside its exit relays, as `bento net up`, `bento demo` and benchmarks use it.
// Boxes are processes of their own, so that they outlive `net up`; each is known by pid and start time, so that
// `down` never ends anything else. Everything lies in one folder: tor/ the network, boxes/ the boxes.

import { spawn } from "node:child_process";
import { mkdir, mkdtemp, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { systemClock } from "../base/clock.ts";
import { BentoError } from "../base/errors.ts";
import { probeImage } from "../box/sandbox/image.ts";
import { BoxClient } from "../client/client.ts";
import type { BoxEntry } from "../client/context.ts";
import { directDial } from "../client/dial.ts";
import { formatSocks } from "../client/tor-dial.ts";
import { buildGuests } from "../guest/build.ts";
import type { LinkShape } from "../testnet/plan.ts";
import { type BootPhase, Testnet, type TestnetNode } from "../testnet/testnet.ts";
import { identify, isAlive, readPidFile, terminate, writePidFile } from "../tor/process.ts";
import type { Info } from "../wire/api.ts";
import { NODE_ARGUMENTS } from "./node-arguments.ts";

const BENTO = fileURLToPath(new URL("./bento.ts", import.meta.url));
const BOX_PORT = 5005;
const ONION_PORT = 80;
/** A box publishes its onion service within seconds; beyond this it never will. */
const BOX_READY_MS = 90_000;
const BOX_POLL_MS = 100;
/** Time for a box to end its instances before it is killed. */
const BOX_STOP_MS = 10_000;
/** Each box starts its instances under ids of its own. */
const UIDS_PER_BOX = 1000;
const UIDS_PER_NETWORK = 16 * UIDS_PER_BOX;
const UID_FIRST = 1_000_000;
const LOG_TAIL_BYTES = 2000;
/** In `[policy]`: the image, and the room that the bundled function asks for (docs/guide/operator.md). */
const BROWSER_TOML = `images = ["deno", "python", "chromium"]
function = { memory = "512MiB", pids = 200, tmp = "128MiB" }
`;

export type NetworkPhase = BootPhase | "boxes";

export interface NetworkOptions {
  readonly dir: string;
  readonly boxes: number;
  /** Relays in all, authorities included; the rest of what is asked for is middle relays. */
  readonly relays?: number | undefined;
  readonly latencyMs?: number | undefined;
  readonly rateMbit?: number | undefined;
  /** Default 1. */
  readonly clients?: number;
  /** As in PlanOptions. */
  readonly links?: Readonly<Record<string, Partial<LinkShape>>>;
  readonly bandwidths?: Readonly<Record<string, number>>;
  /** Further lines for the client's torrc. */
  readonly clientTorrc?: readonly string[];
  /** True: survives this process. */
  readonly detached: boolean;
  /** Boxes have onion services unless this is false; they are reached at their relays' addresses then. */
  readonly onion?: boolean;
  /** Further tables for box.toml, of each box or of the one with this number. */
  readonly boxToml?: string | ((index: number) => string);
  readonly signal?: AbortSignal;
  readonly onProgress?: (phase: NetworkPhase, elapsedMs: number) => void;
}

export interface RunningBox extends BoxEntry {
  readonly name: string;
  readonly info: Info;
}

export interface RunningNetwork {
  readonly testnet: Testnet;
  /** host:port of the client's SOCKS port, for any program. */
  readonly socks: string;
  readonly boxes: readonly RunningBox[];
}

const AUTHORITIES = 3;
const EXITS_MIN = 2;

/** Starts everything; resolves when circuits work and every box answers. When it throws, nothing is left running. */
export async function startNetwork(options: NetworkOptions): Promise<RunningNetwork> {
  const startedMs = systemClock.now();
  const exits = Math.max(EXITS_MIN, options.boxes);
  const relays = options.relays === undefined ? 1 : options.relays - AUTHORITIES - exits;
  if (relays < 0) {
    throw new BentoError(
      "usage",
      `Cannot start network: ${options.relays} relays are too few for ${options.boxes} boxes`,
      {
        advice: `Wanted at least ${AUTHORITIES + exits}: ${AUTHORITIES} authorities and ${exits} exits.`,
      },
    );
  }
  await stopNetwork(options.dir);
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  try {
    // One that cannot even say its version is not offered.
    const browser = hasBrowser().catch(() => false);
    const testnet = await Testnet.up({
      dir: path.join(options.dir, "tor"),
      authorities: AUTHORITIES,
      exits,
      relays,
      clients: options.clients ?? 1,
      ...(options.links === undefined ? {} : { links: options.links }),
      ...(options.bandwidths === undefined ? {} : { bandwidths: options.bandwidths }),
      detached: options.detached,
      signal: options.signal,
      ...(options.latencyMs === undefined ? {} : { latencyMs: options.latencyMs }),
      ...(options.rateMbit === undefined ? {} : { rateMbit: options.rateMbit }),
      extraTorrc: ({ kind }) => (kind === "client" ? options.clientTorrc : undefined),
      onProgress: (phase, elapsedMs) => {
        if (phase !== "up") options.onProgress?.(phase, elapsedMs);
      },
    });
    options.onProgress?.("boxes", systemClock.now() - startedMs);
    const images = (await browser) ? BROWSER_TOML : "";
    const boxes = await Promise.all(
      testnet.exits
        .slice(0, options.boxes)
        .map((relay, index) => startBox(testnet, relay, index, { ...options, images })),
    );
    options.onProgress?.("up", systemClock.now() - startedMs);
    return { testnet, socks: formatSocks(testnet.socksTcp()), boxes };
  } catch (error) {
    await stopNetwork(options.dir);
    throw error;
  }
}

/** Ends boxes and network in `dir`, also of a start that was killed half-way, and removes their files. Idempotent. */
export async function stopNetwork(dir: string): Promise<void> {
  const boxesDir = path.join(dir, "boxes");
  const names = await readdir(boxesDir).catch(() => [] as string[]);
  await Promise.all(
    names.map(async (name) => {
      const identity = await readPidFile(path.join(boxesDir, name, "pid"));
      if (identity) await terminate(identity, { graceMs: BOX_STOP_MS });
    }),
  );
  await Testnet.down(path.join(dir, "tor"));
  await rm(boxesDir, { recursive: true, force: true });
}

/** Whether the process of a box lives. */
export async function isBoxAlive(dir: string, name: string): Promise<boolean> {
  const identity = await readPidFile(path.join(dir, "boxes", name, "pid"));
  return identity !== undefined && (await isAlive(identity));
}

/** Whether this machine has a browser for functions: a box that names the image and lacks a part of it starts none. */
async function hasBrowser(): Promise<boolean> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-guest-"));
  try {
    return (await probeImage("chromium", await buildGuests(dir))).kind === "complete";
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function startBox(
  testnet: Testnet,
  relay: TestnetNode,
  index: number,
  options: NetworkOptions & { readonly images: string },
): Promise<RunningBox> {
  const name = `box${index}`;
  const dir = path.join(options.dir, "boxes", name);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const listen = `127.${testnet.plan.block}.10.${index + 1}:${BOX_PORT}`;
  const exit = `${relay.address}:${BOX_PORT}`;
  const control = await testnet.controlAddress(relay.name);
  await writeFile(path.join(dir, "torrc"), `${testnet.joinTorrc.join("\n")}\n`);
  const uidFirst = UID_FIRST + testnet.plan.block * UIDS_PER_NETWORK + index * UIDS_PER_BOX;
  const config = `[box]
name = "${name}"
data_dir = ${JSON.stringify(path.join(dir, "data"))}
listen = ["${listen}"]
[relay]
control = "${control.host}:${control.port}"
fingerprint = "${relay.fingerprint}"
[tor]
torrc = ${JSON.stringify(path.join(dir, "torrc"))}
[onion]
mode = "${options.onion === false ? "none" : "single-hop"}"
port = ${ONION_PORT}
[exit_port]
listen = "${exit}"
[policy]
box = ["load", "memory", "disk", "network", "instances", "limits"]
${options.images}[policy.bento]
boxes = ["self", "*"]
[policy.tor]
routines = ["circuits", "streams", "onions", "events", "directory"]
[policy.relays]
enabled = true
links = 256
circuits_per_minute = 10000
bytes = "256GiB"
[policy.net]
private_networks_allowed = ["127.${testnet.plan.block}.8.0/24"]
[warm]
deno = 1
python = 1
[sandbox]
uids = "${uidFirst}-${uidFirst + UIDS_PER_BOX - 1}"
${typeof options.boxToml === "function" ? options.boxToml(index) : (options.boxToml ?? "")}`;
  const configFile = path.join(dir, "box.toml");
  await writeFile(configFile, config);
  await spawnBox(dir, configFile, options.detached);
  const info = await awaitBox(dir, listen, options);
  const address = info.onion === null ? exit : `${info.onion}:${ONION_PORT}`;
  return {
    name,
    address,
    direct: listen,
    exit,
    socks: formatSocks(testnet.socks()),
    control: formatSocks(await testnet.controlAddress("c0")),
    fingerprint: relay.fingerprint,
    info,
  };
}

async function spawnBox(dir: string, configFile: string, detached: boolean): Promise<void> {
  const log = await open(path.join(dir, "box.log"), "a", 0o600);
  try {
    const args = [...NODE_ARGUMENTS, BENTO, "box", "serve", "--config", configFile];
    const child = spawn(process.execPath, detached ? args : [...args, "--while-stdin"], {
      cwd: dir,
      detached,
      // A box that must not outlive us ends when this pipe does, whatever ends us.
      stdio: [detached ? "ignore" : "pipe", log.fd, log.fd],
    });
    const started = Promise.withResolvers<void>();
    child.once("spawn", () => started.resolve());
    child.once("error", started.reject);
    await started.promise;
    const identity = child.pid === undefined ? undefined : await identify(child.pid);
    if (identity) await writePidFile(path.join(dir, "pid"), identity);
    child.unref();
    (child.stdin as { unref?: () => void } | null)?.unref?.();
  } finally {
    await log.close();
  }
}

/** Waits until the box answers and its onion service, if it has one, is published. */
async function awaitBox(
  dir: string,
  listen: string,
  { signal, onion }: Pick<NetworkOptions, "signal" | "onion">,
): Promise<Info> {
  const deadline = systemClock.now() + BOX_READY_MS;
  using client = new BoxClient({ address: listen, dial: directDial });
  for (;;) {
    signal?.throwIfAborted();
    const identity = await readPidFile(path.join(dir, "pid"));
    if (!identity || !(await isAlive(identity))) {
      throw new BentoError("box-failed", `Cannot start box: it ended. Its log says: ${await logTail(dir)}`);
    }
    try {
      const info = await client.info({ signal });
      if (info.onion !== null || onion === false) return info;
    } catch (error) {
      signal?.throwIfAborted();
      if (!(error instanceof BentoError) || error.code !== "box-unreachable") throw error;
    }
    if (systemClock.now() > deadline) {
      throw new BentoError(
        "box-failed",
        `Cannot start box: not ready after ${BOX_READY_MS / 1000} s. Its log says: ${await logTail(dir)}`,
      );
    }
    await systemClock.sleep(BOX_POLL_MS, signal);
  }
}

async function logTail(dir: string): Promise<string> {
  const text = await readFile(path.join(dir, "box.log"), "utf8").catch(() => "");
  return text.trim().slice(-LOG_TAIL_BYTES) || "nothing";
}
