// Boxes beside the exits of a private Tor network, reached at their onion services, whose processes tests kill, start
// again and hold still. What a client sees of that is what it sees of a real box: nothing but its circuits.

import { spawn } from "node:child_process";
import { mkdtemp, open, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  type NetworkOptions,
  type RunningBox,
  startNetwork,
  stopNetwork,
} from "../../src/bin/local-network.ts";
import { NODE_ARGUMENTS } from "../../src/bin/node-arguments.ts";
import { BoxClient, directDial, torDial } from "../../src/client/client.ts";
import type { Testnet } from "../../src/testnet/testnet.ts";
import { identify, isAlive, type ProcessIdentity, readPidFile, writePidFile } from "../../src/tor/process.ts";
import { COMMAND_MS, endInput, type Finished, finished, startBento } from "./bento-command.ts";

const MAIN = fileURLToPath(new URL("../../src/bin/bento.ts", import.meta.url));
const STARTED_MS = 60_000;
const POLL_MS = 50;

export interface RunningCommand {
  readonly finished: Promise<Finished>;
  /** Resolves when standard output or standard error holds it; fails when the command ends without. */
  says(pattern: RegExp): Promise<void>;
}

export class TorBoxes implements AsyncDisposable {
  /** Empty but for what tests put there; also the home of commands. */
  readonly home: string;
  readonly testnet: Testnet;
  readonly boxes: readonly RunningBox[];
  readonly #netDir: string;
  readonly #stalled: AsyncDisposable[] = [];

  private constructor(home: string, netDir: string, testnet: Testnet, boxes: readonly RunningBox[]) {
    this.home = home;
    this.#netDir = netDir;
    this.testnet = testnet;
    this.boxes = boxes;
  }

  static async start(options: Pick<NetworkOptions, "boxes" | "boxToml">): Promise<TorBoxes> {
    const home = await mkdtemp(join(tmpdir(), "bento-failures-"));
    const netDir = join(home, "net");
    const { testnet, boxes } = await startNetwork({ ...options, dir: netDir, detached: false });
    return new TorBoxes(home, netDir, testnet, boxes);
  }

  /** The onion address of a box. */
  address(index: number): string {
    return this.#box(index).address;
  }

  /** Through Tor, over circuits that nobody else uses. */
  client(index: number): BoxClient {
    return new BoxClient({ address: this.address(index), dial: torDial(this.testnet.socks()) });
  }

  /** `bento ...` with a state folder of its own. Give it `...at(index)` to reach a box. */
  bento(...args: readonly string[]): RunningCommand {
    const child = startBento(this.home, args);
    endInput(child);
    const all = finished(child);
    const said = { out: "", err: "" };
    const heard = new EventTarget();
    const hear = (part: keyof typeof said) => (text: string) => {
      said[part] += text;
      heard.dispatchEvent(new Event("text"));
    };
    child.stdout.on("data", hear("out"));
    child.stderr.on("data", hear("err"));
    const says = (pattern: RegExp) =>
      new Promise<void>((resolve, reject) => {
        const look = () => {
          if (pattern.test(said.out) || pattern.test(said.err)) resolve();
        };
        heard.addEventListener("text", look);
        look();
        all.then(() => reject(new Error(`it never said ${pattern}: ${said.out}${said.err}`)), reject);
      });
    return { finished: all, says };
  }

  /** Options of a command that reach these boxes. */
  at(...indices: readonly number[]): string[] {
    const { host, port } = this.testnet.socksTcp();
    return ["--socks", `${host}:${port}`, ...indices.flatMap((index) => ["--box", this.address(index)])];
  }

  /** SIGKILL to the box, and to its tors too when the machine is what dies. Tors that are left would end by themselves. */
  async kill(index: number, what: "box" | "machine" = "box"): Promise<void> {
    const box = await this.#process(index);
    if (what === "machine") await this.#killTors(index);
    await killAtOnce(box);
  }

