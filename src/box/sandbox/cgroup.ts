// Control groups: what an instance may use, and the handle by which all of it is killed.
// This side is the box's; functions never see these files. Two drivers sit behind one interface, because
// relays run everything from v1 controllers without systemd to v2 with delegation.
// Kernel documentation: admin-guide/cgroup-v1 and admin-guide/cgroup-v2.

import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Clock } from "../../base/clock.ts";
import { messageOf } from "../../base/errors.ts";
import { ControlGroups, kernelFiles } from "./cgroup-files.ts";
import { findCgroups, parseCgroupMounts } from "./cgroup-find.ts";
import { openCgroupV1 } from "./cgroup-v1.ts";
import { openCgroupV2 } from "./cgroup-v2.ts";
import { SandboxUnavailable } from "./sandbox-unavailable.ts";

/** Bounds of one group. */
export interface CgroupLimits {
  /** Bytes of memory, swap included; files in tmpfs and kernel objects count. */
  readonly memoryBytes: number;
  /** Processes and threads. */
  readonly pidsMax: number;
  /** Percent of one CPU: 50 is half a core, 200 two cores. */
  readonly cpuPercent: number;
}

/** What a group uses now. `oomKills` and `cpuMs` only grow. */
export interface CgroupUsage {
  readonly memoryBytes: number;
  readonly cpuMs: number;
  readonly pids: number;
  readonly oomKills: number;
}

/** One instance's group. */
export interface Cgroup {
  /** Replaces the limits. Fails when the group already uses more memory than the new limit. */
  setLimits(limits: CgroupLimits): Promise<void>;
  /** Moves a process, with all its threads, into the group. */
  place(pid: number): Promise<void>;
  /** Process ids in the group now. */
  processes(): Promise<number[]>;
  usage(): Promise<CgroupUsage>;
  /** Kills every process in the group and returns when none is left. */
  kill(): Promise<void>;
  /** Kills what is left, then removes the group. Idempotent. */
  remove(): Promise<void>;
}

/** A parent group that holds the box's total limits, and makes one child per instance. */
export interface CgroupParent extends AsyncDisposable {
  readonly version: 1 | 2;
  /** Directories that make up the parent group, for the operator and for the next start's sweep. */
  readonly directories: readonly string[];
  /** @param name unique below this parent, `[a-z0-9-]+`. */
  create(name: string, limits: CgroupLimits): Promise<Cgroup>;
  /** Names of the children that exist, known to this process or left by another. */
  children(): Promise<string[]>;
  usage(): Promise<CgroupUsage>;
  /** Kills and removes every child that exists, then the parent. Idempotent. */
  [Symbol.asyncDispose](): Promise<void>;
}

export interface CgroupOptions {
  /** Name of the parent group: `bento-<box>-<life>`. */
  readonly name: string;
  readonly total: CgroupLimits;
  readonly clock: Clock;
}

/**
 * Opens the box's parent group with whichever driver this machine has. What is in a group of that name already is
 * killed and removed first.
 * @throws SandboxUnavailable when memory, pids and cpu limits cannot all be set.
 */
export async function openCgroups(options: CgroupOptions): Promise<CgroupParent> {
  const [mountinfo, self] = await Promise.all([
    readFile("/proc/self/mountinfo", "utf8"),
    readFile("/proc/self/cgroup", "utf8"),
  ]);
  const found = await findCgroups(mountinfo, self);
  const refusals: string[] = [];
  for (const candidate of found.candidates) {
    try {
      return await (candidate.version === 1
        ? openCgroupV1(candidate, options)
        : openCgroupV2(candidate, options));
    } catch (error) {
      refusals.push(messageOf(error));
    }
  }
  throw new SandboxUnavailable(
    `Cannot limit functions: no usable cgroup (${[...found.reasons, ...refusals].join("; ")})`,
    {
      advice:
        "Run the box from its systemd unit (it sets Delegate=yes), or as root, on a kernel with the memory, pids and cpu controllers.",
    },
  );
}

/**
 * Kills and removes parent groups of earlier lives of the same box: those beside the current one, and those that lie
 * elsewhere, for the group a box starts in changes with the login session or unit that starts it. Paths that are
 * not such groups are left alone.
 * @param noted as `CgroupParent.directories` said in the life before.
 * @param name with which the names of all of them begin.
 */
export async function sweepCgroups({
  noted,
  current,
  name,
  clock,
}: {
  readonly noted: readonly string[];
  readonly current: readonly string[];
  readonly name: string;
  readonly clock: Clock;
}): Promise<void> {
  const mounts = parseCgroupMounts(await readFile("/proc/self/mountinfo", "utf8"));
  const groups = new ControlGroups(kernelFiles, clock);
  const found = new Set(noted);
  for (const parent of current.map((each) => dirname(each))) {
    for (const sibling of await groups.children(parent)) found.add(join(parent, sibling));
  }
  for (const directory of found) {
    const isOurs =
      (basename(directory) === name || basename(directory).startsWith(`${name}-`)) &&
      mounts.some((mount) => directory.startsWith(`${mount.mountPoint}/`));
    if (!isOurs || current.includes(directory)) continue;
    for (const child of [
      ...(await groups.children(directory)).map((each) => join(directory, each)),
      directory,
    ]) {
      await groups.killUntilEmpty(child, async () => {
        for (const pid of await groups.processes(child)) groups.kill(pid);
      });
      await groups.remove(child);
    }
  }
}
