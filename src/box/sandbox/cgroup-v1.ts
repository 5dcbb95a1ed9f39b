// Control groups version 1: one directory per controller, kept in step. Kill means freeze, SIGKILL, thaw.
// Kernel documentation: admin-guide/cgroup-v1/{memory,pids,cpuacct,freezer-subsystem}.

import { join } from "node:path";
import { systemCode } from "../../base/errors.ts";
import type { Cgroup, CgroupLimits, CgroupOptions, CgroupParent, CgroupUsage } from "./cgroup.ts";
import { type ControlFiles, ControlGroups, kernelFiles } from "./cgroup-files.ts";
import type { CgroupV1Base } from "./cgroup-find.ts";

const CPU_PERIOD_US = 100_000;

/** Directories of one group, by controller. Controllers mounted together share one. */
type Directories = ReadonlyMap<string, string>;

function below(bases: ReadonlyMap<string, string>, name: string): Directories {
  return new Map([...bases].map(([controller, base]) => [controller, join(base, name)]));
}

function directoryOf(directories: Directories, controller: string): string {
  return directories.get(controller) ?? "";
}

function distinct(directories: Directories): string[] {
  return [...new Set(directories.values())];
}

async function setMemory(groups: ControlGroups, directory: string, bytes: number): Promise<void> {
  const swap = "memory.memsw.limit_in_bytes";
  const hasSwap = await groups.exists(directory, swap);
  // memory + swap may never be below memory, so the order of the two writes depends on the direction.
  const raises = bytes > (await groups.readNumber(directory, "memory.limit_in_bytes"));
  if (raises && hasSwap) await groups.write(directory, swap, String(bytes));
  await groups.write(directory, "memory.limit_in_bytes", String(bytes));
  if (!raises && hasSwap) await groups.write(directory, swap, String(bytes));
}

/** Writes what differs from `before`, which is what the kernel has. */
async function setLimits(
  groups: ControlGroups,
  directories: Directories,
  limits: CgroupLimits,
  before?: CgroupLimits,
): Promise<void> {
  if (limits.pidsMax !== before?.pidsMax)
    groups.writeNow(directoryOf(directories, "pids"), "pids.max", String(limits.pidsMax));
  if (limits.cpuPercent !== before?.cpuPercent) {
    const quotaUs = Math.round((limits.cpuPercent * CPU_PERIOD_US) / 100);
    groups.writeNow(directoryOf(directories, "cpu"), "cpu.cfs_quota_us", String(quotaUs));
  }
  if (limits.memoryBytes !== before?.memoryBytes)
    await setMemory(groups, directoryOf(directories, "memory"), limits.memoryBytes);
}

async function usageOf(groups: ControlGroups, directories: Directories): Promise<CgroupUsage> {
  const memory = directoryOf(directories, "memory");
  const accounting = directories.get("cpuacct");
  const [memoryBytes, pids, oomKills, cpuNs] = await Promise.all([
    groups.readNumber(memory, "memory.usage_in_bytes"),
    groups.readNumber(directoryOf(directories, "pids"), "pids.current"),
    groups.readKey(memory, "memory.oom_control", "oom_kill"),
    accounting === undefined ? 0 : groups.readNumber(accounting, "cpuacct.usage"),
  ]);
  return { memoryBytes, pids, oomKills: oomKills ?? 0, cpuMs: Math.round(cpuNs / 1e6) };
}

class CgroupV1 implements Cgroup {
  readonly #directories: Directories;
  readonly #groups: ControlGroups;
  /** What was set last; undefined while that is not certain. */
  #limits: CgroupLimits | undefined;

  constructor(directories: Directories, groups: ControlGroups) {
    this.#directories = directories;
    this.#groups = groups;
  }

  async setLimits({ memoryBytes, pidsMax, cpuPercent }: CgroupLimits): Promise<void> {
    const limits = { memoryBytes, pidsMax, cpuPercent };
    const before = this.#limits;
    this.#limits = undefined;
    await setLimits(this.#groups, this.#directories, limits, before);
    this.#limits = limits;
  }

  async place(pid: number): Promise<void> {
    await Promise.all(
      distinct(this.#directories).map((each) => this.#groups.write(each, "cgroup.procs", String(pid))),
    );
  }

  async processes(): Promise<number[]> {
    return await this.#groups.processes(directoryOf(this.#directories, "pids"));
  }

  async usage(): Promise<CgroupUsage> {
    return await usageOf(this.#groups, this.#directories);
  }

  async kill(): Promise<void> {
    const freezer = this.#directories.get("freezer");
    const setState = async (state: "FROZEN" | "THAWED") => {
      if (freezer !== undefined) await this.#groups.write(freezer, "freezer.state", state).catch(ignoreGone);
    };
    await this.#groups.killUntilEmpty(directoryOf(this.#directories, "pids"), async () => {
      // Frozen processes cannot fork, so the list read while frozen is complete. The signal is delivered on thaw.
      await setState("FROZEN");
      for (const pid of await this.processes()) this.#groups.kill(pid);
      await setState("THAWED");
    });
  }

  async remove(): Promise<void> {
    await this.kill();
    await Promise.all(distinct(this.#directories).map((each) => this.#groups.remove(each)));
  }
}

function ignoreGone(error: unknown): void {
  const cause = error instanceof Error ? error.cause : undefined;
  if (systemCode(cause) !== "ENOENT" && systemCode(cause) !== "ENODEV") throw error;
}

class CgroupV1Parent implements CgroupParent {
  readonly version = 1;
  readonly #directories: Directories;
  readonly #groups: ControlGroups;

  constructor(directories: Directories, groups: ControlGroups) {
    this.#directories = directories;
    this.#groups = groups;
  }

  get directories(): string[] {
    return distinct(this.#directories);
  }

  async create(name: string, limits: CgroupLimits): Promise<Cgroup> {
    const directories = below(this.#directories, name);
    const group = new CgroupV1(directories, this.#groups);
    try {
      await Promise.all(distinct(directories).map((each) => this.#groups.make(each)));
      await group.setLimits(limits);
    } catch (error) {
      await group.remove();
      throw error;
    }
    return group;
  }

  async children(): Promise<string[]> {
    const lists = await Promise.all(this.directories.map((each) => this.#groups.children(each)));
    return [...new Set(lists.flat())];
  }

  async usage(): Promise<CgroupUsage> {
    return await usageOf(this.#groups, this.#directories);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of await this.children()) {
      await new CgroupV1(below(this.#directories, name), this.#groups).remove();
    }
    await Promise.all(this.directories.map((each) => this.#groups.remove(each)));
  }
}

/** Makes (or takes over, after a sweep) the parent group below `base`. */
export async function openCgroupV1(
  base: CgroupV1Base,
  options: CgroupOptions,
  files: ControlFiles = kernelFiles,
): Promise<CgroupParent> {
  const groups = new ControlGroups(files, options.clock);
  const directories = below(base.bases, options.name);
  const parent = new CgroupV1Parent(directories, groups);
  await parent[Symbol.asyncDispose]();
  try {
    await Promise.all(distinct(directories).map((each) => groups.make(each)));
    await setLimits(groups, directories, options.total);
  } catch (error) {
    await parent[Symbol.asyncDispose]();
    throw error;
  }
  return parent;
}
