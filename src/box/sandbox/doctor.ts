// Says what this machine has and lacks for starting functions, one line per wall, each with what to change.
// Every check tries the real thing rather than reading settings where it can: settings lie, kernels do not.
// Used by `bento doctor` and by the operator whose box refuses to start functions.

import { execFile } from "node:child_process";
import { access, readFile } from "node:fs/promises";
import { promisify } from "node:util";
import type { Clock } from "../../base/clock.ts";
import { BentoError, messageOf } from "../../base/errors.ts";
import { atLeast, findBubblewrap } from "./bubblewrap.ts";
import { openCgroups } from "./cgroup-open.ts";
import { findDeno, type GuestFiles, type ImageName, probeImage } from "./image.ts";
import { buildFilters } from "./seccomp.ts";
import { SANDBOX_PROFILES } from "./seccomp-profiles.ts";
import { UidPool, type UidRange } from "./uid-pool.ts";

const run = promisify(execFile);

/** One wall or part. Without the required ones no function is started. */
export interface DoctorCheck {
  readonly name: string;
  readonly ok: boolean;
  readonly isRequired: boolean;
  /** What was found, as a sentence fragment. */
  readonly found: string;
  /** What to do; absent when there is nothing to do. */
  readonly fix: string | undefined;
}

export interface DoctorOptions {
  readonly guest: GuestFiles;
  readonly images: readonly ImageName[];
  readonly uidRange: UidRange;
  readonly clock: Clock;
  readonly denoPath?: string;
}

type Finding = Pick<DoctorCheck, "ok" | "found"> & { readonly fix?: string | undefined };

/** Runs all checks. Never throws; leaves nothing behind. */
export async function examine(options: DoctorOptions): Promise<DoctorCheck[]> {
  const deno = options.denoPath ?? findDeno();
  const checks: [string, boolean, () => Promise<Finding>][] = [
    ["bubblewrap", true, checkBubblewrap],
    ["user namespaces", true, () => checkNamespaces(options.uidRange)],
    ["system call filter", true, () => checkFilter(deno)],
    ["control groups", true, () => checkCgroups(options.clock)],
    ["user ids", true, () => checkUids(options.uidRange)],
    ["swap", false, checkSwap],
    ...options.images.map((name): [string, boolean, () => Promise<Finding>] => [
      `image ${name}`,
      // A box offers it only where its operator says so.
      name !== "chromium",
      () => checkImage(name, options),
    ]),
  ];
  return await Promise.all(
    checks.map(async ([name, isRequired, check]) => {
      try {
        const { ok, found, fix } = await check();
        return { name, isRequired, ok, found, fix };
      } catch (error) {
        const fix = error instanceof BentoError ? error.advice : undefined;
        return { name, isRequired, ok: false, found: messageOf(error), fix };
      }
    }),
  );
}

async function checkBubblewrap(): Promise<Finding> {
  const { path, version } = await findBubblewrap();
  const hasFix = atLeast(version.split(".").map(Number), [0, 12, 0]);
  const note = hasFix
    ? ""
    : "; CVE-2026-87766 (fixed in 0.12.0) is out of reach: no mount point lies where a function can write";
  return { ok: true, found: `${path} ${version}, not setuid${note}` };
}

async function readSetting(path: string): Promise<string | undefined> {
  return await readFile(path, "utf8").then(
    (text) => text.trim(),
    () => undefined, // the kernel has no such setting
  );
}

async function checkNamespaces(range: UidRange): Promise<Finding> {
  const { path } = await findBubblewrap();
  const asRoot = process.getuid?.() === 0;
  const user = asRoot ? { uid: range.first, gid: range.first } : {};
  const walls = ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--as-pid-1"];
  try {
    await run(path, [...walls, "--ro-bind", "/", "/", "--", "/bin/true"], { env: {}, cwd: "/", ...user });
    return { ok: true, found: asRoot ? `made as user ${range.first}` : "made as this user" };
  } catch (error) {
    const detail = messageOf(error).trim().split("\n").at(-1);
    return { ok: false, found: `bwrap fails: ${detail}`, fix: await namespaceFix() };
  }
}

async function namespaceFix(): Promise<string> {
  const [most, clone, restricted] = await Promise.all([
    readSetting("/proc/sys/user/max_user_namespaces"),
    readSetting("/proc/sys/kernel/unprivileged_userns_clone"),
    readSetting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
  ]);
  if (restricted === "1") {
    return "AppArmor forbids user namespaces: add a profile for /usr/bin/bwrap with `userns,`, or set kernel.apparmor_restrict_unprivileged_userns=0.";
  }
  if (clone === "0") return "Set kernel.unprivileged_userns_clone=1 (sysctl).";
  if (most === "0") return "Set user.max_user_namespaces to 10000 or so (sysctl).";
  return "Allow user namespaces: a container that runs the box needs them, and a seccomp profile that permits unshare and mount.";
}

async function checkFilter(deno: string | undefined): Promise<Finding> {
  if (deno === undefined)
    return { ok: false, found: "Deno is missing", fix: "Run ./bento once: it installs Deno." };
  const filters = await buildFilters(deno, SANDBOX_PROFILES);
  const sizes = filters.map(({ profile, program }) => `${profile} ${program.length / 8} instructions`);
  return { ok: true, found: sizes.join(", ") };
}

async function checkCgroups(clock: Clock): Promise<Finding> {
  const total = { memoryBytes: 64 * 1024 * 1024, pidsMax: 64, cpuPercent: 10 };
  await using parent = await openCgroups({ name: `bento-doctor-${process.pid}`, total, clock });
  await parent.create("probe", total);
  return { ok: true, found: `version ${parent.version}: memory, pids and cpu can be limited` };
}

async function checkUids(range: UidRange): Promise<Finding> {
  if (process.getuid?.() !== 0) {
    return { ok: true, found: "not root: all instances share this user; namespaces keep them apart" };
  }
  const last = range.first + range.count - 1;
  const accounts = ((await readSetting("/etc/passwd")) ?? "").split("\n").map((line) => line.split(":"));
  const taken = accounts.find(([, , uid]) => Number(uid) >= range.first && Number(uid) <= last);
  if (taken) {
    return {
      ok: false,
      found: `user ${taken[0]} has id ${taken[2]}, inside ${range.first}-${last}`,
      fix: "Give the box a uid range that no account is in.",
    };
  }
  await using _lease = await UidPool.lease(range, 1);
  return { ok: true, found: `${range.first}-${last} belongs to no account` };
}

async function checkSwap(): Promise<Finding> {
  const swaps = ((await readSetting("/proc/swaps")) ?? "").split("\n").slice(1);
  if (swaps.length === 0) return { ok: true, found: "off" };
  const groups = await access("/sys/fs/cgroup/cgroup.controllers").then(
    () => 2,
    () => 1,
  );
  if (groups === 2) return { ok: true, found: "on, but functions may not use it" };
  return {
    ok: false,
    found: "on: what a function holds in memory can reach the disk",
    fix: "Turn swap off (swapoff -a), encrypt it, or boot with cgroup v2.",
  };
}

async function checkImage(name: ImageName, options: DoctorOptions): Promise<Finding> {
  const probe = await probeImage(name, options.guest, options);
  if (probe.kind === "complete") return { ok: true, found: `version ${probe.plan.version}` };
  return {
    ok: false,
    found: `missing ${probe.missing.map((part) => part.what).join(", ")}`,
    fix: [...new Set(probe.missing.map((part) => part.fix))].join(" "),
  };
}
