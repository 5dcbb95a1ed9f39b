// A private Tor network of unmodified tor daemons on loopback: authorities, relays, exits, clients, and links with
// delay and rate. Nothing in it can reach, or be reached from, another machine.
// As a library: `await using net = await Testnet.up({ dir })`. For the command line: `detached`, then `attach`.

import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { BentoError, systemCode } from "../base/errors.ts";
import { ControlClient } from "../tor/control-client.ts";
import { identify, isAlive, readPidFile } from "../tor/process.ts";
import type { SocksAddress } from "../tor/socks.ts";
import { type BootOptions, type BootPhase, boot } from "./boot.ts";
import {
  cleanDir,
  linksPath,
  lockDir,
  type NetworkState,
  prepareDir,
  readState,
  socksPathOf,
} from "./network-dir.ts";
import type { NodeKind, PlannedNode, TestnetPlan } from "./plan.ts";

export interface TestnetNode extends PlannedNode {
  /** 40 upper-case hex digits; "" for clients. */
  readonly fingerprint: string;
  /** Holds torrc, stdout.log, control-cookie, pid. */
  readonly dir: string;
}

export interface NodeStatus {
  readonly name: string;
  /** "links" is the process of the link proxies. */
  readonly role: NodeKind | "links";
  /** undefined: not running. */
  readonly pid: number | undefined;
  readonly rssBytes: number;
  /** Percent. */
  readonly bootstrap: number;
}

export interface TestnetOptions extends BootOptions {
  /** Made when absent (mode 700); empty, or of an earlier network, which is cleaned up first. */
  readonly dir: string;
}

export class Testnet implements AsyncDisposable {
  readonly dir: string;
  readonly plan: TestnetPlan;
  readonly authorityLines: readonly string[];
  readonly #fingerprints: Readonly<Record<string, string>>;

  private constructor(dir: string, state: Pick<NetworkState, "plan" | "fingerprints" | "authorityLines">) {
    this.dir = dir;
    this.plan = state.plan;
    this.authorityLines = state.authorityLines;
    this.#fingerprints = state.fingerprints;
  }

  /**
   * Starts a network and resolves when a stream through three relays has worked. When it throws, or is aborted, nothing
   * is left running. Throws BentoError `tor-missing`, `testnet-busy`, `testnet-timeout` and others, each with advice.
   */
  static async up(options: TestnetOptions): Promise<Testnet> {
    options.signal?.throwIfAborted();
    const real = await prepareDir(options.dir);
    await using _lock = await lockDir(real);
    await cleanDir(real);
    try {
      return new Testnet(real, await boot(real, options));
    } catch (error) {
      await cleanDir(real);
      throw error;
    }
  }

  /** The running network in `dir`. Throws BentoError `testnet-not-up`. */
  static async attach(dir: string): Promise<Testnet> {
    const state = await readState(dir);
    if (state?.phase !== "up")
      throw new BentoError("testnet-not-up", `Cannot use network at ${dir}: no network is up there`, {
        advice: "Start one: `bento net up`.",
      });
    return new Testnet(resolve(dir), state);
  }

  /** Ends every process of the network in `dir`, also of one that never came up, and removes its files. Idempotent. */
  static async down(dir: string): Promise<void> {
    let real: string;
    try {
      real = await prepareDir(dir);
    } catch (error) {
      // A directory that holds other files holds no network.
      if (error instanceof BentoError && error.code === "testnet-dir-in-use") return;
      throw error;
    }
    await using _lock = await lockDir(real);
    await cleanDir(real);
  }

  get nodes(): readonly TestnetNode[] {
    return this.plan.nodes.map((node) => ({
      ...node,
      fingerprint: this.#fingerprints[node.name] ?? "",
      dir: join(this.dir, node.name),
    }));
  }

  /** By name (a0.., r0.., e0.., c0..). Throws BentoError `testnet-bad-options`. */
  node(name: string): TestnetNode {
    const node = this.nodes.find((one) => one.name === name);
    if (!node) throw new BentoError("testnet-bad-options", `Cannot find node: the network has no "${name}"`);
    return node;
  }