  /** Starts a killed box as systemd does, what was left of it gone. Resolves when its onion service is published. */
  async restart(index: number): Promise<void> {
    await this.#killTors(index);
    const dir = this.#dir(index);
    const log = await open(join(dir, "box.log"), "a");
    const args = [...NODE_ARGUMENTS, MAIN, "box", "serve", "--while-stdin"];
    const child = spawn(process.execPath, [...args, "--config", join(dir, "box.toml")], {
      cwd: dir,
      stdio: ["pipe", log.fd, log.fd],
    });
    await log.close();
    child.unref();
    (child.stdin as { unref?: () => void }).unref?.();
    const identity = await identify(child.pid ?? 0);
    if (identity) await writePidFile(join(dir, "pid"), identity);
    using client = new BoxClient({ address: this.#box(index).direct ?? "", dial: directDial });
    const signal = AbortSignal.timeout(STARTED_MS);
    while (!(await client.info({ signal }).catch(() => undefined))?.onion) {
      signal.throwIfAborted();
      await pause();
    }
  }

  /** Holds box and tor of it still until the scope ends: circuits stay open, nothing moves. */
  async stall(index: number): Promise<AsyncDisposable> {
    const held = [await this.#process(index), await this.#tor(index)];
    for (const { pid } of held) process.kill(pid, "SIGSTOP");
    const stalled = {
      async [Symbol.asyncDispose]() {
        for (const one of held) if (await isAlive(one)) process.kill(one.pid, "SIGCONT");
      },
    };
    this.#stalled.push(stalled);
    return stalled;
  }

  /** Resolves when functions at a box have stored so many bytes more than when this was called. */
  async storesMore(index: number, bytes: number): Promise<void> {
    const deadline = AbortSignal.timeout(COMMAND_MS);
    const before = await this.#storedBytes(index);
    while ((await this.#storedBytes(index)) < before + bytes) {
      deadline.throwIfAborted();
      await pause(5);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What a failed test holds still could not end.
    for (const stalled of this.#stalled) await stalled[Symbol.asyncDispose]();
    await stopNetwork(this.#netDir);
    await rm(this.home, { recursive: true, force: true });
  }

  #box(index: number): RunningBox {
    const box = this.boxes[index];
    if (!box) throw new RangeError(`there is no box ${index}`);
    return box;
  }

  #dir(index: number): string {
    return join(this.#netDir, "boxes", this.#box(index).name);
  }

  async #storedBytes(index: number): Promise<number> {
    const dir = join(this.#dir(index), "data/storage");
    const names = await readdir(dir, { recursive: true }).catch(() => []);
    const sizes = names.map((name) =>
      // Values are removed meanwhile.
      stat(join(dir, name)).then(
        (one) => (one.isFile() ? one.size : 0),
        () => 0,
      ),
    );
    return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
  }

  async #process(index: number): Promise<ProcessIdentity> {
    const identity = await readPidFile(join(this.#dir(index), "pid"));
    if (!identity || !(await isAlive(identity))) throw new Error(`box ${index} does not run`);
    return identity;
  }

  async #killTors(index: number): Promise<void> {
    for (const name of ["onion", "client-tor"]) {
      const tor = await readPidFile(join(this.#dir(index), "data", name, "pid"));
      if (tor && (await isAlive(tor))) await killAtOnce(tor);
    }
  }

  async #tor(index: number): Promise<ProcessIdentity> {
    const identity = await readPidFile(join(this.#dir(index), "data/onion/pid"));
    if (!identity || !(await isAlive(identity))) throw new Error(`box ${index} has no onion service`);
    return identity;
  }
}

async function killAtOnce(identity: ProcessIdentity): Promise<void> {
  process.kill(identity.pid, "SIGKILL");
  while (await isAlive(identity)) await pause();
}

function pause(durationMs = POLL_MS): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, durationMs));
}
