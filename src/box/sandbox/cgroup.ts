// Control groups: what an instance may use, and the handle by which all of it is killed.
// This side is the box's; functions never see these files. Two drivers sit behind one interface, because
// relays run everything from v1 controllers without systemd to v2 with delegation.
// Kernel documentation: admin-guide/cgroup-v1 and admin-guide/cgroup-v2.

import type { Clock } from "../../base/clock.ts";

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
