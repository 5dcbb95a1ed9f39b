// FN on the command line -> what is sent to a box: a folder, a file, a package file, or the name of a bundled function.
// TypeScript and JavaScript are bundled into one readable text, with npm and relative imports inlined and the function
// API left to the runner; Python goes as it is (docs/spec/wire.md 2.2). The author's files are trusted, not the box.

import { readdir, readFile, stat } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { fromUtf8 } from "../base/bytes.ts";
import { BentoError, messageOf, systemCode } from "../base/errors.ts";
import { Limits } from "../wire/limits.ts";
import { type ManifestInput, parseManifest } from "../wire/manifest.ts";
import { type PackageInput, sourceHash } from "../wire/package.ts";
import { bundle, type Notice } from "./bundle.ts";
import { nearest } from "./nearest.ts";
import { parsePackageFile } from "./package-file.ts";

/** Functions that come with Bento. */
const FUNCTIONS_DIR = fileURLToPath(new URL("../../functions", import.meta.url));

export const ENTRY_FILES: readonly string[] = ["function.ts", "function.js", "function.mjs", "function.py"];
const SOURCE_KINDS: Readonly<Record<string, "deno" | "python">> = {
  ".ts": "deno",
  ".js": "deno",
  ".mjs": "deno",
  ".py": "python",
};
/** What `bento fn pack` writes. */
export const PACKAGE_FILE = ".json";

export interface LoadedPackage {
  readonly package: PackageInput;
  readonly name: string;
  /** The file the source came from, and the manifest; undefined where a default manifest was made up. */
  readonly files: { readonly source: string; readonly manifest: string | undefined };
  /** As it is sent: bytes of the package as JSON, and what names the code. */
  readonly bytes: number;
  readonly sourceHash: string;
  /** Files that were bundled into the source, relative to the function's folder, the entry first. */
  readonly inputs: readonly string[];
  /** From places in the source to places in `inputs`; undefined where the source is the file itself. */
  readonly sourceMap?: string | undefined;
  /** What a package file says of the code of others in it; undefined for what is no package file. */
  readonly notices?: readonly Notice[] | undefined;
}

/** Loads FN. Throws BentoError "usage" when there is no such function, "bad-package" or "bad-manifest" otherwise. */
export async function loadPackage(
  fn: string,
  options: { readonly manifest?: string | undefined; readonly functionsDir?: string } = {},
): Promise<LoadedPackage> {
  const found = await locate(fn, options.functionsDir ?? FUNCTIONS_DIR);
  const manifestFile = options.manifest ?? found.manifest;
  if (path.extname(found.source) === PACKAGE_FILE) return loadPackageFile(found.source, options.manifest);
  const kind = SOURCE_KINDS[path.extname(found.source)];
  if (!kind) {
    throw new BentoError(
      "usage",
      `Cannot use ${found.source}: expected a .ts, .js or .py file, or a package file`,
    );
  }
  const input =
    manifestFile === undefined ? defaultManifest(found.source, kind) : await readManifest(manifestFile);
  const manifest = parseManifest(input);
  // A function of the chromium image is one of the deno image that has a browser besides.
  if ((manifest.image === "chromium" ? "deno" : manifest.image) !== kind) {
    throw new BentoError(
      "bad-manifest",
      `Cannot use ${found.source}: the manifest says image "${manifest.image}", the file is for "${kind}"`,
    );
  }
  await read(found.source);
  const text = kind === "python" ? await readPython(found.source) : await bundle(found.source);
  const files = { source: found.source, manifest: manifestFile };
  const isBundled = path.resolve(path.dirname(found.source), "..") === FUNCTIONS_DIR;
  return { ...measured({ manifest: input, source: text.source, isBundled }, files), ...text };
}

async function loadPackageFile(file: string, manifestFile: string | undefined): Promise<LoadedPackage> {
  const { manifest, source, notices } = parsePackageFile(file, await read(file));
  const input = manifestFile === undefined ? (manifest as ManifestInput) : await readManifest(manifestFile);
  const files = { source: file, manifest: manifestFile ?? file };
  return { ...measured({ manifest: input, source }, files), inputs: [path.basename(file)], notices };
}

/** What is known of a package without asking anybody. */
function measured(input: PackageInput, files: LoadedPackage["files"]): Omit<LoadedPackage, "inputs"> {
  const manifest = parseManifest(input.manifest);
  // `$schema` is for the author's editor, and may name a file of this machine.
  const { $schema: _, ...sent } = input.manifest;
  const { source, isBundled } = input;
  const loaded = { manifest: sent, source };
  const bytes = Buffer.byteLength(JSON.stringify(loaded));
  if (bytes > Limits.packageBytesMax) {
    throw new BentoError(
      "bad-package",
      `Cannot send ${files.source}: ${bytes} bytes with what it imports, at most ${Limits.packageBytesMax}`,
      { advice: "Import less, or let the function fetch data at the box." },
    );
  }
  return {
    package: isBundled ? { ...loaded, isBundled } : loaded,
    name: manifest.name,
    files,
    bytes,
    sourceHash: sourceHash({ manifest, source }),
  };
}

