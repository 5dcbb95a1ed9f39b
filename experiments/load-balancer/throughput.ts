// One replica of ours against C tor's own onion service when nothing but the processor limits them: the same bytes by the
// same unmodified client, in turn, in one network without delay. And src/onion alone in a process, to tell what the
// library costs from what box and sandbox add.

import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { BentoError } from "../../src/base/errors.ts";
import { median } from "../../src/bin/bench/benchmark.ts";
import { descendants } from "../../src/bin/bench/support/memory.ts";
import { type BenchNetwork, startHelper } from "./bench-network.ts";
import { awaitService } from "./downloads.ts";
import { round } from "./figures.ts";
import { LoadBalancer } from "./load-balancer.ts";
import type { OwnServiceOptions } from "./own-service.ts";
import { startTorService } from "./tor-service.ts";

export interface PartOptions {
  readonly bench: BenchNetwork;
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
}

interface Way {
  readonly address: string;
  readonly path: string;
  /** Its processes, whose processor time is counted. */
  readonly pids: () => Promise<readonly number[]>;
}

const WARM_UP = 1;

export async function throughput(options: PartOptions & { readonly rounds: number; readonly bytes: number }) {
  const { bench, rounds, bytes, say, signal } = options;
  const { net, dir, target } = bench;
  const { testnet } = net;
  const [box] = net.boxes;
  if (!box?.fingerprint) throw new BentoError("benchmark-failed", "Cannot measure: the network has no box");
  const guard = testnet.node("e0");
  await using tor = await startTorService({
    dir: path.join(dir, "throughput-tor"),
    testnet,
    guard,
    target,
    signal,
  });
  const a0 = testnet.node("a0");
  const ownOptions: OwnServiceOptions = {
    authorityLines: testnet.authorityLines,
    authority: { host: a0.address, port: a0.orPort ?? 0, fingerprint: a0.fingerprint },
    firstHop: guard.fingerprint,
    target,
  };
  const own = await startHelper("own-service.ts", [JSON.stringify(ownOptions)]);
  await using undo = new AsyncDisposableStack();
  undo.defer(() => own.end());
  await using balancer = await LoadBalancer.start({
    boxes: [box],
    scale: { replicasMin: 1, replicasMax: 1, high: {}, low: {}, choice: "least-loaded" },
    siteBytes: bytes,
    signal,
  });
  const boxPid = Number((await readFile(path.join(dir, "boxes", box.name, "pid"), "utf8")).split(" ")[0]);
  const ways: Readonly<Record<string, Way>> = {
    tor: { address: tor.address, path: `/${bytes}`, pids: async () => [tor.process.identity.pid] },
    library: { address: own.said, path: `/${bytes}`, pids: async () => [own.child.pid ?? 0] },
    replica: {
      address: balancer.address,
      path: "/site",
      pids: async () => [boxPid, ...(await descendants(boxPid)).map(({ pid }) => pid)],
    },
  };
  const socks = testnet.socksTcp();
  for (const { address } of Object.values(ways)) await awaitService(socks, address, signal);
  const taken = Object.fromEntries(
    Object.keys(ways).map((name) => [name, { mbps: [] as number[], cpuMs: [] as number[] }]),
  );
  for (let turn = 0; turn < WARM_UP + rounds; turn++) {
    for (const [name, way] of Object.entries(ways)) {
      signal.throwIfAborted();
      const before = await cpuMs(await way.pids());
      const speed = await download(socks, way, bytes);
      const cpu = (await cpuMs(await way.pids())) - before;
      say(
        `throughput: ${name} ${speed.toFixed(2)} MB/s, ${((cpu * 1e6) / bytes).toFixed(0)} ms of processor each MB`,
      );
      if (turn < WARM_UP) continue;
      taken[name]?.mbps.push(speed);
      taken[name]?.cpuMs.push((cpu * 1e6) / bytes);
    }
  }
  const of = (name: string) => median(taken[name]?.mbps ?? []);
  return {
    bytes,
    rounds,
    MBs: Object.fromEntries(Object.keys(ways).map((name) => [name, round(of(name), 2)])),
    cpuMsPerMB: Object.fromEntries(
      Object.keys(ways).map((name) => [name, round(median(taken[name]?.cpuMs ?? []), 1)]),
    ),
    replicaPercentOfTor: round((100 * of("replica")) / of("tor")),
    onionLibraryPercentOfTor: round((100 * of("library")) / of("tor")),
  };
}

/** MB/s from the first byte on, by curl over the tor client, on circuits of its own. */
async function download(
  socks: { readonly host: string; readonly port: number },
  way: Way,
  bytes: number,
): Promise<number> {
  const { stdout } = await promisify(execFile)("curl", [
    "-sS",
    "--fail",
    "--max-time",
    "120",
    "-o",
    "/dev/null",
    "--socks5-hostname",
    `${crypto.randomUUID()}:x@${socks.host}:${socks.port}`,
    "-w",
    "%{size_download} %{time_starttransfer} %{time_total}",
    `http://${way.address}${way.path}`,
  ]);
  const [got = 0, first = 0, total = 0] = stdout.split(" ").map(Number);
  if (got !== bytes)
    throw new BentoError("benchmark-failed", `Cannot measure: ${got} bytes came, ${bytes} wanted`);
  return bytes / (total - first) / 1e6;
}

// Sample of /proc/PID/stat: "4711 (tor) S 1 ... 1234 567 ..."; fields 14 and 15 are user and system time in ticks of 10 ms.
async function cpuMs(pids: readonly number[]): Promise<number> {
  let sum = 0;
  for (const pid of pids) {
    const stat = await readFile(`/proc/${pid}/stat`, "latin1").catch(() => "");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    sum += 10 * (Number(fields[11] ?? 0) + Number(fields[12] ?? 0));
  }
  return sum;
}
