// Tor daemons as child processes: started from a torrc we write, watched until their control port answers, and stopped
// so that nothing else can be hit: a process is always named by its pid and its start time together.
// Trusts the files in its own directory (mode 700) and /proc.

import { type ChildProcess, spawn } from "node:child_process";
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Clock, systemClock } from "../base/clock.ts";
import { BentoError, messageOf, systemCode } from "../base/errors.ts";
import { ControlClient } from "./control-client.ts";

/** A process that cannot be mistaken for a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks since boot, as text. */
  readonly startTime: string;
}

/** How long a daemon may take to end by itself before it is killed. Ours have ShutdownWaitLength 0. */
const STOP_GRACE_MS = 3000;
/** Files and /proc give no notice of a change: how often they are looked at. */
const POLL_MS = 15;
/** Of what a dead daemon said, the end is kept for the error. */
const COMPLAINT_LENGTH_MAX = 600;

/** The identity of a live process, undefined when there is none (a zombie counts as none). */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${String(pid)}/stat`, "latin1");
  } catch (error) {
    if (systemCode(error) === "ENOENT" || systemCode(error) === "ESRCH") return undefined;
    throw error;
  }
  // Sample: 4711 (tor) S 1 4711 ...; the name may contain anything, so fields are counted from the last ")".
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const startTime = fields[19];
  if (startTime === undefined || fields[0] === "Z" || fields[0] === "X") return undefined;
  return { pid, startTime };
}

export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  return (await identify(identity.pid))?.startTime === identity.startTime;
}

/** Ends a process: SIGINT, a grace, SIGKILL; resolves when it is gone. Does nothing when it is gone already. */
export async function terminate(
  identity: ProcessIdentity,
  options: { readonly graceMs?: number; readonly clock?: Clock } = {},
): Promise<void> {
  const clock = options.clock ?? systemClock;
  const killAt = clock.now() + (options.graceMs ?? STOP_GRACE_MS);
  let signal: "SIGINT" | "SIGKILL" | undefined = "SIGINT";
  while (await isAlive(identity)) {
    if (signal !== undefined) {
      try {
        process.kill(identity.pid, signal);
      } catch (error) {
        if (systemCode(error) !== "ESRCH") throw error;
      }
      signal = undefined;
    }
    await clock.sleep(POLL_MS);
    if (clock.now() >= killAt) signal = "SIGKILL";
  }
}

/** Live processes that have `argument` as one whole argument: finds what a killed parent could not write down. */
export async function findByArgument(argument: string): Promise<ProcessIdentity[]> {
  const found: ProcessIdentity[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^[0-9]+$/u.test(entry)) continue;
    const identity = await identify(Number(entry));
    if (!identity) continue;
    const argv = await readFile(`/proc/${entry}/cmdline`, "utf8").catch(() => "");
    // Read after the identity: had the pid changed hands in between, `terminate` would see another start time.
    if (argv.split("\0").includes(argument)) found.push(identity);
  }
  return found;
}

export interface TorProcessOptions {
  /** Made when absent, mode 700. Holds torrc, pid, control-port, stdout.log; torrc may put DataDirectory here too. */
  readonly dir: string;
  /** The torrc without ControlPort lines; unless `controlPort` is given, the port is chosen by the system. */
  readonly torrc: string;
  /** `host:port` for the control port. */
  readonly controlPort?: string;
  /** True: the daemon survives this process. False: it ends by itself, within seconds, when this process dies. */
  readonly detached?: boolean;
  /** The program; looked for in PATH and the sbin folders. */
  readonly torPath?: string;
  readonly signal?: AbortSignal | undefined;
}

export class TorProcess implements AsyncDisposable {
  readonly identity: ProcessIdentity;
  readonly dir: string;
  readonly controlAddress: { readonly host: string; readonly port: number };
  /** Resolves, never rejects, when the daemon has ended. */
  readonly exited: Promise<void>;

  private constructor(
    identity: ProcessIdentity,
    dir: string,
    controlAddress: { host: string; port: number },
    exited: Promise<void>,
  ) {
    this.identity = identity;
    this.dir = dir;
    this.controlAddress = controlAddress;
    this.exited = exited;
  }

  /** Starts tor and resolves when its control port listens. Throws BentoError `tor-missing`, `tor-start-failed`. */
  static async start(options: TorProcessOptions): Promise<TorProcess> {
    const { child, identity, exited } = await spawnTor(options);
    try {
      const controlAddress = await awaitControlPort(options, identity);
      child.unref();
      return new TorProcess(identity, options.dir, controlAddress, exited);
    } catch (error) {
      await terminate(identity);
      throw error;
    }
  }

  async connect(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<ControlClient> {
    return ControlClient.connect(this.controlAddress, options);
  }

  /** Ends the daemon. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    await terminate(this.identity);
    await this.exited;
    await rm(join(this.dir, "pid"), { force: true });
  }
}

async function spawnTor(options: TorProcessOptions): Promise<{
  child: ChildProcess;
  identity: ProcessIdentity;
  exited: Promise<void>;
}> {
  const { dir, signal } = options;
  signal?.throwIfAborted();
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await rm(join(dir, "control-port"), { force: true });
  const torrc = join(dir, "torrc");
  const control = [
    `ControlPort ${options.controlPort ?? "auto"}`,
    `ControlPortWriteToFile ${join(dir, "control-port")}`,
    "CookieAuthentication 1",
    `CookieAuthFile ${join(dir, "control-cookie")}`,
    // Tor looks every 15 s whether this process is there, and ends when it is not.
    ...(options.detached ? [] : [`__OwningControllerProcess ${String(process.pid)}`]),
  ];
  await writeFile(torrc, `${options.torrc.trimEnd()}\n${control.join("\n")}\n`, { mode: 0o600 });
  const output = await open(join(dir, "stdout.log"), "w", 0o600);
  try {
    const child = spawn(
      options.torPath ?? "tor",
      ["-f", torrc, "--defaults-torrc", "/dev/null", "--ignore-missing-torrc"],
      {
        cwd: dir,
        // Its own session: Ctrl-C in a terminal reaches us, and we decide what happens to it.
        detached: true,
        stdio: ["ignore", output.fd, output.fd],
        env: { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin:/usr/local/sbin`, HOME: dir },
      },
    );
    const exited = Promise.withResolvers<void>();
    child.once("exit", () => {
      exited.resolve();
    });
    const spawned = Promise.withResolvers<void>();
    child.once("spawn", spawned.resolve);
    child.once("error", (cause) => {
      exited.resolve();
      spawned.reject(startFailure(cause));
    });
    await spawned.promise;
    const identity = await identify(child.pid ?? 0);
    if (!identity) throw new BentoError("tor-start-failed", `Cannot start tor: ${await complaintOf(dir)}`);
    await writePidFile(join(dir, "pid"), identity);
    return { child, identity, exited: exited.promise };
  } finally {
    await output.close();
  }
}

