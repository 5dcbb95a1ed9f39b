// Bringing a network up, phase by phase: keys, relays, consensus, client, circuit.
// What dominates is the first vote, which tor ties to multiples of five seconds of the wall clock. The rest is kept out
// of the way: keys are made here, and clients start with the consensus in their cache, since one that asks a relay too
// early waits ten seconds before it asks again.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, open, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { systemClock } from "../base/clock.ts";
import { BentoError, messageOf } from "../base/errors.ts";
import type { ControlClient } from "../tor/control-client.ts";
import { identify, TorProcess, writePidFile } from "../tor/process.ts";
import { socksConnect } from "../tor/socks.ts";
import { claimBlock } from "./block.ts";
import { type AuthorityKeys, makeAuthorityKeys, makeRelayKeys, type RelayKeys } from "./keys.ts";
import type { LinkProxyOptions } from "./link-proxy.ts";
import { linksPath, type NetworkState, socksPathOf, writeState } from "./network-dir.ts";
import { type PlannedNode, type PlanOptions, planTestnet, type TestnetPlan } from "./plan.ts";
import {
  authorityLine,
  bandwidthFile,
  FIRST_VOTING_DELAY_S,
  FIRST_VOTING_INTERVAL_S,
  torrcOf,
} from "./torrc.ts";

export type BootPhase = "keys" | "relays" | "consensus" | "client" | "circuit" | "up";

export interface BootOptions extends PlanOptions {
  /** True: the network survives this process. False: tor daemons end by themselves when this process dies. */
  readonly detached?: boolean;
  /** Called when a phase begins, with milliseconds since the start, and at the end with "up". */
  readonly onProgress?: (phase: BootPhase, elapsedMs: number) => void;
  readonly torPath?: string;
  readonly signal?: AbortSignal | undefined;
}

/** A network that has no circuits by then never will: the slowest seen took 43 s. */
const BOOT_LIMIT_MS = 150_000;
/**
 * The best time to start is this long after the moment when a round in progress is computed, and up to the window later:
 * descriptors arrive 1.0 s after the start (more when the machine is busy), the vote begins 1.7 to 2.7 s after it.
 */
const START_MARGIN_MS = 300;
const START_WINDOW_MS = 1000;
/** Of bootstrapping: enough directory information. What follows is circuits of the relay's own, which nobody needs. */
const ENOUGH_DIRECTORY_PERCENT = 75;
/** A relay that fetches at the right moment has the consensus within this time. */
const REMIND_MS = 700;
/** Between tries of the first stream. */
const RETRY_MS = 100;

interface Boot {
  readonly real: string;
  readonly plan: TestnetPlan;
  readonly options: BootOptions;
  readonly signal: AbortSignal;
  readonly relayKeys: ReadonlyMap<string, RelayKeys>;
  readonly authorityKeys: ReadonlyMap<string, AuthorityKeys>;
  readonly authorityLines: readonly string[];
}

/** Starts everything in `real`, an empty directory whose lock the caller holds. The caller cleans up when it throws. */
export async function boot(real: string, options: BootOptions): Promise<Omit<NetworkState, "format">> {
  const startMs = systemClock.now();
  let phase: BootPhase = "keys";
  const enter = (next: BootPhase) => {
    phase = next;
    options.onProgress?.(next, systemClock.now() - startMs);
  };
  const limit = AbortSignal.timeout(BOOT_LIMIT_MS);
  const signal = options.signal ? AbortSignal.any([options.signal, limit]) : limit;
  try {
    enter("keys");
    await using claim = await claimBlock();
    const plan = planTestnet(claim.block, options);
    const state = { phase: "starting", plan, fingerprints: {}, authorityLines: [] } as const;
    await writeState(real, state);
    const it: Boot = { real, plan, options, signal, ...(await makeKeys(plan)) };
    await writeFiles(it);
    enter("relays");
    await startLinks(it);
    await systemClock.sleep(untilGoodStartMs(systemClock.now()), signal);
    const relays = await Promise.all(relaysOf(plan).map(async (node) => startNode(it, node)));
    enter("consensus");
    const consensus = await awaitConsensus(it, relays);
    enter("client");
    await Promise.all([startClients(it, consensus), informRelays(it, relays)]);
    enter("circuit");
    await tryStream(it);
    const up = {
      phase: "up",
      plan,
      fingerprints: Object.fromEntries([...it.relayKeys].map(([name, keys]) => [name, keys.fingerprint])),
      authorityLines: it.authorityLines,
    } as const;
    await writeState(real, up);
    enter("up");
    return up;
  } catch (cause) {
    if (!limit.aborted || options.signal?.aborted) throw cause;
    throw new BentoError(
      "testnet-timeout",
      `Cannot start network: no circuit after ${String(BOOT_LIMIT_MS / 1000)} s, in phase "${phase}" (${messageOf(cause)})`,
      { cause, advice: "Try again with fewer relays, or when the machine is less busy." },
    );
  }
}

