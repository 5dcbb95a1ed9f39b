// What a box has on this machine besides its data directory, found from outside: control groups, laid-out images.

import { readdir, readFile } from "node:fs/promises";
import { findCgroups } from "../../src/box/sandbox/cgroup-find.ts";

/** Control groups of the box of this name (`hostName`), in whatever hierarchy. */
export async function controlGroups(name: string): Promise<string[]> {
  const found = await findCgroups(
    await readFile("/proc/self/mountinfo", "utf8"),
    await readFile("/proc/self/cgroup", "utf8"),
  );
  const bases = found.candidates.flatMap((each) =>
    each.version === 1 ? [...each.bases.values()] : [each.base],
  );
  return await entriesOf(bases, `${name}-`);
}

/** Directories with laid-out images of the box of this name. */
export async function stagesOf(dataDir: string, name: string): Promise<string[]> {
  return await entriesOf([dataDir, "/var/lib", "/run", "/var/tmp"], `${name}-image-`);
}

async function entriesOf(directories: readonly string[], prefix: string): Promise<string[]> {
  const found: string[] = [];
  for (const directory of new Set(directories)) {
    for (const entry of await readdir(directory)) {
      if (entry.startsWith(prefix)) found.push(`${directory}/${entry}`);
    }
  }
  return found;
}

/** Asks again until nothing is left; throws with what is left after `ms`. */
export async function untilNone(what: string, ask: () => Promise<readonly string[]>, ms: number) {
  const end = Date.now() + ms;
  for (;;) {
    const left = await ask();
    if (left.length === 0) return;
    if (Date.now() > end) throw new Error(`${what} after ${ms} ms: ${left.join(", ")}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
