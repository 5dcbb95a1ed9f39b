// Finds where this process may make control groups, from the kernel's own two tables. Parsing is pure and
// tested on samples; the only I/O is reading which controllers a v2 tree offers.
//
// /proc/self/mountinfo  34 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
//                       41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw
// /proc/self/cgroup     4:memory:/user.slice
//                       0::/system.slice/bento.service

import { readFile } from "node:fs/promises";
import { resolve } from "node:path";

/** The controllers without which no function is started. */
export const NEEDED_CONTROLLERS = ["memory", "pids", "cpu"] as const;

/** v1: one base directory per controller; `cpuacct` and `freezer` are used where they exist. */
export interface CgroupV1Base {
  readonly version: 1;
  readonly bases: ReadonlyMap<string, string>;
}

/** v2: one base directory below which the parent group is made; `own` when it is this process's group. */
export interface CgroupV2Base {
  readonly version: 2;
  readonly base: string;
  readonly own: boolean;
}

export interface CgroupMount {
  readonly version: 1 | 2;
  readonly controllers: readonly string[];
  readonly mountPoint: string;
  /** Which part of the hierarchy is mounted: not `/` in many containers. */
  readonly root: string;
}

export interface FoundCgroups {
  /** Best first: below the own group, so that limits of the operator's unit stay in force, then the top. */
  readonly candidates: readonly (CgroupV1Base | CgroupV2Base)[];
  readonly reasons: readonly string[];
}

/** Octal escapes of mountinfo: `\040` is a space. */
function unescapePath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

export function parseCgroupMounts(mountinfo: string): CgroupMount[] {
  const mounts: CgroupMount[] = [];
  for (const line of mountinfo.split("\n")) {
    const [left, right] = line.split(" - ");
    if (left === undefined || right === undefined) continue;
    const [, , , root, mountPoint] = left.split(" ");
    const [type, , superOptions] = right.split(" ");
    if (root === undefined || mountPoint === undefined || superOptions === undefined) continue;
    if (type !== "cgroup" && type !== "cgroup2") continue;
    mounts.push({
      version: type === "cgroup" ? 1 : 2,
      controllers: type === "cgroup" ? superOptions.split(",") : [],
      mountPoint: unescapePath(mountPoint),
      root: unescapePath(root),
    });
  }
  return mounts;
}

/** Own group per controller; the v2 group has the key "". */
export function parseOwnCgroups(self: string): Map<string, string> {
  const own = new Map<string, string>();
  for (const line of self.split("\n")) {
    const match = /^\d+:([^:]*):(\/.*)$/.exec(line);
    if (match?.[1] === undefined || match[2] === undefined) continue;
    for (const controller of match[1].split(",")) own.set(controller, match[2]);
  }
  return own;
}

/** The directory of `group` in this mount, or the mount point when the group lies outside what is mounted. */
function directoryOf(mount: CgroupMount, group: string | undefined): string {
  if (group === undefined) return mount.mountPoint;
  if (mount.root === "/") return resolve(`${mount.mountPoint}/${group}`);
  if (group === mount.root) return mount.mountPoint;
  return group.startsWith(`${mount.root}/`)
    ? resolve(`${mount.mountPoint}/${group.slice(mount.root.length)}`)
    : mount.mountPoint;
}

function findV1(mounts: readonly CgroupMount[], own: Map<string, string>): FoundCgroups {
  const below = new Map<string, string>();
  const top = new Map<string, string>();
  for (const controller of [...NEEDED_CONTROLLERS, "cpuacct", "freezer"]) {
    const mount = mounts.find((each) => each.version === 1 && each.controllers.includes(controller));
    if (!mount) continue;
    below.set(controller, directoryOf(mount, own.get(controller)));
    top.set(controller, mount.mountPoint);
  }
  const missing = NEEDED_CONTROLLERS.filter((controller) => !below.has(controller));
  if (missing.length > 0) return { candidates: [], reasons: [`no v1 controller ${missing.join(", ")}`] };
  return {
    candidates: [
      { version: 1, bases: below },
      { version: 1, bases: top },
    ],
    reasons: [],
  };
}

async function findV2(mounts: readonly CgroupMount[], own: Map<string, string>): Promise<FoundCgroups> {
  const mount = mounts.find((each) => each.version === 2);
  if (!mount) return { candidates: [], reasons: ["no cgroup v2 mount"] };
  const candidates: CgroupV2Base[] = [];
  const reasons: string[] = [];
  const below = directoryOf(mount, own.get(""));
  for (const base of below === mount.mountPoint ? [below] : [below, mount.mountPoint]) {
    let offered: string[];
    try {
      offered = (await readFile(resolve(base, "cgroup.controllers"), "utf8")).trim().split(/\s+/);
    } catch {
      reasons.push(`${base} cannot be read`);
      continue;
    }
    const missing = NEEDED_CONTROLLERS.filter((controller) => !offered.includes(controller));
    if (missing.length > 0) reasons.push(`v2 group ${base} lacks ${missing.join(", ")}`);
    else candidates.push({ version: 2, base, own: base === below });
  }
  return { candidates, reasons };
}

/** Where a parent group could be made, best first, and why other places are out. */
export async function findCgroups(mountinfo: string, self: string): Promise<FoundCgroups> {
  const mounts = parseCgroupMounts(mountinfo);
  const own = parseOwnCgroups(self);
  const v2 = await findV2(mounts, own);
  const v1 = findV1(mounts, own);
  return { candidates: [...v2.candidates, ...v1.candidates], reasons: [...v2.reasons, ...v1.reasons] };
}
