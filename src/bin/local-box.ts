// A box for an author's own machine, as `bento fn dev` and `bento fn test` use it: the real box in the real sandbox,
// without Tor, on a loopback address of its own. What a relay's exit policy would decide is given here; private
// addresses stay refused unless the author names them. It ends with this process, however that ends.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { systemClock } from "../base/clock.ts";
import { BentoError } from "../base/errors.ts";
import { BoxClient, directDial } from "../client/client.ts";
import { NODE_ARGUMENTS } from "./node-arguments.ts";

const BENTO = fileURLToPath(new URL("./bento.ts", import.meta.url));
const PORT = 5005;
const READY_MS = 60_000;
/** Time for the box to end its instances before it is killed. */
const STOP_MS = 10_000;
const LOG_TAIL_CHARS = 2000;
/** Boxes at once have user ids of their own for their functions, most likely. */
const UIDS_EACH = 100;
const UID_FIRST = 40_000;
const UID_BLOCKS = 200;
const ADDRESS_TRIES = 20;

export interface LocalBoxOptions {
  /** Networks in CIDR form that functions may reach although they are private. */
  readonly privateNetworks?: readonly string[];
  /** Functions of the image deno have an inspector (InspectorBridge); those must be granted `loopback`. */
  readonly inspector?: boolean;
  readonly signal?: AbortSignal | undefined;
}

export class LocalBox implements AsyncDisposable {
  /** host:port, reachable without Tor from this machine alone. */
  readonly address: string;
  readonly #child: ChildProcess;
  readonly #dir: string;
  readonly #removeAtExit: () => void;

  private constructor(address: string, child: ChildProcess, dir: string, removeAtExit: () => void) {
    this.#removeAtExit = removeAtExit;
    this.address = address;
    this.#child = child;
    this.#dir = dir;
  }

  /** Resolves when it serves, in about a second. Throws "box-failed" with what the box said. */
  static async start(options: LocalBoxOptions = {}): Promise<LocalBox> {
    const dir = await mkdtemp(path.join(tmpdir(), "bento-box-"));
    const removeAtExit = () => removeNow(dir);
    process.once("exit", removeAtExit);
    let child: ChildProcess | undefined;
    try {
      const address = `${await freeAddress()}:${PORT}`;
      const config = path.join(dir, "box.toml");
      await writeFile(config, configOf(dir, address, options));
      child = spawnBox(dir, config, options.inspector ?? false);
      await ready(child, address, options.signal);
      return new LocalBox(address, child, dir, removeAtExit);
    } catch (error) {
      if (child) await ended(child);
      await rm(dir, { recursive: true, force: true });
      process.off("exit", removeAtExit);
      throw error;
    }
  }

  /** Of the box's own process. */
  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Ends its instances, its processes, and removes its files. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    await ended(this.#child);
    await rm(this.#dir, { recursive: true, force: true });
    process.off("exit", this.#removeAtExit);
  }
}

/** For an exit that waits for nothing: a second Ctrl-C, or nobody who reads our output. The box ends by itself. */
function removeNow(dir: string): void {
  try {
    rmSync(dir, { recursive: true, force: true, maxRetries: 3 });
  } catch {
    // The box writes there until it has noticed that we are gone; nothing more can be done now.
  }
}

function configOf(dir: string, address: string, options: LocalBoxOptions): string {
  const uidFirst = UID_FIRST + (process.pid % UID_BLOCKS) * UIDS_EACH;
  return `[box]
name = "local"
data_dir = ${JSON.stringify(path.join(dir, "data"))}
listen = ["${address}"]
[onion]
mode = "none"
[policy]
box = ["load", "memory", "instances", "limits"]
[policy.net]
private_networks_allowed = ${JSON.stringify(options.privateNetworks ?? [])}
[policy.total]
instances = ${UIDS_EACH - 20}
[warm]
deno = ${options.inspector ? 0 : 1}
python = 1
[sandbox]
uids = "${uidFirst}-${uidFirst + UIDS_EACH - 1}"
`;
}

/** All of 127.0.0.0/8 is this machine: an address nobody else uses needs no luck with ports. */
export async function freeAddress(): Promise<string> {
  const byte = () => 1 + Math.floor(Math.random() * 253);
  for (let tries = 0; tries < ADDRESS_TRIES; tries++) {
    const host = `127.${byte()}.${byte()}.${byte()}`;
    const server = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen({ host, port: PORT }, () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((resolve) => server.close(resolve));
    return host;
  }
  throw new BentoError("cannot-listen", "Cannot start a box: no free loopback address");
}

function spawnBox(dir: string, config: string, hasInspector: boolean): ChildProcess {
  const args = [...NODE_ARGUMENTS, BENTO, "box", "serve", "--config", config];
  const more = ["--while-stdin", "--json", "--log", "warn", "--exit-without-relay", "accept *:*"];
  return spawn(process.execPath, [...args, ...more, ...(hasInspector ? ["--inspector"] : [])], {
    cwd: dir,
    // A process group of its own: Ctrl-C is for us, who first shut functions down. It ends when the pipe to it does.
    detached: true,
    stdio: ["pipe", "pipe", "pipe"],
  });
}

/** A box that serves and cannot start functions is of no use here. */
async function ready(child: ChildProcess, address: string, signal: AbortSignal | undefined): Promise<void> {
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    said = (said + text).slice(-LOG_TAIL_CHARS);
  });
  const started = Promise.withResolvers<void>();
  createInterface({ input: child.stdout as NodeJS.ReadableStream }).once("line", () => started.resolve());
  const failure = (what: string) =>
    new BentoError(
      "box-failed",
      `Cannot start a box: ${what}${said.trim() ? `; it says: ${said.trim()}` : ""}`,
      {
        advice: "`bento doctor` says what this machine lacks.",
      },
    );
  child.once("error", (error) => started.reject(failure(error.message)));
  child.once("exit", () => started.reject(failure("it ended")));
  const onAbort = () => started.reject(signal?.reason);
  signal?.addEventListener("abort", onAbort, { once: true });
  const cancel = systemClock.after(READY_MS, () =>
    started.reject(failure(`not ready after ${READY_MS / 1000} s`)),
  );
  try {
    signal?.throwIfAborted();
    await started.promise;
    using client = new BoxClient({ address, dial: directDial });
    if (!(await client.info({ signal })).accepting) throw failure("it cannot start functions here");
  } finally {
    cancel();
    signal?.removeEventListener("abort", onAbort);
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.stdin?.end();
  const cancel = systemClock.after(STOP_MS, () => child.kill("SIGKILL"));
  await exited;
  cancel();
}