/** Names of the functions that come with Bento. */
export async function bundledFunctions(functionsDir: string = FUNCTIONS_DIR): Promise<string[]> {
  try {
    const entries = await readdir(functionsDir, { withFileTypes: true });
    return entries
      .filter((entry) => entry.isDirectory())
      .map((entry) => entry.name)
      .sort();
  } catch (error) {
    if (systemCode(error) === "ENOENT") return [];
    throw error;
  }
}

export interface Located {
  readonly source: string;
  readonly manifest: string | undefined;
}

/** The files of FN, without reading them. Throws like `loadPackage`. */
export async function locate(fn: string, functionsDir: string = FUNCTIONS_DIR): Promise<Located> {
  const here = await kindOf(fn);
  if (here === "file") {
    // A manifest beside `function.*` is that function's; beside any other file it may be something else's.
    const beside = path.join(path.dirname(fn), "manifest.json");
    const named = fn.replace(/\.[^.]+$/, ".manifest.json");
    if ((await kindOf(named)) === "file") return { source: fn, manifest: named };
    const isEntry = ENTRY_FILES.some((entry) => entry === path.basename(fn));
    return { source: fn, manifest: isEntry && (await kindOf(beside)) === "file" ? beside : undefined };
  }
  if (here === "folder") return locateFolder(fn);
  if (!fn.includes("/") && !fn.startsWith(".") && (await kindOf(path.join(functionsDir, fn))) === "folder") {
    return locateFolder(path.join(functionsDir, fn));
  }
  const names = await bundledFunctions(functionsDir);
  const near = nearest(fn, names);
  throw new BentoError(
    "usage",
    `Cannot find function "${fn}": no such folder or file, and none of the bundled ones`,
    {
      advice: near
        ? `Did you mean ${near}?`
        : names.length > 0
          ? `Bundled functions: ${names.join(", ")}.`
          : "Name a folder or a file.",
    },
  );
}

async function locateFolder(folder: string): Promise<Located> {
  for (const entry of ENTRY_FILES) {
    const source = path.join(folder, entry);
    if ((await kindOf(source)) !== "file") continue;
    const manifest = path.join(folder, "manifest.json");
    if ((await kindOf(manifest)) === "file") return { source, manifest };
    throw new BentoError("bad-package", `Cannot use ${folder}: it has no manifest.json`, {
      advice: 'The smallest is {"name": "my-function", "image": "deno"}.',
    });
  }
  throw new BentoError("bad-package", `Cannot use ${folder}: it has none of ${ENTRY_FILES.join(", ")}`);
}

async function kindOf(file: string): Promise<"file" | "folder" | undefined> {
  try {
    const stats = await stat(file);
    return stats.isDirectory() ? "folder" : "file";
  } catch (error) {
    const code = systemCode(error);
    if (code === "ENOENT" || code === "ENOTDIR" || code === "ENAMETOOLONG") return undefined;
    throw new BentoError("bad-package", `Cannot read ${file}: ${code ?? messageOf(error)}`, { cause: error });
  }
}

/** A lone file asks for nothing: no connections, no storage. */
function defaultManifest(source: string, image: "deno" | "python"): ManifestInput {
  const name = path
    .basename(source, path.extname(source))
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replaceAll(/^-+|-+$/g, "")
    .slice(0, 64);
  return { name: name || "function", image };
}

async function readManifest(file: string): Promise<ManifestInput> {
  const bytes = await read(file);
  try {
    return JSON.parse(fromUtf8(bytes)) as ManifestInput;
  } catch (cause) {
    throw new BentoError("bad-manifest", `Cannot read ${file}: ${messageOf(cause)}`, { cause });
  }
}

async function readPython(file: string): Promise<{ source: string; inputs: string[] }> {
  const bytes = await read(file);
  try {
    const source = fromUtf8(bytes);
    if (source.trim() !== "") return { source, inputs: [path.basename(file)] };
  } catch (cause) {
    throw new BentoError("bad-package", `Cannot read ${file}: it is not UTF-8 text`, { cause });
  }
  throw new BentoError("bad-package", `Cannot use ${file}: it is empty`);
}

async function read(file: string): Promise<Uint8Array> {
  try {
    return await readFile(file);
  } catch (error) {
    throw new BentoError("bad-package", `Cannot read ${file}: ${systemCode(error) ?? messageOf(error)}`, {
      cause: error,
    });
  }
}
