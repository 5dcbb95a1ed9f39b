// Control groups version 2: one directory, killed as one. Works with systemd's Delegate=yes without root.
// A group that holds processes cannot hand controllers to children, so this process first moves into a leaf.
// Kernel documentation: admin-guide/cgroup-v2, "No Internal Process Constraint", "Delegation".

import { access, readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Clock } from "../../base/clock.ts";
import type { Cgroup, CgroupLimits, CgroupOptions, CgroupParent, CgroupUsage } from "./cgroup.ts";
import {
  childGroups,
  killUntilEmpty,
  makeGroup,
  readKey,
  readNumber,
  readProcesses,
  removeGroup,
  sendKill,
  writeControl,
} from "./cgroup-files.ts";
import { type CgroupV2Base, NEEDED_CONTROLLERS } from "./cgroup-find.ts";

const CPU_PERIOD_US = 100_000;

/** The leaf into which the box's own process moves, so that its group may have children. */
const SERVER_LEAF = "bento-server";

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

async function setLimits(directory: string, limits: CgroupLimits): Promise<void> {
  const quotaUs = Math.round((limits.cpuPercent * CPU_PERIOD_US) / 100);
  // memory.swap.max is absent when the kernel has no swap accounting; then swap must be off (doctor checks).
  if (await exists(join(directory, "memory.swap.max"))) await writeControl(directory, "memory.swap.max", "0");
  await Promise.all([
    writeControl(directory, "memory.max", String(limits.memoryBytes)),
    writeControl(directory, "pids.max", String(limits.pidsMax)),
    writeControl(directory, "cpu.max", `${quotaUs} ${CPU_PERIOD_US}`),
  ]);
}

async function usageOf(directory: string): Promise<CgroupUsage> {
  const [memoryBytes, pids, oomKills, cpuUs] = await Promise.all([
    readNumber(directory, "memory.current"),
    readNumber(directory, "pids.current"),
    readKey(directory, "memory.events", "oom_kill"),
    readKey(directory, "cpu.stat", "usage_usec"),
  ]);
  return { memoryBytes, pids, oomKills: oomKills ?? 0, cpuMs: Math.round((cpuUs ?? 0) / 1000) };
}

class CgroupV2 implements Cgroup {
  readonly #directory: string;
  readonly #clock: Clock;

  constructor(directory: string, clock: Clock) {
    this.#directory = directory;
    this.#clock = clock;
  }

  async setLimits(limits: CgroupLimits): Promise<void> {
    await setLimits(this.#directory, limits);
  }

  async place(pid: number): Promise<void> {
    await writeControl(this.#directory, "cgroup.procs", String(pid));
  }

  async processes(): Promise<number[]> {
    return await readProcesses(this.#directory);
  }

  async usage(): Promise<CgroupUsage> {
    return await usageOf(this.#directory);
  }

  async kill(): Promise<void> {
    const atOnce = await exists(join(this.#directory, "cgroup.kill"));
    await killUntilEmpty(this.#directory, this.#clock, async (processes) => {
      // cgroup.kill (Linux 5.14) also catches processes that fork meanwhile; before that, freeze first.
      if (atOnce) {
        await writeControl(this.#directory, "cgroup.kill", "1");
        return;
      }
      await writeControl(this.#directory, "cgroup.freeze", "1");
      for (const pid of processes) sendKill(pid);
      await writeControl(this.#directory, "cgroup.freeze", "0");
    });
  }

  async remove(): Promise<void> {
    await this.kill();
    await removeGroup(this.#directory, this.#clock);
  }
}

class CgroupV2Parent implements CgroupParent {
  readonly version = 2;
  readonly #directory: string;
  readonly #clock: Clock;

  constructor(directory: string, clock: Clock) {
    this.#directory = directory;
    this.#clock = clock;
  }

  get directories(): string[] {
    return [this.#directory];
  }

  async create(name: string, limits: CgroupLimits): Promise<Cgroup> {
    const directory = join(this.#directory, name);
    const group = new CgroupV2(directory, this.#clock);
    try {
      await makeGroup(directory);
      await setLimits(directory, limits);
      // When memory ends, the whole instance ends: a half-dead runtime is of no use to anybody.
      await writeControl(directory, "memory.oom.group", "1");
    } catch (error) {
      await group.remove();
      throw error;
    }
    return group;
  }

  async children(): Promise<string[]> {
    return await childGroups(this.#directory);
  }

  async usage(): Promise<CgroupUsage> {
    return await usageOf(this.#directory);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of await this.children()) {
      await new CgroupV2(join(this.#directory, name), this.#clock).remove();
    }
    await removeGroup(this.#directory, this.#clock);
  }
}

async function delegates(directory: string): Promise<boolean> {
  const enabled = (await readFile(join(directory, "cgroup.subtree_control"), "utf8")).trim().split(/\s+/);
  return NEEDED_CONTROLLERS.every((controller) => enabled.includes(controller));
}

async function enableControllers(directory: string): Promise<void> {
  if (await delegates(directory)) return;
  const wanted = NEEDED_CONTROLLERS.map((controller) => `+${controller}`).join(" ");
  await writeControl(directory, "cgroup.subtree_control", wanted);
}

/** Hands the base's controllers to its children, moving this process out of the way when it sits there. */
async function prepareBase({ base, own }: CgroupV2Base, clock: Clock): Promise<string> {
  // A second box in the same process, or a restart in place, already sits in the leaf.
  const directory = own && basename(base) === SERVER_LEAF ? dirname(base) : base;
  const sitsThere = own && directory === base && !(await delegates(directory));
  if (!sitsThere) {
    await enableControllers(directory);
    return directory;
  }
  const leaf = join(directory, SERVER_LEAF);
  await makeGroup(leaf);
  await writeControl(leaf, "cgroup.procs", String(process.pid));
  try {
    await enableControllers(directory);
  } catch (error) {
    // Other processes share the group (a login shell, say); they are not ours to move.
    await writeControl(directory, "cgroup.procs", String(process.pid));
    await removeGroup(leaf, clock);
    throw error;
  }
  return directory;
}

/** Makes (or takes over, after a sweep) the parent group below the base. */
export async function openCgroupV2(found: CgroupV2Base, options: CgroupOptions): Promise<CgroupParent> {
  const directory = join(await prepareBase(found, options.clock), options.name);
  const parent = new CgroupV2Parent(directory, options.clock);
  await parent[Symbol.asyncDispose]();
  try {
    await makeGroup(directory);
    await setLimits(directory, options.total);
    await enableControllers(directory);
  } catch (error) {
    await parent[Symbol.asyncDispose]();
    throw error;
  }
  return parent;
}
