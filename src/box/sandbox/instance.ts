// One boxed process and everything that belongs to it: uid, control group, pipes, exit. Host side.
// Life: held -> placed in its group -> released -> running -> ended -> cleaned up. It always ends by the
// group being killed, so that nothing it forked outlives it; only then are its uid and group given back.

import { closeSync } from "node:fs";
import { constants } from "node:os";
import { posix } from "node:path";
import type { Readable, Writable } from "node:stream";
import type { Clock } from "../../base/clock.ts";
import { messageOf } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { type BoxedProcess, type Bubblewrap, type HeldProcess, spawnHeld } from "./bubblewrap.ts";
import type { Cgroup, CgroupLimits, CgroupParent } from "./cgroup.ts";
import type { InheritedDescriptors } from "./inherited.ts";
import type { GuestPipe, PipeSource } from "./pipes.ts";
import { SANDBOX_LIMITS } from "./sandbox-limits.ts";
import { SandboxUnavailable } from "./sandbox-unavailable.ts";
import type { SandboxProfile } from "./seccomp-profiles.ts";
import type { StagedImage } from "./stage.ts";
import type { UidPool } from "./uid-pool.ts";

/** How an instance ended. The first cause wins: a kill that races with an exit is whichever came first. */
export type SandboxExit =
  | { readonly kind: "exited"; readonly code: number }
  /** `signal` is a number: 11 is SIGSEGV, 31 SIGSYS (a forbidden architecture). */
  | { readonly kind: "signalled"; readonly signal: number }
  | { readonly kind: "out-of-memory" }
  | { readonly kind: "killed"; readonly reason: string };

/** What an instance uses now; `cpuMs` is its total so far. */
export interface SandboxUsage {
  readonly memoryBytes: number;
  readonly cpuMs: number;
  readonly pids: number;
}

/** A running boxed process. Its stdin and stdout are the guest channel, as raw bytes with back-pressure. */
export interface Sandbox extends AsyncDisposable {
  /** To the guest. Ends with EPIPE in the write's callback when the guest is gone; never throws by itself. */
  readonly stdin: Writable;
  /** From the guest. Ends when the guest closed it or is gone; what it wrote before can still be read. */
  readonly stdout: Readable;
  /** Process id on the host. */
  readonly pid: number;
  /** The file that it was started with instead of the image's runner. */
  readonly main: string | undefined;
  /** The last 64 KiB of stderr: runtime crashes and start-up errors. Written by the guest: not to be trusted. */
  stderrTail(): string;
  /** Settles once, after the instance and all it forked are gone. Never rejects. */
  readonly exited: Promise<SandboxExit>;
  /** @throws when the instance has ended. */
  usage(): Promise<SandboxUsage>;
  /** Kills everything in the box and returns when it is gone. The first reason wins; later calls wait. */
  kill(reason: string): Promise<void>;
}

/** What the host lends to all instances. */
export interface InstanceParts {
  readonly bubblewrap: Bubblewrap;
  readonly cgroups: CgroupParent;
  readonly pipes: PipeSource;
  readonly inherited: InheritedDescriptors;
  /** Absent: instances share the server's uid. */
  readonly uids: UidPool | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

/** What one instance is to be. */
export interface InstancePlan {
  /** Unique on this host, `[a-z0-9-]+`: the name of its control group. */
  readonly name: string;
  readonly image: StagedImage;
  /** File of the guest directory that starts instead of the image's runner. */
  readonly main: string | undefined;
  readonly profile: SandboxProfile;
  readonly filter: Uint8Array;
  readonly limits: CgroupLimits;
  readonly tmpBytes: number;
  readonly openFilesMax: number;
}

/** `Sandbox`, with what only the host and its pool may do. */
export class Instance implements Sandbox {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly pid: number;
  readonly main: string | undefined;
  readonly exited: Promise<SandboxExit>;
  readonly #group: Cgroup;
  readonly #stderr: StderrTail;
  #killReason: string | undefined;
  #hasEnded = false;

  private constructor(parts: InstanceParts, started: Started, main: string | undefined) {
    this.main = main;
    this.stdin = started.stdin.stream;
    this.stdout = started.stdout.stream;
    this.pid = started.pid;
    this.#group = started.group;
    this.#stderr = started.stderr;
    this.exited = this.#follow(parts, started);
  }

