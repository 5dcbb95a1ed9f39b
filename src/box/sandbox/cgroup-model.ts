// A model of the kernel's control group file systems, for the compliance tests: machines have either v1 or v2, and
// few allow tests to make groups. It keeps the rules the drivers depend on: files appear with the directory, a group
// with processes or children cannot be removed, controllers must be handed down, limits are validated.

import { basename, dirname, join } from "node:path";
import type { ControlFiles } from "./cgroup-files.ts";

function failure(code: string): Error {
  return Object.assign(new Error(code), { code });
}

const V1_FILES: Readonly<Record<string, readonly (readonly [string, string])[]>> = {
  memory: [
    ["memory.limit_in_bytes", "9223372036854771712"],
    ["memory.memsw.limit_in_bytes", "9223372036854771712"],
    ["memory.usage_in_bytes", "0"],
    ["memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0"],
  ],
  pids: [
    ["pids.max", "max"],
    ["pids.current", "0"],
  ],
  cpu: [["cpu.cfs_quota_us", "-1"]],
  cpuacct: [["cpuacct.usage", "0"]],
  freezer: [["freezer.state", "THAWED"]],
};

const V2_FILES: readonly (readonly [string, string])[] = [
  ["memory.max", "max"],
  ["memory.swap.max", "max"],
  ["memory.current", "0"],
  ["memory.oom.group", "0"],
  ["memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0"],
  ["pids.max", "max"],
  ["pids.current", "0"],
  ["cpu.max", "max 100000"],
  ["cpu.stat", "usage_usec 0\nuser_usec 0"],
];

/** Groups under one mount point. `controllers` is one v1 controller's name, or "v2". */
export class CgroupModel implements ControlFiles {
  readonly #version: 1 | 2;
  readonly #files = new Map<string, Map<string, string>>();
  /** Which group each process is in, by hierarchy (the v1 controller, or ""). */
  readonly #places = new Map<string, string>();
  /** Processes that were sent SIGKILL while their group was frozen. */
  readonly #doomed = new Set<number>();

  constructor(version: 1 | 2, roots: readonly string[]) {
    this.#version = version;
    for (const root of roots) this.#files.set(root, this.#freshFiles(root));
    if (version === 2) {
      for (const root of roots) this.#files.get(root)?.set("cgroup.controllers", "cpu memory pids");
    }
  }

  /** Starts a process in a group. */
  spawn(directory: string, pid: number): void {
    this.#places.set(`${this.#hierarchy(directory)} ${pid}`, directory);
  }

  get(path: string): string | undefined {
    return this.#files.get(dirname(path))?.get(basename(path));
  }

  set(path: string, value: string): void {
    this.#files.get(dirname(path))?.set(basename(path), value);
  }

  get groups(): string[] {
    return [...this.#files.keys()];
  }

  async make(directory: string): Promise<void> {
    if (this.#files.has(directory)) throw failure("EEXIST");
    if (!this.#files.has(dirname(directory))) throw failure("ENOENT");
    this.#files.set(directory, this.#freshFiles(directory));
  }

  async remove(directory: string): Promise<void> {
    if (!this.#files.has(directory)) throw failure("ENOENT");
    const isBusy = this.#members(directory).length > 0 || (await this.list(directory)).length > 0;
    if (isBusy) throw failure("EBUSY");
    this.#files.delete(directory);
  }

  async read(path: string): Promise<string> {
    const files = this.#files.get(dirname(path));
    if (!files) throw failure("ENOENT");
    if (basename(path) === "cgroup.procs") return this.#members(dirname(path)).join("\n");
    const value = files.get(basename(path));
    if (value === undefined) throw failure(basename(path) === "cgroup.kill" ? "EINVAL" : "ENOENT");
    return `${value}\n`;
  }

  async write(path: string, value: string): Promise<void> {
    const directory = dirname(path);
    const name = basename(path);
    const files = this.#files.get(directory);
    if (!files) throw failure("ENOENT");
    if (name === "cgroup.procs") {
      // "No Internal Process Constraint"
      if ((files.get("cgroup.subtree_control") ?? "") !== "") throw failure("EBUSY");
      this.spawn(directory, Number(value));
      return;
    }
    if (name === "cgroup.kill") {
      for (const pid of this.#members(directory)) this.kill(pid);
      return;
    }
    if (!files.has(name)) throw failure("ENOENT");
    if (name === "cgroup.subtree_control") return this.#delegate(directory, files, value);
    if (name.startsWith("memory.") && name.endsWith("limit_in_bytes")) this.#checkMemory(files, name, value);
    files.set(name, value);
    if (name === "freezer.state" && value === "THAWED") this.#reap();
  }

  writeNow(path: string, value: string): void {
    const files = this.#files.get(dirname(path));
    if (!files?.has(basename(path))) throw failure("ENOENT");
    files.set(basename(path), value);
  }

  async list(directory: string): Promise<string[]> {
    if (!this.#files.has(directory)) throw failure("ENOENT");
    return this.groups
      .filter((each) => dirname(each) === directory && each !== directory)
      .map((each) => basename(each));
  }

  kill(pid: number): void {
    this.#doomed.add(pid);
    this.#reap();
  }

  #reap(): void {
    for (const pid of this.#doomed) {
      const places = [...this.#places].filter(([key]) => key.endsWith(` ${pid}`));
      if (places.some(([, directory]) => this.#files.get(directory)?.get("freezer.state") === "FROZEN"))
        continue;
      for (const [key] of places) this.#places.delete(key);
      this.#doomed.delete(pid);
    }
  }

  #members(directory: string): number[] {
    return [...this.#places].filter(([, at]) => at === directory).map(([key]) => Number(key.split(" ")[1]));
  }

  #hierarchy(directory: string): string {
    return this.#version === 2 ? "" : (directory.split("/")[1] ?? "");
  }

  #freshFiles(directory: string): Map<string, string> {
    if (this.#version === 1) return new Map(V1_FILES[this.#hierarchy(directory)]);
    const enabled = this.#files.get(dirname(directory))?.get("cgroup.subtree_control") ?? "";
    const handed = V2_FILES.filter(
      ([name]) => name === "cpu.stat" || enabled.includes(name.split(".")[0] ?? ""),
    );
    return new Map([...handed, ["cgroup.subtree_control", ""], ["cgroup.controllers", enabled]]);
  }

  #delegate(directory: string, files: Map<string, string>, value: string): void {
    if (this.#members(directory).length > 0) throw failure("EBUSY");
    const wanted = value.replaceAll("+", "");
    for (const each of wanted.split(" ")) {
      if (!files.get("cgroup.controllers")?.includes(each)) throw failure("ENOENT");
    }
    files.set("cgroup.subtree_control", wanted);
    for (const child of this.groups.filter((each) => dirname(each) === directory)) {
      const known = this.#files.get(child);
      for (const [name, text] of this.#freshFiles(join(child))) if (!known?.has(name)) known?.set(name, text);
    }
  }

  /** memory + swap may not be below memory, and no limit below what is used. */
  #checkMemory(files: Map<string, string>, name: string, value: string): void {
    const other = Number(
      files.get(name.includes("memsw") ? "memory.limit_in_bytes" : "memory.memsw.limit_in_bytes"),
    );
    const isCrossed = name.includes("memsw") ? Number(value) < other : Number(value) > other;
    if (isCrossed) throw failure("EINVAL");
    if (Number(value) < Number(files.get("memory.usage_in_bytes"))) throw failure("EBUSY");
  }
}