function startFailure(cause: Error): BentoError {
  if (systemCode(cause) === "ENOENT")
    return new BentoError("tor-missing", "Cannot start tor: the program is not installed", {
      cause,
      advice:
        "Install it: `apt-get install tor` on Debian and Ubuntu, or see https://support.torproject.org/.",
    });
  return new BentoError("tor-start-failed", `Cannot start tor: ${messageOf(cause)}`, { cause });
}

// Sample: PORT=127.0.0.1:41951
async function awaitControlPort(
  { dir, signal }: TorProcessOptions,
  identity: ProcessIdentity,
): Promise<{ host: string; port: number }> {
  for (;;) {
    const text = await readFile(join(dir, "control-port"), "utf8").catch(() => "");
    const match = /^PORT=([0-9.]+):([0-9]+)\n/mu.exec(text);
    if (match) return { host: match[1] ?? "", port: Number(match[2]) };
    if (!(await isAlive(identity)))
      throw new BentoError("tor-start-failed", `Cannot start tor: ${await complaintOf(dir)}`);
    await systemClock.sleep(POLL_MS, signal);
  }
}

/** What a daemon that would not start said about it. */
async function complaintOf(dir: string): Promise<string> {
  const output = await readFile(join(dir, "stdout.log"), "utf8").catch(() => "");
  const complaints = output
    .split("\n")
    .filter((line) => /\[(?:err|warn)\]/u.test(line))
    .map((line) => line.replace(/^.*\[(?:err|warn)\] /u, ""));
  // The reason comes last; before it tor warns of much that is no reason to end.
  return (complaints.slice(-3).join(" ") || "it ended without saying why").slice(0, COMPLAINT_LENGTH_MAX);
}

/** Writes `pid startTime` in one step. */
export async function writePidFile(path: string, identity: ProcessIdentity): Promise<void> {
  await writeFile(`${path}.new`, `${String(identity.pid)} ${identity.startTime}\n`, { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** The identity in a pid file, whether or not that process still lives; undefined when there is no such file. */
export async function readPidFile(path: string): Promise<ProcessIdentity | undefined> {
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    if (systemCode(error) === "ENOENT") return "";
    throw error;
  });
  const match = /^([1-9][0-9]{0,9}) ([0-9]{1,20})\n$/u.exec(text);
  return match ? { pid: Number(match[1]), startTime: match[2] ?? "" } : undefined;
}