  /**
   * Starts an instance; returns when its program has been let go.
   * @throws SandboxUnavailable when bwrap or the control group fails; nothing is left behind.
   */
  static async start(parts: InstanceParts, plan: InstancePlan, signal?: AbortSignal): Promise<Instance> {
    const started = await startProcess(parts, plan, signal);
    return new Instance(parts, started, plan.main);
  }

  stderrTail(): string {
    return this.#stderr.text();
  }

  async usage(): Promise<SandboxUsage> {
    const { memoryBytes, cpuMs, pids } = await this.#group.usage();
    return { memoryBytes, cpuMs, pids };
  }

  /** Replaces the limits of the running instance: for pool members that are being claimed. */
  async setLimits(limits: CgroupLimits): Promise<void> {
    await this.#group.setLimits(limits);
  }

  /** Processes of the instance on the host, bwrap's monitor among them. */
  async processes(): Promise<number[]> {
    return await this.#group.processes();
  }

  async kill(reason: string): Promise<void> {
    if (!this.#hasEnded) {
      this.#killReason ??= reason;
      await this.#group.kill();
    }
    await this.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill("disposed");
    this.stdin.destroy();
    this.stdout.destroy();
  }

  async #follow(parts: InstanceParts, started: Started): Promise<SandboxExit> {
    const end = await started.ended;
    this.#hasEnded = true;
    const exit = await this.#explain(end);
    this.stdin.destroy();
    try {
      await started.group.remove();
      if (started.uid !== undefined) parts.uids?.release(started.uid);
    } catch (error) {
      // The group and the uid stay taken: whatever is still in there must not meet another function.
      parts.log.error("instance cannot be cleaned up", { instance: started.name, cause: messageOf(error) });
    }
    return exit;
  }

  async #explain(end: MonitorEnd): Promise<SandboxExit> {
    if (this.#killReason !== undefined) return { kind: "killed", reason: this.#killReason };
    const signal = end.signal ?? (end.code > 128 ? end.code - 128 : undefined);
    if (signal === undefined) return { kind: "exited", code: end.code };
    const oomKills = await this.#group.usage().then(
      (usage) => usage.oomKills,
      () => 0, // the group is unreadable: report the plain signal
    );
    return signal === SIGKILL && oomKills > 0 ? { kind: "out-of-memory" } : { kind: "signalled", signal };
  }
}

const SIGKILL = 9;

/** bwrap's end: its own signal, or its code, which is the guest's code or 128 + the guest's signal. */
interface MonitorEnd {
  readonly code: number;
  readonly signal: number | undefined;
}

interface Started {
  readonly name: string;
  readonly pid: number;
  readonly uid: number | undefined;
  readonly group: Cgroup;
  readonly stdin: GuestPipe;
  readonly stdout: GuestPipe;
  readonly stderr: StderrTail;
  readonly ended: Promise<MonitorEnd>;
}

async function startProcess(
  parts: InstanceParts,
  plan: InstancePlan,
  signal?: AbortSignal,
): Promise<Started> {
  signal?.throwIfAborted();
  // What must be undone if anything below fails, in reverse order.
  await using undo = new AsyncDisposableStack();
  const uid = parts.uids?.acquire();
  if (uid !== undefined) undo.defer(() => parts.uids?.release(uid));
  using pipes = await parts.pipes.take(3);
  const group = await parts.cgroups.create(plan.name, plan.limits);
  undo.defer(async () => {
    await group.remove();
  });
  const guestFds = new DisposableStack();
  const lend = (pipe: GuestPipe): GuestPipe => {
    undo.defer(() => void pipe.stream.destroy());
    guestFds.defer(() => {
      closeSync(pipe.guestFd);
    });
    return pipe;
  };
  let held: HeldProcess;
  let stdin: GuestPipe;
  let stdout: GuestPipe;
  let stderr: StderrTail;
  try {
    stdin = lend(pipes.toGuest());
    stdout = lend(pipes.fromGuest());
    const errors = lend(pipes.fromGuest());
    stderr = new StderrTail(errors);
    held = spawnHeld(
      parts.bubblewrap,
      boxOf(parts, plan, uid, [stdin.guestFd, stdout.guestFd, errors.guestFd]),
    );
  } finally {
    guestFds.dispose();
  }
  stdin.stream.on("error", () => {
    /* EPIPE when the guest is gone: writers learn it from their callback, everybody from `exited` */
  });
  stdout.stream.on("error", () => {
    /* reading a pipe fails only when it is destroyed */
  });
  const ended = endOf(held);
  undo.defer(async () => {
    held.monitor.kill("SIGKILL");
    await ended;
  });
  const pid = await release(parts, held, group, stderr, signal);
  undo.move();
  return { name: plan.name, pid, uid, group, stdin, stdout, stderr, ended };
}