/**
 * Milliseconds to wait before the relays start, so that the first consensus lists all of them. One that lacks a relay
 * would stand for a whole regular interval, 20 s. Authorities vote at once when they start inside an interval, before any
 * descriptor has reached them: that round has to come to nothing, which it does when its votes can no longer be
 * exchanged; the next one begins `FIRST_VOTING_INTERVAL_S - 2 * FIRST_VOTING_DELAY_S` after the interval's end.
 */
export function untilGoodStartMs(nowMs: number): number {
  const intervalMs = FIRST_VOTING_INTERVAL_S * 1000;
  // dir-spec 1.4: intervals count from midnight; the consensus is computed this long before an interval ends.
  const computeAtMs = intervalMs - FIRST_VOTING_DELAY_S * 1000;
  const sinceMs = (nowMs - computeAtMs - START_MARGIN_MS + 2 * intervalMs) % intervalMs;
  return sinceMs <= START_WINDOW_MS ? 0 : intervalMs - sinceMs;
}

function relaysOf(plan: TestnetPlan): PlannedNode[] {
  return plan.nodes.filter(({ kind }) => kind !== "client");
}

async function makeKeys(
  plan: TestnetPlan,
): Promise<Pick<Boot, "relayKeys" | "authorityKeys" | "authorityLines">> {
  const authorities = plan.nodes.filter(({ kind }) => kind === "authority");
  const [relayKeys, authorityKeys] = await Promise.all([
    Promise.all(relaysOf(plan).map(async ({ name }) => [name, await makeRelayKeys()] as const)),
    Promise.all(
      authorities.map(async ({ name }) => [name, await makeAuthorityKeys(systemClock.now())] as const),
    ),
  ]);
  const relays = new Map(relayKeys);
  const lines = authorityKeys.map(([name, { v3Identity }]) => {
    const node = authorities.find((one) => one.name === name);
    const keys = relays.get(name);
    return node && keys ? authorityLine(node, { fingerprint: keys.fingerprint, v3Identity }) : "";
  });
  return { relayKeys: relays, authorityKeys: new Map(authorityKeys), authorityLines: lines };
}

async function writeFiles({ real, plan, options, relayKeys, authorityKeys }: Boot): Promise<void> {
  await writeFile(join(real, "resolv.conf"), `nameserver ${plan.dnsAddress}\n`);
  const relays = [...relayKeys].map(([name, { fingerprint }]) => ({ name, fingerprint }));
  await writeFile(join(real, "bandwidths"), bandwidthFile(relays, systemClock.now(), options.bandwidths));
  for (const { name } of plan.nodes) {
    const keysDir = join(real, name, "keys");
    await mkdir(keysDir, { recursive: true, mode: 0o700 });
    const write = async (file: string, text: string | undefined) => {
      if (text !== undefined) await writeFile(join(keysDir, file), text, { mode: 0o600 });
    };
    await write("secret_id_key", relayKeys.get(name)?.identityPem);
    await write("authority_signing_key", authorityKeys.get(name)?.signingPem);
    await write("authority_certificate", authorityKeys.get(name)?.certificate);
  }
}

