// Which shared libraries programs need, found as the dynamic linker would find them, so that a mini-root holds those
// and no more. Host side; reads only files of the operating system.

import { access } from "node:fs/promises";
import { join } from "node:path";
import { readElfNeeds } from "./elf.ts";
import type { MissingPart, Placement } from "./image.ts";

/** Needed by glibc itself when a thread ends; no program names it. */
const LIBGCC = "libgcc_s.so.1";

/** Where the dynamic linker looks without a cache file; Debian's directory first. */
function libraryDirectories(): string[] {
  const triple = process.arch === "arm64" ? "aarch64-linux-gnu" : "x86_64-linux-gnu";
  return [`/lib/${triple}`, `/usr/lib/${triple}`, "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
}

/**
 * The closure of all libraries that `programs` need, with the dynamic linker and libgcc.
 * @param further directories that some of them name for their own libraries (DT_RUNPATH).
 */
export async function findLibraries(
  programs: readonly string[],
  further: readonly string[] = [],
): Promise<{ found: Placement[]; missing: MissingPart[] }> {
  const found = new Map<string, Placement>();
  const missing: MissingPart[] = [];
  const seen = new Set<string>([LIBGCC]);
  const names = [LIBGCC];
  const inspect = async (path: string) => {
    const needs = await readElfNeeds(path);
    const interpreter = needs?.interpreter;
    if (interpreter !== undefined) found.set(interpreter, { source: interpreter, target: interpreter });
    for (const name of needs?.libraries ?? []) {
      if (seen.has(name)) continue;
      seen.add(name);
      names.push(name);
    }
  };
  for (const program of programs) await inspect(program);
  const places = libraryDirectories().concat(further);
  for (let name = names.shift(); name !== undefined; name = names.shift()) {
    const path = await firstExisting(places.map((place) => join(place, name)));
    if (path === undefined) {
      missing.push({ what: `library ${name}`, fix: `Install the package that contains ${name}.` });
      continue;
    }
    found.set(path, { source: path, target: path });
    await inspect(path);
  }
  return { found: [...found.values()], missing };
}

async function firstExisting(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) {
    const isThere = await access(path).then(
      () => true,
      () => false,
    );
    if (isThere) return path;
  }
  return undefined;
}
