// A box as a child process with everything real, for tests that look at it from outside: its clients, its processes,
// what it leaves on this machine. Needs root.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { NODE_ARGUMENTS } from "../../src/bin/node-arguments.ts";
import { BoxClient } from "./box-client.ts";

const SCRIPT = fileURLToPath(new URL("./box-process.ts", import.meta.url));

/** User ids of a box's functions: each test file has its own. */
export interface Uids {
  readonly first: number;
  readonly count: number;
}

export interface SpawnedBoxOptions {
  readonly uids: Uids;
  /** Further sections of box.toml, `[box]` and `[sandbox]` excepted. */
  readonly toml?: string;
}

/** Starts the process; `SpawnedBox.start` waits until it serves. */
export function spawnBox(dataDir: string, { uids, toml = "" }: SpawnedBoxOptions): ChildProcess {
  const last = uids.first + uids.count - 1;
  const args = [...NODE_ARGUMENTS, SCRIPT, dataDir, `${uids.first}-${last}`, toml];
  return spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
}

export class SpawnedBox implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly client: BoxClient;
  readonly legacyPort: number;

  readonly #written: { readonly log: string };

  private constructor(child: ChildProcess, client: BoxClient, legacyPort: number, written: { log: string }) {
    this.#written = written;
    this.child = child;
    this.client = client;
    this.legacyPort = legacyPort;
  }

  static async start(dataDir: string, options: SpawnedBoxOptions): Promise<SpawnedBox> {
    const child = spawnBox(dataDir, options);
    const box = { log: "" };
    child.stderr?.on("data", (chunk: Buffer) => {
      box.log = (box.log + chunk.toString()).slice(-100_000);
    });
    for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
      const { port, legacyPort } = JSON.parse(line) as { port: number; legacyPort: number };
      return new SpawnedBox(child, new BoxClient(port), legacyPort, box);
    }
    throw new Error(`the box does not start: ${box.log}`);
  }

  /** The end of what it logged so far, at every level. */
  get log(): string {
    return this.#written.log;
  }

  async end(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    const exited = once(this.child, "exit");
    this.child.kill(signal);
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child.exitCode === null && this.child.signalCode === null) await this.end("SIGTERM");
  }
}

/** Live processes with these user ids, as `4711 bwrap`: whatever they are, in a control group or not. */
export async function processesOf({ first, count }: Uids): Promise<string[]> {
  const found: string[] = [];
  for (const pid of await readdir("/proc")) {
    if (!/^\d+$/.test(pid)) continue;
    const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => ""); // ended meanwhile
    const uid = Number(/^Uid:\t(\d+)/m.exec(status)?.[1] ?? -1);
    // Not those that are dead already and wait for whatever is process 1 here.
    if (uid < first || uid >= first + count || /^State:\t[ZX]/m.test(status)) continue;
    found.push(`${pid} ${/^Name:\t(.*)/m.exec(status)?.[1]}`);
  }
  return found;
}
