// What processes hold in memory, as the kernel counts it (proc_pid_smaps(5)).

import { readdir, readFile } from "node:fs/promises";

export interface Memory {
  /** Proportional share: pages that several processes map count in parts. */
  readonly pssBytes: number;
  /** Pages that nobody else maps: what ending the process would free. */
  readonly privateBytes: number;
}

// Sample of /proc/PID/smaps_rollup: "Pss:               12345 kB"
export async function readMemory(pid: number): Promise<Memory> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, "utf8");
  const field = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "mu").exec(text)?.[1] ?? 0) * 1024;
  return { pssBytes: field("Pss"), privateBytes: field("Private_Clean") + field("Private_Dirty") };
}

/** The processes below `pid`, without it. */
export async function descendants(pid: number): Promise<{ pid: number; command: string }[]> {
  const found: { pid: number; command: string }[] = [];
  for (const task of await readdir(`/proc/${pid}/task`)) {
    const children = await readFile(`/proc/${pid}/task/${task}/children`, "utf8").catch(() => "");
    for (const child of children.split(" ").filter((text) => text !== "")) {
      const command = await readFile(`/proc/${child}/comm`, "utf8").catch(() => "");
      found.push({ pid: Number(child), command: command.trim() }, ...(await descendants(Number(child))));
    }
  }
  return found;
}
