// File operations both cgroup drivers share. A control group is a directory of small text files.

import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../../base/clock.ts";
import { BentoError, systemCode } from "../../base/errors.ts";
import { SANDBOX_LIMITS } from "./sandbox-limits.ts";

/** Milliseconds between looks at a group that is being emptied: about as long as one process takes to die. */
const EMPTY_POLL_MS = 2;

export async function writeControl(directory: string, file: string, value: string): Promise<void> {
  try {
    await writeFile(join(directory, file), value, { flag: "r+" });
  } catch (error) {
    throw new BentoError(
      "sandbox-cgroup",
      `Cannot write ${value} to ${join(directory, file)}: ${systemCode(error) ?? "failed"}`,
      { cause: error },
    );
  }
}

export async function readNumber(directory: string, file: string): Promise<number> {
  const text = (await readFile(join(directory, file), "utf8")).trim();
  return text === "max" ? Number.POSITIVE_INFINITY : Number(text);
}

/** The value of `key` in a flat keyed file (`oom_kill 3`), or undefined. */
export async function readKey(directory: string, file: string, key: string): Promise<number | undefined> {
  const text = await readFile(join(directory, file), "utf8");
  const line = text.split("\n").find((each) => each.startsWith(`${key} `));
  return line === undefined ? undefined : Number(line.slice(key.length + 1));
}

/** Process ids in the group; none when the group is gone. */
export async function readProcesses(directory: string): Promise<number[]> {
  try {
    const text = await readFile(join(directory, "cgroup.procs"), "utf8");
    return text
      .split("\n")
      .filter((line) => line !== "")
      .map(Number);
  } catch (error) {
    if (systemCode(error) === "ENOENT" || systemCode(error) === "ENODEV") return [];
    throw error;
  }
}

export async function makeGroup(directory: string): Promise<void> {
  try {
    await mkdir(directory);
  } catch (error) {
    if (systemCode(error) === "EEXIST") return;
    throw new BentoError(
      "sandbox-cgroup",
      `Cannot make control group ${directory}: ${systemCode(error) ?? "failed"}`,
      { cause: error },
    );
  }
}

/** Removes an empty group. The kernel answers EBUSY for a moment after the last process has died. */
export async function removeGroup(directory: string, clock: Clock): Promise<void> {
  const deadline = clock.now() + SANDBOX_LIMITS.killMs;
  for (;;) {
    try {
      await rmdir(directory);
      return;
    } catch (error) {
      const code = systemCode(error);
      if (code === "ENOENT") return;
      if (code !== "EBUSY" || clock.now() > deadline) {
        throw new BentoError("sandbox-cgroup", `Cannot remove control group ${directory}: ${code}`, {
          cause: error,
        });
      }
    }
    await clock.sleep(EMPTY_POLL_MS);
  }
}

export async function childGroups(directory: string): Promise<string[]> {
  try {
    const entries = await readdir(directory, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  } catch (error) {
    if (systemCode(error) === "ENOENT") return [];
    throw error;
  }
}

export function sendKill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if (systemCode(error) !== "ESRCH") throw error;
  }
}

/** Runs `strike` until the group has no process left. */
export async function killUntilEmpty(
  directory: string,
  clock: Clock,
  strike: (processes: readonly number[]) => Promise<void>,
): Promise<void> {
  const deadline = clock.now() + SANDBOX_LIMITS.killMs;
  for (;;) {
    const processes = await readProcesses(directory);
    if (processes.length === 0) return;
    if (clock.now() > deadline) {
      throw new BentoError(
        "sandbox-cgroup",
        `Cannot empty control group ${directory}: ${processes.length} processes survive SIGKILL`,
      );
    }
    await strike(processes);
    await clock.sleep(EMPTY_POLL_MS);
  }
}
