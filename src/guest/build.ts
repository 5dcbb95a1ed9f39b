// Builds what is bound into every sandbox: the Deno runner as one plain file, its import map, the Python runner.
// The result lies in a directory named after its content, so it is built once and never changes under a sandbox.

import { createHash, randomUUID } from "node:crypto";
import { access, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { Bug } from "../base/errors.ts";
import { GUEST_FILE } from "./images.ts";

export interface GuestFiles {
  /** Absolute; holds the files of GUEST_FILE, readable by everybody. Bound at GUEST_DIR inside a sandbox. */
  readonly dir: string;
  /** SHA-256 over all files, hex. */
  readonly hash: string;
}

/** What `bento/function` is at run time: the API is types, apart from one identity function. */
const FUNCTION_MODULE = "data:text/javascript,export const defineFunction = (definition) => definition;";

/**
 * Builds the runners into a directory below `outDir`, or finds them there. Safe to run at the same time in
 * several processes.
 */
export async function buildGuests(outDir: string): Promise<GuestFiles> {
  const files = new Map<string, string>([
    [GUEST_FILE.denoRunner, await bundleDenoRunner()],
    [GUEST_FILE.denoImports, JSON.stringify({ imports: { "bento/function": FUNCTION_MODULE } })],
    [GUEST_FILE.pythonRunner, await readFile(sourcePath("./python/runner.py"), "utf8")],
  ]);
  const digest = createHash("sha256");
  for (const [name, text] of files) digest.update(`${name}\n${text.length}\n${text}`);
  const hash = digest.digest("hex");
  const dir = join(outDir, `guest-${hash.slice(0, 16)}`);
  if (!(await exists(dir))) await writeAtOnce(outDir, dir, files);
  return { dir, hash };
}

async function bundleDenoRunner(): Promise<string> {
  const result = await build({
    entryPoints: [sourcePath("./deno/runner.ts")],
    bundle: true,
    write: false,
    format: "esm",
    platform: "neutral",
    target: "esnext",
    // Smaller to read and compile at every start; names stay, errors are for people.
    minifyWhitespace: true,
    minifySyntax: true,
    legalComments: "none",
    logLevel: "silent",
  });
  const text = result.outputFiles[0]?.text;
  if (text === undefined) throw new Bug("esbuild wrote nothing");
  return text;
}

/** A directory that appears whole or not at all. */
async function writeAtOnce(outDir: string, dir: string, files: ReadonlyMap<string, string>): Promise<void> {
  const draft = join(outDir, `.guest-${randomUUID()}`);
  await mkdir(draft, { recursive: true, mode: 0o755 });
  try {
    for (const [name, text] of files) await writeFile(join(draft, name), text, { mode: 0o644 });
    await rename(draft, dir);
  } catch (error) {
    await rm(draft, { recursive: true, force: true });
    // Another process was faster: its files are the same.
    if (!(await exists(dir))) throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

function sourcePath(relative: string): string {
  return fileURLToPath(new URL(relative, import.meta.url));
}