async function startNode(it: Boot, node: PlannedNode): Promise<TorProcess> {
  const dir = join(it.real, node.name);
  return TorProcess.start({
    dir,
    torrc: torrcOf(node, {
      plan: it.plan,
      authorityLines: it.authorityLines,
      dataDir: dir,
      bandwidthPath: join(it.real, "bandwidths"),
      resolverPath: join(it.real, "resolv.conf"),
      socksPath: socksPathOf(dir),
    }),
    detached: it.options.detached ?? false,
    ...(it.options.torPath === undefined ? {} : { torPath: it.options.torPath }),
    signal: it.signal,
  });
}

/** Starts the one process that holds all link proxies, when any link needs one. */
async function startLinks({ real, plan, options, signal }: Boot): Promise<void> {
  const links = relaysOf(plan).flatMap((node): LinkProxyOptions[] => {
    const shape = plan.links[node.name];
    if (!shape || node.orPort === undefined || node.listenPort === undefined) return [];
    return [
      {
        ...shape,
        name: node.name,
        host: node.address,
        port: node.orPort,
        targetPort: node.listenPort,
        tracePath: plan.traced.includes(node.name) ? join(real, `${node.name}.trace`) : undefined,
      },
    ];
  });
  if (links.length === 0) return;
  await writeFile(linksPath(real), JSON.stringify(links), { mode: 0o600 });
  const program = join(import.meta.dirname, "link-proxy-main.ts");
  const errors = await open(join(real, "links.log"), "w", 0o600);
  const child = spawn(
    process.execPath,
    [program, linksPath(real), ...(options.detached ? [] : ["--with-parent"])],
    {
      cwd: real,
      detached: true,
      stdio: [options.detached ? "ignore" : "pipe", "pipe", errors.fd],
    },
  );
  await errors.close();
  const { stdout } = child;
  if (!stdout) throw new BentoError("testnet-links-failed", "Cannot start link proxies: no pipe");
  try {
    await Promise.race([
      once(stdout, "data", { signal }),
      once(child, "exit").then(() => {
        throw new BentoError(
          "testnet-links-failed",
          `Cannot start link proxies: see ${join(real, "links.log")}`,
        );
      }),
    ]);
  } finally {
    // The proxies must not keep this process alive, nor this process hold their pipe.
    stdout.destroy();
    child.unref();
    if (child.stdin && "unref" in child.stdin && typeof child.stdin.unref === "function") child.stdin.unref();
  }
  const identity = await identify(child.pid ?? 0);
  if (identity) await writePidFile(`${linksPath(real)}.pid`, identity);
}

interface Consensus {
  readonly text: string;
  readonly microdescriptors: string;
}

/** Waits until the first authority has a consensus that lists every relay, and takes it with its microdescriptors. */
async function awaitConsensus(it: Boot, relays: readonly TorProcess[]): Promise<Consensus> {
  const first = relays[0];
  if (!first) throw new BentoError("testnet-bad-options", "Cannot start network: no authority");
  await using control = await first.connect({ signal: it.signal });
  let changed = Promise.withResolvers<void>();
  await using _subscription = await control.subscribe(
    ["NEWCONSENSUS"],
    () => {
      changed.resolve();
      changed = Promise.withResolvers();
    },
    { signal: it.signal },
  );
  for (;;) {
    const next = changed.promise;
    const consensus = await readConsensus(control, relays.length, it.signal);
    if (consensus) return consensus;
    await control.during(next, { signal: it.signal });
  }
}

// Sample of the lines counted: "r a0 cMPeFA9BmyBdF7lWj1a+tWXTH+c 2026-11-20 ...", "s Exit Fast Guard HSDir Running .."
async function readConsensus(
  control: ControlClient,
  relays: number,
  signal: AbortSignal,
): Promise<Consensus | undefined> {
  const key = "dir/status-vote/current/consensus-microdesc";
  try {
    const info = await control.getInfo([key, "md/all"], { signal });
    const running = info[key].match(/^s .*\bRunning\b/gmu)?.length ?? 0;
    const described = info["md/all"].match(/^onion-key$/gmu)?.length ?? 0;
    if (running < relays || described < relays) return undefined;
    // The control port leaves the last line end out. To a consensus without it, tor can apply no diff, and goes on with it for ever.
    return { text: `${info[key]}\n`, microdescriptors: info["md/all"] };
  } catch (error) {
    // Before the first vote tor has no such document: 551 or 552.
    if (error instanceof BentoError && error.code === "tor-refused") return undefined;
    throw error;
  }
}

