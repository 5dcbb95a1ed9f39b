// Checks which room imports which (ARCHITECTURE.md, "Rooms"): one table, every import of every file. Prints each
// import that breaks it and exits with 1. Run by `bento test`.

import { glob, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("../", import.meta.url));

/** Room -> prefixes of files outside it that it may import; with "!" those that it may not all the same. */
export const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  "src/base/": [],
  "src/wire/": ["src/base/"],
  "src/tor/": ["src/base/"],
  "src/onion/": ["src/base/"],
  "src/testnet/": ["src/tor/", "src/base/"],
  "src/guest/": ["src/wire/", "src/base/"],
  // From guest only what builds its files and says how they are started.
  "src/box/": [
    "src/wire/",
    "src/tor/",
    // For functions that speak Tor's protocol themselves, the box opens the links.
    "src/onion/link/",
    "src/web/",
    "src/base/",
    "src/guest/build.ts",
    "src/guest/images.ts",
  ],
  // From onion only keys and addresses: what a client starts, it does not speak.
  "src/client/": [
    "src/wire/",
    "src/tor/",
    "src/web/",
    "src/base/",
    "src/onion/crypto/blinding.ts",
    "src/onion/service/onion-address.ts",
  ],
  "src/web/": ["src/wire/", "src/base/"],
  "src/bin/": ["src/"],
  // Functions run elsewhere: the API, and codecs that depend on nothing else.
  "functions/": [
    "src/guest/function.ts",
    "src/wire/",
    "src/base/",
    "src/onion/",
    // Functions have no sockets: their box opens links for them.
    "!src/onion/link/tls-link.ts",
    "!src/onion/onion.ts",
  ],
  // What authors begin with: they have nothing of ours but what it is called for everybody.
  "examples/": [],
  "test/": ["src/", "functions/", "tools/"],
  "experiments/": ["src/", "functions/", "test/support/"],
};

export interface BrokenRule {
  readonly file: string;
  readonly line: number;
  readonly imported: string;
}

/** The imports of one file that its room may not make. `file` is relative to the root, with forward slashes. */
export function brokenRules(file: string, text: string): BrokenRule[] {
  const room = Object.keys(MAY_IMPORT).find((prefix) => file.startsWith(prefix));
  if (room === undefined) return [];
  const allowed = MAY_IMPORT[room] ?? [];
  const broken: BrokenRule[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    for (const imported of importsOf(line)) {
      const target = resolve(file, imported);
      if (target === undefined || target.startsWith(room)) continue;
      // Fakes and sample data that several rooms' tests share.
      if (file.endsWith(".test.ts") && target.startsWith("test/")) continue;
      const matches = (rule: string) => target.startsWith(rule.replace(/^!/u, ""));
      const isBanned = allowed.some((rule) => rule.startsWith("!") && matches(rule));
      if (isBanned || !allowed.some((rule) => !rule.startsWith("!") && matches(rule)))
        broken.push({ file, line: index + 1, imported: target });
    }
  }
  return broken;
}

/** Module names in one line of source: statements begin a line or close a list, dynamic imports stand anywhere. */
function* importsOf(line: string): Generator<string> {
  if (!/^(import|export|\})|^[^"'`/]*\bimport\(/.test(line)) return;
  for (const match of line.matchAll(/\b(?:from|import)\s*\(?\s*["']([^"']+)["']/g)) {
    if (match[1] !== undefined) yield match[1];
  }
}

/** A file of ours, relative to the root; undefined for packages and Node's own modules. */
function resolve(file: string, imported: string): string | undefined {
  if (imported === "#bento/function") return "src/guest/function.ts";
  if (!imported.startsWith(".")) return undefined;
  return path.posix.normalize(path.posix.join(path.posix.dirname(file), imported));
}

async function main(): Promise<number> {
  let count = 0;
  const patterns = Object.keys(MAY_IMPORT).map((room) => `${room}**/*.ts`);
  for await (const found of glob(patterns, { cwd: ROOT, exclude: ["**/node_modules/**"] })) {
    const file = found.split(path.sep).join("/");
    for (const { line, imported } of brokenRules(file, await readFile(path.join(ROOT, file), "utf8"))) {
      console.error(`${file}:${line}: imports ${imported}, which its room may not`);
      count++;
    }
  }
  return count === 0 ? 0 : 1;
}

if (import.meta.main) process.exitCode = await main();
