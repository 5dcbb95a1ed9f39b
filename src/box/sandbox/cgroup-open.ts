// Which control groups this machine has, opened with the driver that fits, and what earlier lives of the box left in
// them. The box's side; functions never see these files. docs/spec/sandbox.md 4.

import { readFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Clock } from "../../base/clock.ts";
import { messageOf } from "../../base/errors.ts";
import type { CgroupOptions, CgroupParent } from "./cgroup.ts";
import { ControlGroups, kernelFiles } from "./cgroup-files.ts";
import { findCgroups, parseCgroupMounts } from "./cgroup-find.ts";
import { openCgroupV1 } from "./cgroup-v1.ts";
import { openCgroupV2 } from "./cgroup-v2.ts";
import { SandboxUnavailable } from "./sandbox-unavailable.ts";

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