function boxOf(
  parts: InstanceParts,
  plan: InstancePlan,
  uid: number | undefined,
  guestFds: [number, number, number],
): BoxedProcess {
  return {
    image: startedWith(plan.image, plan.main),
    filter: plan.filter,
    tmpBytes: plan.tmpBytes,
    openFilesMax: plan.openFilesMax,
    stackBytes: SANDBOX_LIMITS.stackBytes,
    private: uid === undefined ? undefined : { uid, processesMax: SANDBOX_LIMITS.pidsMax },
    guestFds,
    inherited: parts.inherited,
  };
}

/** The runner is the last argument of its runtime. */
function startedWith(image: StagedImage, main: string | undefined): StagedImage {
  const runner = image.plan.argv.at(-1);
  if (main === undefined || runner === undefined) return image;
  const argv = [...image.plan.argv.slice(0, -1), posix.join(posix.dirname(runner), main)];
  return { ...image, plan: { ...image.plan, argv } };
}

/** Moves the held process into its group, lets it go and waits until the guest exists. */
async function release(
  parts: InstanceParts,
  held: HeldProcess,
  group: Cgroup,
  stderr: StderrTail,
  signal: AbortSignal | undefined,
): Promise<number> {
  const deadline = new AbortController();
  const cancel = parts.clock.after(SANDBOX_LIMITS.setupMs, () => {
    deadline.abort(
      new SandboxUnavailable(`Cannot start instance: not set up after ${SANDBOX_LIMITS.setupMs} ms`),
    );
  });
  const stop = AbortSignal.any(signal ? [signal, deadline.signal] : [deadline.signal]);
  try {
    if (held.monitorPid !== undefined) await group.place(held.monitorPid);
    held.release();
    return await unlessAborted(held.guestPid, stop);
  } catch (error) {
    const detail = stderr.text().trim();
    if (!(error instanceof SandboxUnavailable) || detail === "") throw error;
    throw new SandboxUnavailable(`${error.message} (${detail.slice(0, 500)})`, { cause: error });
  } finally {
    cancel();
  }
}

async function unlessAborted<T>(value: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = () => {
    reject(signal.reason as Error);
  };
  if (signal.aborted) onAbort();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([value, promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

async function endOf(held: HeldProcess): Promise<MonitorEnd> {
  const { promise, resolve } = Promise.withResolvers<MonitorEnd>();
  held.monitor.once("exit", (code, signal) => {
    resolve({ code: code ?? 0, signal: signal === null ? undefined : constants.signals[signal] });
  });
  held.monitor.once("error", () => {
    if (held.monitor.pid === undefined) resolve({ code: 1, signal: undefined }); // never started
  });
  return await promise;
}

/** Keeps the last bytes of stderr. */
class StderrTail {
  #chunks: Buffer[] = [];
  #bytes = 0;

  constructor(pipe: GuestPipe) {
    pipe.stream.on("error", () => {
      /* nothing more to read */
    });
    pipe.stream.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#bytes += chunk.length;
      // Joining only when a whole limit has gathered keeps a flood linear.
      if (this.#bytes >= 2 * SANDBOX_LIMITS.stderrBytesMax) this.#trim();
    });
  }

  text(): string {
    return this.#trim().toString("utf8");
  }

  #trim(): Buffer {
    const kept = Buffer.concat(this.#chunks).subarray(-SANDBOX_LIMITS.stderrBytesMax);
    this.#chunks = [Buffer.from(kept)];
    this.#bytes = kept.length;
    return kept;
  }
}