  get exits(): readonly TestnetNode[] {
    return this.nodes.filter(({ kind }) => kind === "exit");
  }

  /** Where a client takes SOCKS connections fastest: a Unix socket, or TCP where the directory's path is too long. */
  socks(client = "c0"): SocksAddress {
    const { dir } = this.node(client);
    const tcp = this.socksTcp(client);
    const path = socksPathOf(dir);
    return path === undefined ? tcp : { path };
  }

  /** Where a client takes SOCKS connections over TCP, for other programs. */
  socksTcp(client = "c0"): { readonly host: string; readonly port: number } {
    const node = this.node(client);
    if (node.socksPort === undefined)
      throw new BentoError("testnet-bad-options", `Cannot use SOCKS: "${client}" is no client`);
    return { host: node.address, port: node.socksPort };
  }

  /** Where a node's control port listens; it takes cookies. */
  async controlAddress(name: string): Promise<{ readonly host: string; readonly port: number }> {
    const text = await readFile(join(this.node(name).dir, "control-port"), "utf8");
    const match = /^PORT=([0-9.]+):([0-9]+)\n/mu.exec(text);
    if (!match) throw new BentoError("testnet-not-up", `Cannot use network: ${name} has no control port`);
    return { host: match[1] ?? "", port: Number(match[2]) };
  }

  async control(
    name: string,
    options: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<ControlClient> {
    return ControlClient.connect(await this.controlAddress(name), options);
  }

  /** Torrc lines that make another tor (a box's own, for instance) part of this network. */
  get joinTorrc(): readonly string[] {
    return [
      "TestingTorNetwork 1",
      ...this.authorityLines,
      "VanguardsLiteEnabled 0",
      "Schedulers Vanilla",
      "AddressDisableIPv6 1",
      "PathsNeededToBuildCircuits 0.67",
      "ShutdownWaitLength 0",
    ];
  }

  /** One line per process, running or not. */
  async status(): Promise<NodeStatus[]> {
    const daemons = this.nodes.map(async (node): Promise<NodeStatus> => {
      const identity = await readPidFile(join(node.dir, "pid"));
      if (!identity || !(await isAlive(identity)))
        return { name: node.name, role: node.kind, pid: undefined, rssBytes: 0, bootstrap: 0 };
      return {
        name: node.name,
        role: node.kind,
        pid: identity.pid,
        rssBytes: await rssBytesOf(identity.pid),
        bootstrap: await this.#bootstrapOf(node.name),
      };
    });
    const links = await readPidFile(`${linksPath(this.dir)}.pid`);
    const isProxied = links !== undefined && (await identify(links.pid))?.startTime === links.startTime;
    return [
      ...(await Promise.all(daemons)),
      ...(links
        ? [
            {
              name: "links",
              role: "links" as const,
              pid: isProxied ? links.pid : undefined,
              rssBytes: isProxied ? await rssBytesOf(links.pid) : 0,
              bootstrap: isProxied ? 100 : 0,
            },
          ]
        : []),
    ];
  }

  /** As the static `down`. */
  async down(): Promise<void> {
    await Testnet.down(this.dir);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }

  async #bootstrapOf(name: string): Promise<number> {
    try {
      await using control = await this.control(name, { signal: AbortSignal.timeout(2000) });
      const info = await control.getInfo(["status/bootstrap-phase"], { signal: AbortSignal.timeout(2000) });
      return Number(/PROGRESS=([0-9]+)/u.exec(info["status/bootstrap-phase"])?.[1] ?? 0);
    } catch {
      // It may be ending or stuck just now: that is a status too.
      return 0;
    }
  }
}

// Sample of /proc/PID/status: "VmRSS:	   35120 kB"
async function rssBytesOf(pid: number): Promise<number> {
  const text = await readFile(`/proc/${String(pid)}/status`, "utf8").catch((error: unknown) => {
    if (systemCode(error) === "ENOENT" || systemCode(error) === "ESRCH") return "";
    throw error;
  });
  return Number(/^VmRSS:\s+([0-9]+) kB$/mu.exec(text)?.[1] ?? 0) * 1024;
}

export type { BootPhase };
