// File operations both cgroup drivers share. A control group is a directory of small text files.

import { writeFileSync } from "node:fs";
import { mkdir, readdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "../../base/clock.ts";
import { BentoError, systemCode } from "../../base/errors.ts";
import { SANDBOX_LIMITS } from "./sandbox-limits.ts";

/** Milliseconds between looks at a group that is being emptied: about as long as one process takes to die. */
const EMPTY_POLL_MS = 2;

/** The kernel's side of control groups. Tests put a model of it in place of the real one. */
export interface ControlFiles {
  make(directory: string): Promise<void>;
  remove(directory: string): Promise<void>;
  read(path: string): Promise<string>;
  write(path: string, value: string): Promise<void>;
  /** As `write`, for files whose writing never waits: without the hop to another thread, which costs three times more. */
  writeNow(path: string, value: string): void;
  /** Names of the directories below. */
  list(directory: string): Promise<string[]>;
  /** SIGKILL; a process that is gone already is fine. */
  kill(pid: number): void;
}

/** The real kernel. */
export const kernelFiles: ControlFiles = {
  make: async (directory) => {
    await mkdir(directory);
  },
  remove: rmdir,
  read: async (path) => await readFile(path, "utf8"),
  write: async (path, value) => {
    await writeFile(path, value, { flag: "r+" });
  },
  writeNow: (path, value) => {
    writeFileSync(path, value, { flag: "r+" });
  },
  list: async (directory) => {
    const entries = await readdir(directory, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  },
  kill: (pid) => {
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      if (systemCode(error) !== "ESRCH") throw error;
    }
  },
};

/** File operations on groups, with errors that name what was tried. */
export class ControlGroups {
  readonly #files: ControlFiles;
  readonly #clock: Clock;

  constructor(files: ControlFiles, clock: Clock) {
    this.#files = files;
    this.#clock = clock;
  }

  async write(directory: string, file: string, value: string): Promise<void> {
    try {
      await this.#files.write(join(directory, file), value);
    } catch (error) {
      throw cannotWrite(join(directory, file), value, error);
    }
  }

  /** Only for limits that the kernel just notes down. Those of memory may wait for pages to be freed. */
  writeNow(directory: string, file: string, value: string): void {
    try {
      this.#files.writeNow(join(directory, file), value);
    } catch (error) {
      throw cannotWrite(join(directory, file), value, error);
    }
  }

  async exists(directory: string, file: string): Promise<boolean> {
    return await this.#files.read(join(directory, file)).then(
      () => true,
      (error: unknown) => systemCode(error) !== "ENOENT", // cgroup.kill can be written but not read
    );
  }

  async readNumber(directory: string, file: string): Promise<number> {
    const text = (await this.#files.read(join(directory, file))).trim();
    return text === "max" ? Number.POSITIVE_INFINITY : Number(text);
  }

  /** The value of `key` in a flat keyed file (`oom_kill 3`), or undefined. */
  async readKey(directory: string, file: string, key: string): Promise<number | undefined> {
    const text = await this.#files.read(join(directory, file));
    const line = text.split("\n").find((each) => each.startsWith(`${key} `));
    return line === undefined ? undefined : Number(line.slice(key.length + 1));
  }

  async readWords(directory: string, file: string): Promise<string[]> {
    return (await this.#files.read(join(directory, file))).trim().split(/\s+/);
  }

  /** Process ids in the group; none when the group is gone. */
  async processes(directory: string): Promise<number[]> {
    try {
      const text = await this.#files.read(join(directory, "cgroup.procs"));
      return text
        .split("\n")
        .filter((line) => line !== "")
        .map(Number);
    } catch (error) {
      if (systemCode(error) === "ENOENT" || systemCode(error) === "ENODEV") return [];
      throw error;
    }
  }

  async make(directory: string): Promise<void> {
    try {
      await this.#files.make(directory);
    } catch (error) {
      const code = systemCode(error) ?? "failed";
      if (code === "EEXIST") return;
      throw new BentoError("sandbox-cgroup", `Cannot make control group ${directory}: ${code}`, {
        cause: error,
      });
    }
  }

  /** Removes an empty group. The kernel answers EBUSY for a moment after the last process has died. */
  async remove(directory: string): Promise<void> {
    const deadline = this.#clock.now() + SANDBOX_LIMITS.killMs;
    for (;;) {
      try {
        await this.#files.remove(directory);
        return;
      } catch (error) {
        const code = systemCode(error);
        if (code === "ENOENT") return;
        if (code !== "EBUSY" || this.#clock.now() > deadline) {
          throw new BentoError("sandbox-cgroup", `Cannot remove control group ${directory}: ${code}`, {
            cause: error,
          });
        }
      }
      await this.#clock.sleep(EMPTY_POLL_MS);
    }
  }

  async children(directory: string): Promise<string[]> {
    try {
      return await this.#files.list(directory);
    } catch (error) {
      if (systemCode(error) === "ENOENT") return [];
      throw error;
    }
  }

  kill(pid: number): void {
    this.#files.kill(pid);
  }

  /** Runs `strike` until the group has no process left. */
  async killUntilEmpty(directory: string, strike: () => Promise<void>): Promise<void> {
    const deadline = this.#clock.now() + SANDBOX_LIMITS.killMs;
    for (;;) {
      const processes = await this.processes(directory);
      if (processes.length === 0) return;
      if (this.#clock.now() > deadline) {
        throw new BentoError(
          "sandbox-cgroup",
          `Cannot empty control group ${directory}: ${processes.length} processes survive SIGKILL`,
        );
      }
      await strike();
      await this.#clock.sleep(EMPTY_POLL_MS);
    }
  }
}

function cannotWrite(path: string, value: string, cause: unknown): BentoError {
  const code = systemCode(cause) ?? "failed";
  return new BentoError("sandbox-cgroup", `Cannot write ${value} to ${path}: ${code}`, { cause });
}
