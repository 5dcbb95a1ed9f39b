// A box in a process of its own for benchmarks: what is measured is a box as operators run it, not one that shares
// its event loop with the client. It ends with the channel to us, whatever ends us, and leaves nothing behind.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { BentoError } from "../../../base/errors.ts";
import { BoxClient, directDial } from "../../../client/client.ts";
import { NODE_ARGUMENTS } from "../../node-arguments.ts";
import { readMemory } from "./memory.ts";

const MAIN = fileURLToPath(new URL("./box-main.ts", import.meta.url));

export interface BoxMemory {
  /** After a collection of garbage. */
  readonly heapBytes: number;
  /** Buffers and the databases' memory outside of the heap. */
  readonly externalBytes: number;
  /** Proportional share of what the process holds in memory. */
  readonly pssBytes: number;
}

/** What box-main answers. */
export type BoxAnswer =
  | { readonly kind: "ready"; readonly port: number }
  | { readonly kind: "failed"; readonly message: string }
  | { readonly kind: "warm" }
  | { readonly kind: "memory"; readonly heapBytes: number; readonly externalBytes: number };
export type BoxQuestion = "warm" | "memory";

export interface BenchBoxOptions {
  /** box.toml, without data_dir, listen and onion: there is none. */
  readonly toml?: string;
}

export class BenchBox implements AsyncDisposable {
  /** host:port. */
  readonly address: string;
  readonly dir: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, dir: string, port: number) {
    this.#child = child;
    this.dir = dir;
    this.address = `127.0.0.1:${port}`;
  }

  static async start(options: BenchBoxOptions = {}): Promise<BenchBox> {
    const dir = await mkdtemp(path.join(tmpdir(), "bento-bench-"));
    const child = fork(MAIN, [dir, `[onion]\nmode = "none"\n${options.toml ?? ""}`], {
      execArgv: [...NODE_ARGUMENTS, "--expose-gc"],
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    try {
      const ready = await answer(child, "ready");
      return new BenchBox(child, dir, ready.port);
    } catch (error) {
      await end(child, dir);
      throw error;
    }
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** A client of its own, without Tor. Dispose it. */
  client(): BoxClient {
    return new BoxClient({ address: this.address, dial: directDial });
  }

  /** Resolves when the warm pools are full. */
  async warmedUp(): Promise<void> {
    this.#child.send("warm" satisfies BoxQuestion);
    await answer(this.#child, "warm");
  }

  async memory(): Promise<BoxMemory> {
    this.#child.send("memory" satisfies BoxQuestion);
    const { heapBytes, externalBytes } = await answer(this.#child, "memory");
    return { heapBytes, externalBytes, pssBytes: (await readMemory(this.pid)).pssBytes };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await end(this.#child, this.dir);
  }
}

async function answer<K extends BoxAnswer["kind"]>(
  child: ChildProcess,
  kind: K,
): Promise<Extract<BoxAnswer, { kind: K }>> {
  const settled = new AbortController();
  const exited = once(child, "exit", { signal: settled.signal }).then(() => {
    throw new BentoError("box-failed", `Cannot measure: the box ended with code ${child.exitCode}`);
  });
  try {
    for (;;) {
      const message = once(child, "message", { signal: settled.signal });
      const [given] = (await Promise.race([message, exited])) as [BoxAnswer];
      if (given.kind === kind) return given as Extract<BoxAnswer, { kind: K }>;
      if (given.kind === "failed") {
        throw new BentoError("box-failed", `Cannot measure: ${given.message}`, {
          advice: "`bento doctor` says what is missing.",
        });
      }
    }
  } finally {
    settled.abort();
    exited.catch(() => undefined);
  }
}

async function end(child: ChildProcess, dir: string): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const exited = once(child, "exit");
    if (child.connected) child.disconnect();
    await exited;
  }
  await rm(dir, { recursive: true, force: true });
}
