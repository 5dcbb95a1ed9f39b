// The sandbox room's front: starts boxed processes, warm or cold, and ends them all. Host side of the strongest
// boundary Bento has; what crosses it are two byte streams. Fails closed: if any wall or limit cannot be set,
// `open` or `start` throws and says why, and nothing runs. Spec: docs/spec/sandbox.md 1.

import { createHash, randomBytes } from "node:crypto";
import { mkdir, readFile, realpath, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { Clock } from "../../base/clock.ts";
import { BentoError, messageOf } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { findBubblewrap } from "./bubblewrap.ts";
import type { CgroupLimits, CgroupParent, CgroupUsage } from "./cgroup.ts";
import { openCgroups, sweepCgroups } from "./cgroup-open.ts";
import { findDeno, type GuestFiles, type ImageName, type ImagePlan, probeImage } from "./image.ts";
import { InheritedDescriptors } from "./inherited.ts";
import { Instance, type InstanceParts, type Sandbox } from "./instance.ts";
import { PipeSource } from "./pipes.ts";
import { SANDBOX_LIMITS } from "./sandbox-limits.ts";
import { SandboxUnavailable } from "./sandbox-unavailable.ts";
import { buildFilters } from "./seccomp.ts";
import { SANDBOX_PROFILES, type SandboxProfile } from "./seccomp-profiles.ts";
import { Semaphore } from "./semaphore.ts";
import { Stage, type StagedImage } from "./stage.ts";
import { UidPool, type UidRange } from "./uid-pool.ts";
import { type WarmClass, type WarmPlan, WarmPool } from "./warm-pool.ts";
import { Watchdog } from "./watchdog.ts";

export type { Sandbox, SandboxExit, SandboxUsage } from "./instance.ts";

/** What one instance is to be. All of it is decided by the grant. */
export interface SandboxSpec {
  readonly image: ImageName;
  readonly profile: SandboxProfile;
  /** Preferred where one waits: an instance that was started with this file of the guest directory. */
  readonly main?: string | undefined;
  readonly limits: {
    /** Bytes, /tmp and kernel objects included. */
    readonly memoryBytes: number;
    /** Processes and threads, with bwrap's own one. */
    readonly pidsMax: number;
    /** Percent of one CPU. */
    readonly cpuPercent: number;
    /** Bytes of /tmp, also the largest file. Counts as memory, so memoryBytes bounds it too. */
    readonly tmpBytes: number;
    readonly openFilesMax: number;
  };
}

export interface SandboxHostOptions {
  /** The box's data directory: two boxes never share one. Names the control group and the staging directory. */
  readonly dir: string;
  readonly guest: GuestFiles;
  /** Images that must work; `open` fails when one does not. */
  readonly images: readonly ImageName[];
  /** Host uids for instances. Used when the server is root; otherwise all instances share the server's uid. */
  readonly uidRange: UidRange;
  /** Of all instances together, waiting ones included. */
  readonly total: CgroupLimits;
  /** Most instances alive at one time, waiting ones included. */
  readonly instancesMax: number;
  readonly warm: readonly WarmPlan[];
  /** Limits of a member while it waits. */
  readonly warmLimits: CgroupLimits;
  readonly log: Log;
  readonly clock: Clock;
  /** Default: the Deno that npm installed. */
  readonly denoPath?: string;
}

/** Starts and ends sandboxes. One per box. */
export class SandboxHost implements AsyncDisposable {
  readonly #options: SandboxHostOptions;
  readonly #parts: InstanceParts;
  readonly #images: ReadonlyMap<ImageName, StagedImage>;
  readonly #filters: ReadonlyMap<SandboxProfile, Uint8Array>;
  readonly #owned: AsyncDisposableStack;
  readonly #starts = new Semaphore(SANDBOX_LIMITS.startsAtOnce);
  readonly #stop = new AbortController();
  readonly #alive = new Set<Instance>();
  readonly #pools: WarmPool[];
  #reserved = 0;
  #waitingStarts = 0;
  #serial = 0;

  private constructor(
    options: SandboxHostOptions,
    parts: InstanceParts,
    stage: Stage,
    filters: ReadonlyMap<SandboxProfile, Uint8Array>,
    owned: AsyncDisposableStack,
  ) {
    this.#options = options;
    this.#parts = parts;
    this.#images = new Map(stage.images.map((image) => [image.plan.name, image]));
    this.#filters = filters;
    this.#owned = owned;
    this.#pools = options.warm.map(
      (plan) =>
        new WarmPool({
          plan,
          clock: options.clock,
          log: options.log,
          start: (signal) =>
            this.#room() > this.#waitingStarts
              ? this.#launch(waitingSpec(plan, options.warmLimits), signal, plan.main)
              : undefined,
        }),
    );
  }

  /**
   * Prepares everything and sweeps what an earlier life of the same box left behind.
   * @throws SandboxUnavailable naming the first thing that is missing and what to do about it.
   */
  static async open(options: SandboxHostOptions): Promise<SandboxHost> {
    await mkdir(options.dir, { recursive: true });
    const name = await hostName(options.dir);
    const asRoot = process.getuid?.() === 0;
    const bubblewrap = await findBubblewrap();
    const plans = await plansOf(options);
    await using undo = new AsyncDisposableStack();
    const cgroups = undo.use(await openParentGroup(options, name));
    // A payload that is root on the host would own everything the day a wall falls, so root always needs the range.
    const uids = asRoot ? undo.use(await UidPool.lease(options.uidRange, options.instancesMax)) : undefined;
    const deno = options.denoPath ?? findDeno();
    if (deno === undefined)
      throw new SandboxUnavailable("Cannot build the system call filter: Deno is missing");
    const [stage, pipes, filters] = await Promise.all([
      Stage.make(options.dir, name, plans, asRoot ? "private" : "shared").then((made) => undo.use(made)),
      PipeSource.open(options.dir).then((made) => undo.use(made)),
      buildFilters(deno, SANDBOX_PROFILES),
    ]);
    undo.use(await Watchdog.start({ stage: stage.directory, groups: cgroups.directories, log: options.log }));
    const parts: InstanceParts = {
      bubblewrap,
      cgroups,
      pipes,
      inherited: undo.use(new InheritedDescriptors()),
      uids,
      clock: options.clock,
      log: options.log,
    };
    const byProfile = new Map(filters.map((filter) => [filter.profile, filter.program]));
    return new SandboxHost(options, parts, stage, byProfile, undo.move());
  }

  /** Images that instances can be started in, with the runtime's version. */
  get images(): readonly { readonly name: ImageName; readonly version: string }[] {
    return [...this.#images.values()].map(({ plan }) => ({ name: plan.name, version: plan.version }));
  }

  /** Counts for the operator. */
  get counts(): { readonly alive: number; readonly warm: number } {
    return { alive: this.#alive.size, warm: this.#pools.reduce((sum, pool) => sum + pool.ready, 0) };
  }

  /** What all instances use together. */
  async usage(): Promise<CgroupUsage> {
    return await this.#parts.cgroups.usage();
  }

  /** Resolves when all pools are full. */
  async warmedUp(signal?: AbortSignal): Promise<void> {
    await Promise.all(this.#pools.map((pool) => pool.filled(signal)));
  }

  /**
   * Starts an instance: a waiting one when its class is kept, else a new one. The runner's first bytes (its ready
   * frame) come over `stdout` in both cases.
   * @throws BentoError "full" when no more may live; "sandbox-spec" for limits out of range; SandboxUnavailable.
   */
  async start(spec: SandboxSpec, options: { signal?: AbortSignal } = {}): Promise<Sandbox> {
    options.signal?.throwIfAborted();
    this.#check(spec);
    const waiting = await this.#claim(spec);
    if (waiting) return waiting;
    const signal = options.signal ? AbortSignal.any([options.signal, this.#stop.signal]) : this.#stop.signal;
    // Counted, so that a pool does not refill into the room that is made here.
    this.#waitingStarts++;
    try {
      while (this.#room() <= 0) await this.#makeRoom();
    } finally {
      this.#waitingStarts--;
    }
    return await this.#launch(spec, signal);
  }

  /** Ends every instance and removes all that was made on this machine. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new BentoError("closing", "Cannot start instance: the box is closing"));
    await Promise.all(this.#pools.map((pool) => pool[Symbol.asyncDispose]()));
    await Promise.all([...this.#alive].map((instance) => instance[Symbol.asyncDispose]()));
    await this.#owned.disposeAsync();
  }

  #room(): number {
    return this.#options.instancesMax - this.#alive.size - this.#reserved;
  }

  /** A waiting member with the spec's limits set, or undefined. */
  async #claim(spec: SandboxSpec): Promise<Instance | undefined> {
    const wanted = { image: spec.image, profile: spec.profile, ...spec.limits };
    const prepared = spec.main === undefined ? undefined : this.#take({ ...wanted, main: spec.main });
    const member = prepared ?? this.#take(wanted);
    if (!member) return undefined;
    try {
      await member.setLimits(spec.limits);
      return member;
    } catch (error) {
      this.#options.log.warn("warm instance cannot be claimed", { cause: messageOf(error) });
      await member[Symbol.asyncDispose]();
      return undefined;
    }
  }

  #take(wanted: WarmClass): Instance | undefined {
    return this.#pools.find((pool) => pool.matches(wanted))?.take();
  }

  /** Gives up a waiting member of some other class when only waiting ones fill the host. */
  async #makeRoom(): Promise<void> {
    const member = this.#pools.toSorted((a, b) => b.ready - a.ready)[0]?.take();
    if (!member) {
      throw new BentoError("full", `Cannot start instance: ${this.#options.instancesMax} are running`, {
        advice: "Try again later, or try another box.",
      });
    }
    await member[Symbol.asyncDispose]();
  }

  async #launch(spec: SandboxSpec, signal: AbortSignal, main?: string): Promise<Instance> {
    const image = this.#images.get(spec.image);
    const filter = this.#filters.get(spec.profile);
    if (!image || !filter)
      throw new BentoError("sandbox-spec", `Cannot start instance: no image ${spec.image}`);
    this.#stop.signal.throwIfAborted();
    // Room is taken before the first wait, so that starts at one time cannot exceed it together.
    this.#reserved++;
    try {
      using _turn = await this.#starts.acquire(signal);
      const { tmpBytes, openFilesMax, ...limits } = spec.limits;
      const name = `i-${this.#serial++}`;
      const plan = { name, image, main, filter, profile: spec.profile, limits, tmpBytes, openFilesMax };
      const instance = await Instance.start(this.#parts, plan, signal);
      this.#alive.add(instance);
      void this.#forget(instance);
      return instance;
    } finally {
      this.#reserved--;
    }
  }

  async #forget(instance: Instance): Promise<void> {
    await instance.exited;
    this.#alive.delete(instance);
    for (const pool of this.#pools) pool.refill();
  }

  #check(spec: SandboxSpec): void {
    const { memoryBytes, pidsMax, cpuPercent, tmpBytes, openFilesMax } = spec.limits;
    const image = this.#images.get(spec.image);
    if (!image)
      throw new BentoError("sandbox-spec", `Cannot start instance: image ${spec.image} is not offered`);
    const { total } = this.#options;
    const rules: [string, number, number, number][] = [
      ["memory bytes", memoryBytes, image.plan.memoryBytesMin, total.memoryBytes],
      ["pids", pidsMax, SANDBOX_LIMITS.pidsMin, Math.min(SANDBOX_LIMITS.pidsMax, total.pidsMax)],
      ["cpu percent", cpuPercent, SANDBOX_LIMITS.cpuPercentMin, total.cpuPercent],
      ["tmp bytes", tmpBytes, SANDBOX_LIMITS.tmpBytesMin, total.memoryBytes],
      ["open files", openFilesMax, SANDBOX_LIMITS.openFilesMin, SANDBOX_LIMITS.openFilesMax],
    ];
    for (const [what, found, min, max] of rules) {
      if (Number.isInteger(found) && found >= min && found <= max) continue;
      throw new BentoError(
        "sandbox-spec",
        `Cannot start instance: ${what} ${found}, wanted ${min} to ${max}`,
      );
    }
  }
}

function waitingSpec(plan: WarmPlan, limits: CgroupLimits): SandboxSpec {
  const { image, profile, tmpBytes, openFilesMax, cpuPercent = limits.cpuPercent } = plan;
  return { image, profile, limits: { ...limits, cpuPercent, tmpBytes, openFilesMax } };
}

/** The same at each start of the same box. Its control groups and staging directories have names that begin so. */
export async function hostName(dir: string): Promise<string> {
  return `bento-${createHash("sha256")
    .update(await realpath(dir))
    .digest("hex")
    .slice(0, 12)}`;
}

/**
 * Opens the parent group, under a name that no other life of this box has: the watchdog of an earlier life may still
 * be at work. Then sweeps what earlier lives left, here and where their note says theirs lay.
 */
async function openParentGroup(
  { dir, total, clock }: SandboxHostOptions,
  name: string,
): Promise<CgroupParent> {
  const note = join(dir, "control-groups.json");
  const text = await readFile(note, "utf8").catch(() => "[]"); // no earlier life
  const noted = z.array(z.string()).catch([]).parse(safeJson(text));
  const cgroups = await openCgroups({ name: `${name}-${randomBytes(4).toString("hex")}`, total, clock });
  await sweepCgroups({ noted, current: cgroups.directories, name, clock });
  await writeFile(note, JSON.stringify(cgroups.directories));
  return cgroups;
}

/** A note that was cut short by a crash says nothing. */
function safeJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function plansOf(options: SandboxHostOptions): Promise<ImagePlan[]> {
  const plans: ImagePlan[] = [];
  for (const name of options.images) {
    const probe = await probeImage(name, options.guest, options);
    if (probe.kind === "incomplete") {
      const what = probe.missing.map((part) => part.what).join(", ");
      throw new SandboxUnavailable(`Cannot offer image ${name}: missing ${what}`, {
        advice: [...new Set(probe.missing.map((part) => part.fix))].join(" "),
      });
    }
    plans.push(probe.plan);
  }
  return plans;
}
