// Builds what is bound into every sandbox: the Deno runner as one plain file, its import map, the Python runner
// compiled. The result lies in a directory named after what it was made from: made once, never changed under a
// sandbox.

import { execFile } from "node:child_process";
import { createHash, randomUUID } from "node:crypto";
import { access, chmod, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { build, version as esbuildVersion, stop } from "esbuild";
import { Bug } from "../base/errors.ts";
import type { ImageName } from "../wire/policy.ts";
import {
  DENO_IMPORTS_FILE,
  type GuestRunner,
  guestRunners,
  PYTHON_TOR_FILE,
  READY_GLOBAL,
  readyFile,
} from "./images.ts";

const run = promisify(execFile);

export interface GuestFiles {
  /** Absolute; readable by everybody, nothing in it is secret. Bound at GUEST_DIR inside a sandbox. */
  readonly dir: string;
  /** Without `python` where there is no interpreter. */
  readonly runners: Readonly<Partial<Record<ImageName, GuestRunner>>>;
}

/** A function that the box comes with, and that instances are to wait for. */
export interface ReadySource {
  readonly source: string;
  readonly sourceHash: string;
  /** Whether it will have `fetch` (images.ts, bridgesSockets). */
  readonly bridges: boolean;
}

/** The interpreter of the python image. */
export const PYTHON_PATH = "/usr/bin/python3";

/** What `bento/function` is at run time: the API is types, apart from one identity function. */
const FUNCTION_MODULE = "data:text/javascript,export const defineFunction = (definition) => definition;";

/** What the runner uses of the globals, bound before a function can replace it. */
const GLOBALS =
  "AbortController, Array, Blob, DataView, Deno, DOMException, Error, JSON, Map, Math, Number, Object, Promise, " +
  "ReadableStream, Reflect, RegExp, Request, Response, String, Symbol, TextDecoder, TextEncoder, TransformStream, TypeError, " +
  "URL, Uint8Array, WritableStream";

/** Bytecode as Python itself writes it, with the name that errors of ours would show and without docstrings. */
const COMPILE = `import sys, py_compile
py_compile.compile(sys.argv[1], cfile=sys.argv[2], dfile=sys.argv[3], doraise=True, optimize=2,
    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)`;

/**
 * Builds the runners into a directory below `outDir`, or finds them there; with a main file for each of `ready`. Safe to
 * run in several processes at once.
 */
export async function buildGuests(outDir: string, ready: readonly ReadySource[] = []): Promise<GuestFiles> {
  const python = await stat(PYTHON_PATH).catch(() => undefined);
  const digest = createHash("sha256").update(`${esbuildVersion} ${python?.size} ${python?.mtimeMs}\n`);
  for (const room of ["base", "wire", "guest"]) await digestSources(digest, sourcePath(`../${room}`));
  for (const { sourceHash, bridges } of ready) digest.update(`${sourceHash} ${bridges}\n`);
  const dir = join(outDir, `guest-${digest.digest("hex").slice(0, 16)}`);
  const { deno, chromium, python: pythonRunner } = guestRunners();
  const runners = { deno, chromium, ...(python ? { python: pythonRunner } : {}) };
  if (!(await exists(dir))) {
    await appearAtOnce(outDir, dir, async (draft) => {
      await writeFile(join(draft, deno.file), await bundleDenoRunner());
      const imports = { imports: { "bento/function": FUNCTION_MODULE } };
      await writeFile(join(draft, DENO_IMPORTS_FILE), JSON.stringify(imports));
      for (const each of ready) await writeReady(draft, deno.file, each);
      // Beside the runner, which loads it for functions that speak with tor themselves.
      const compiled = { "runner.py": pythonRunner.file, "tor_control.py": PYTHON_TOR_FILE };
      for (const [name, file] of python ? Object.entries(compiled) : []) {
        const source = sourcePath(`./python/${name}`);
        await run(PYTHON_PATH, ["-I", "-S", "-B", "-c", COMPILE, source, join(draft, file), name]);
      }
    });
  }
  return { dir, runners };
}

/**
 * The runner, with a way to load the function. Deno reads what a literal `import()` names without being allowed to read
 * files.
 */
async function writeReady(draft: string, runner: string, ready: ReadySource): Promise<void> {
  const main = readyFile(ready.sourceHash);
  const file = `bundled-${main}`;
  await writeFile(join(draft, file), ready.source);
  const start = `{ load: () => import("./${file}"), bridges: ${ready.bridges} }`;
  const text = `globalThis.${READY_GLOBAL} = ${start};\nawait import("./${runner}");\n`;
  await writeFile(join(draft, main), text);
}

async function digestSources(digest: ReturnType<typeof createHash>, directory: string): Promise<void> {
  const names = await readdir(directory, { recursive: true });
  for (const name of names.sort()) {
    if (!/\.(ts|js|py)$/.test(name) || name.includes(".test.")) continue;
    const text = await readFile(join(directory, name));
    digest.update(`${name} ${text.length}\n`).update(text);
  }
}

async function bundleDenoRunner(): Promise<string> {
  const result = await build({
    entryPoints: [sourcePath("./deno/runner.ts")],
    bundle: true,
    write: false,
    format: "esm",
    platform: "neutral",
    external: ["node:*"],
    target: "esnext",
    // Smaller to read and compile at every start; names stay, errors are for people.
    minifyWhitespace: true,
    minifySyntax: true,
    legalComments: "none",
    banner: { js: `const { ${GLOBALS} } = globalThis;` },
    logLevel: "silent",
  });
  // esbuild's helper process would stay: a box that shares its control group with another process cannot hand
  // controllers on to its instances (cgroup v2), and it would hold memory for nothing.
  await stop();
  const text = result.outputFiles[0]?.text;
  if (text === undefined) throw new Bug("esbuild wrote nothing");
  return text;
}

/** A directory that is there whole or not at all, whatever umask and whoever else makes it. */
async function appearAtOnce(
  outDir: string,
  dir: string,
  fill: (draft: string) => Promise<void>,
): Promise<void> {
  const draft = join(outDir, `.guest-${randomUUID()}`);
  await mkdir(draft, { recursive: true });
  try {
    await fill(draft);
    for (const name of await readdir(draft)) await chmod(join(draft, name), 0o444);
    await chmod(draft, 0o755);
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