/**
 * Waits until every relay knows the consensus itself: before that it takes no onion descriptors. A relay that asked too
 * early waits up to half a minute before it asks again, unless it is told to reload, which clears its failures.
 */
async function informRelays(it: Boot, relays: readonly TorProcess[]): Promise<void> {
  await Promise.all(
    relays.map(async (relay) => {
      await using control = await relay.connect({ signal: it.signal });
      const done = new AbortController();
      const remind = async () => {
        for (;;) {
          await systemClock.sleep(REMIND_MS, done.signal);
          await control.command("SIGNAL RELOAD", { signal: done.signal });
        }
      };
      const reminding = remind().catch((error: unknown) => {
        if (!done.signal.aborted) throw error;
      });
      try {
        await Promise.race([
          control.awaitBootstrap({ percent: ENOUGH_DIRECTORY_PERCENT, signal: it.signal }),
          reminding,
        ]);
      } finally {
        done.abort();
        await reminding.catch(() => {
          // The race has reported it.
        });
      }
    }),
  );
}

// Tor drops what it read from its cache and does not know to have been listed lately.
function annotated(microdescriptors: string): string {
  const now = new Date(systemClock.now()).toISOString().slice(0, 19).replace("T", " ");
  return `${microdescriptors.replaceAll(/^onion-key$/gmu, `@last-listed ${now}\nonion-key`)}\n`;
}

async function startClients(it: Boot, consensus: Consensus): Promise<void> {
  const certificates = [...it.authorityKeys.values()].map(({ certificate }) => certificate).join("");
  const clients = it.plan.nodes.filter(({ kind }) => kind === "client");
  await Promise.all(
    clients.map(async (node) => {
      const dir = join(it.real, node.name);
      const write = async (file: string, text: string) => writeFile(join(dir, file), text, { mode: 0o600 });
      await write("cached-certs", certificates);
      await write("cached-microdesc-consensus", consensus.text);
      await write("cached-microdescs.new", annotated(consensus.microdescriptors));
      const client = await startNode(it, node);
      await using control = await client.connect({ signal: it.signal });
      await control.awaitBootstrap({ signal: it.signal });
    }),
  );
}

/** Succeeds when bytes have gone to a server here and back, through three relays. */
async function tryStream(it: Boot): Promise<void> {
  const client = it.plan.nodes.find(({ kind }) => kind === "client");
  const hasOpenExit = it.plan.nodes.some(
    ({ kind, extraTorrc }) => kind === "exit" && !extraTorrc.some((line) => /^\s*ExitPolicy\s/iu.test(line)),
  );
  if (client?.socksPort === undefined || !hasOpenExit) return;
  const echo = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    socket.pipe(socket);
  });
  echo.listen(0, it.plan.webAddress);
  await once(echo, "listening");
  const address = echo.address();
  const port = typeof address === "object" ? (address?.port ?? 0) : 0;
  try {
    for (let attempt = 0; ; attempt++) {
      try {
        const stream = await socksConnect({
          proxy: { host: client.address, port: client.socksPort },
          host: it.plan.webAddress,
          port,
          isolation: { username: "testnet", password: String(attempt) },
          optimisticData: Buffer.from("x"),
          signal: it.signal,
        });
        try {
          await once(stream, "data", { signal: it.signal });
          return;
        } finally {
          stream.on("error", () => {
            // The stream has served its purpose.
          });
          stream.destroy();
        }
      } catch {
        // Which error does not matter while there is time: relays may still be learning about each other.
        it.signal.throwIfAborted();
        await systemClock.sleep(RETRY_MS, it.signal);
      }
    }
  } finally {
    echo.close();
  }
}
