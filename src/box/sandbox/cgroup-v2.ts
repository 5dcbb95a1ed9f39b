// Control groups version 2: one directory, killed as one. Works with systemd's Delegate=yes without root.
// A group that holds processes cannot hand controllers to children, so this process first moves into a leaf.
// Kernel documentation: admin-guide/cgroup-v2, "No Internal Process Constraint", "Delegation".

import { basename, dirname, join } from "node:path";
import type { Cgroup, CgroupLimits, CgroupOptions, CgroupParent, CgroupUsage } from "./cgroup.ts";
import { type ControlFiles, ControlGroups, kernelFiles } from "./cgroup-files.ts";
import { type CgroupV2Base, NEEDED_CONTROLLERS } from "./cgroup-find.ts";

const CPU_PERIOD_US = 100_000;

/** The leaf into which the box's own process moves, so that its group may have children. */
const SERVER_LEAF = "bento-server";

/** Writes what differs from `before`, which is what the kernel has. */
async function setLimits(
  groups: ControlGroups,
  directory: string,
  limits: CgroupLimits,
  before?: CgroupLimits,
): Promise<void> {
  // memory.swap.max is absent when the kernel has no swap accounting; then swap must be off (doctor checks).
  if (!before && (await groups.exists(directory, "memory.swap.max")))
    await groups.write(directory, "memory.swap.max", "0");
  if (limits.pidsMax !== before?.pidsMax) groups.writeNow(directory, "pids.max", String(limits.pidsMax));
  if (limits.cpuPercent !== before?.cpuPercent) {
    const quotaUs = Math.round((limits.cpuPercent * CPU_PERIOD_US) / 100);
    groups.writeNow(directory, "cpu.max", `${quotaUs} ${CPU_PERIOD_US}`);
  }
  if (limits.memoryBytes !== before?.memoryBytes)
    await groups.write(directory, "memory.max", String(limits.memoryBytes));
}

async function usageOf(groups: ControlGroups, directory: string): Promise<CgroupUsage> {
  const [memoryBytes, pids, oomKills, cpuUs] = await Promise.all([
    groups.readNumber(directory, "memory.current"),
    groups.readNumber(directory, "pids.current"),
    groups.readKey(directory, "memory.events", "oom_kill"),
    groups.readKey(directory, "cpu.stat", "usage_usec"),
  ]);
  return { memoryBytes, pids, oomKills: oomKills ?? 0, cpuMs: Math.round((cpuUs ?? 0) / 1000) };
}

class CgroupV2 implements Cgroup {
  readonly #directory: string;
  readonly #groups: ControlGroups;
  /** What was set last; undefined while that is not certain. */
  #limits: CgroupLimits | undefined;

  constructor(directory: string, groups: ControlGroups) {
    this.#directory = directory;
    this.#groups = groups;
  }

  async setLimits({ memoryBytes, pidsMax, cpuPercent }: CgroupLimits): Promise<void> {
    const limits = { memoryBytes, pidsMax, cpuPercent };
    const before = this.#limits;
    this.#limits = undefined;
    await setLimits(this.#groups, this.#directory, limits, before);
    this.#limits = limits;
  }

  async place(pid: number): Promise<void> {
    await this.#groups.write(this.#directory, "cgroup.procs", String(pid));
  }

  async processes(): Promise<number[]> {
    return await this.#groups.processes(this.#directory);
  }

  async usage(): Promise<CgroupUsage> {
    return await usageOf(this.#groups, this.#directory);
  }

  async kill(): Promise<void> {
    const atOnce = await this.#groups.exists(this.#directory, "cgroup.kill");
    await this.#groups.killUntilEmpty(this.#directory, async () => {
      // cgroup.kill (Linux 5.14) also catches processes that fork meanwhile; before that, freeze first.
      if (atOnce) {
        await this.#groups.write(this.#directory, "cgroup.kill", "1");
        return;
      }
      await this.#groups.write(this.#directory, "cgroup.freeze", "1");
      for (const pid of await this.processes()) this.#groups.kill(pid);
      await this.#groups.write(this.#directory, "cgroup.freeze", "0");
    });
  }

  async remove(): Promise<void> {
    await this.kill();
    await this.#groups.remove(this.#directory);
  }
}

class CgroupV2Parent implements CgroupParent {
  readonly version = 2;
  readonly #directory: string;
  readonly #groups: ControlGroups;

  constructor(directory: string, groups: ControlGroups) {
    this.#directory = directory;
    this.#groups = groups;
  }

  get directories(): string[] {
    return [this.#directory];
  }

  async create(name: string, limits: CgroupLimits): Promise<Cgroup> {
    const directory = join(this.#directory, name);
    const group = new CgroupV2(directory, this.#groups);
    try {
      await this.#groups.make(directory);
      await group.setLimits(limits);
      // When memory ends, the whole instance ends: a half-dead runtime is of no use to anybody.
      await this.#groups.write(directory, "memory.oom.group", "1");
    } catch (error) {
      await group.remove();
      throw error;
    }
    return group;
  }

  async children(): Promise<string[]> {
    return await this.#groups.children(this.#directory);
  }

  async usage(): Promise<CgroupUsage> {
    return await usageOf(this.#groups, this.#directory);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of await this.children()) {
      await new CgroupV2(join(this.#directory, name), this.#groups).remove();
    }
    await this.#groups.remove(this.#directory);
  }
}

async function delegates(groups: ControlGroups, directory: string): Promise<boolean> {
  const enabled = await groups.readWords(directory, "cgroup.subtree_control");
  return NEEDED_CONTROLLERS.every((controller) => enabled.includes(controller));
}

async function enableControllers(groups: ControlGroups, directory: string): Promise<void> {
  if (await delegates(groups, directory)) return;
  const wanted = NEEDED_CONTROLLERS.map((controller) => `+${controller}`).join(" ");
  await groups.write(directory, "cgroup.subtree_control", wanted);
}

/** Hands the base's controllers to its children, moving this process out of the way when it sits there. */
async function prepareBase(groups: ControlGroups, { base, own }: CgroupV2Base): Promise<string> {
  // A second box in the same process, or a restart in place, already sits in the leaf.
  const directory = own && basename(base) === SERVER_LEAF ? dirname(base) : base;
  const sitsThere = own && directory === base && !(await delegates(groups, directory));
  if (!sitsThere) {
    await enableControllers(groups, directory);
    return directory;
  }
  const leaf = join(directory, SERVER_LEAF);
  await groups.make(leaf);
  await groups.write(leaf, "cgroup.procs", String(process.pid));
  try {
    await enableControllers(groups, directory);
  } catch (error) {
    // Other processes share the group (a login shell, say); they are not ours to move.
    await groups.write(directory, "cgroup.procs", String(process.pid));
    await groups.remove(leaf);
    throw error;
  }
  return directory;
}

/** Makes (or takes over, after a sweep) the parent group below the base. */
export async function openCgroupV2(
  found: CgroupV2Base,
  options: CgroupOptions,
  files: ControlFiles = kernelFiles,
): Promise<CgroupParent> {
  const groups = new ControlGroups(files, options.clock);
  const directory = join(await prepareBase(groups, found), options.name);
  const parent = new CgroupV2Parent(directory, groups);
  await parent[Symbol.asyncDispose]();
  try {
    await groups.make(directory);
    await setLimits(groups, directory, options.total);
    await enableControllers(groups, directory);
  } catch (error) {
    await parent[Symbol.asyncDispose]();
    throw error;
  }
  return parent;
}
