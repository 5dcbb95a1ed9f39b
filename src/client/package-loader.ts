// FN on the command line -> what is sent to a box: a folder, a file, or the name of a bundled function. TypeScript
// and JavaScript are bundled into one readable text, with npm and relative imports inlined and the function API
// left to the runner; Python goes as it is (docs/spec/wire.md 2.2). The author's files are trusted, not the box.

import { readdir, readFile, stat } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { fromUtf8 } from "../base/bytes.ts";
import { BentoError, messageOf, systemCode } from "../base/errors.ts";
import { Limits } from "../wire/limits.ts";
import { type ManifestInput, parseManifest } from "../wire/manifest.ts";
import { type PackageInput, sourceHash } from "../wire/package.ts";
import { nearest } from "./nearest.ts";

/** Functions that come with Bento. */
const FUNCTIONS_DIR = fileURLToPath(new URL("../../functions", import.meta.url));

const ENTRY_FILES = ["function.ts", "function.js", "function.mjs", "function.py"] as const;
const SOURCE_KINDS: Readonly<Record<string, "deno" | "python">> = {
  ".ts": "deno",
  ".js": "deno",
  ".mjs": "deno",
  ".py": "python",
};
/** Under these names a function may import its API; the runner knows the last one. */
const API_NAMES = /^(#bento\/function|bento-tor\/function|bento\/function)$/;

export interface LoadedPackage {
  readonly package: PackageInput;
  readonly name: string;
  /** The file the source came from, and the manifest; undefined where a default manifest was made up. */
  readonly files: { readonly source: string; readonly manifest: string | undefined };
  /** As it is sent: bytes of the package as JSON, and what names the code. */
  readonly bytes: number;
  readonly sourceHash: string;
  /** Files that were bundled into the source, the entry first. */
  readonly inputs: readonly string[];
}

/** Loads FN. Throws BentoError "usage" when there is no such function, "bad-package" or "bad-manifest" otherwise. */
export async function loadPackage(
  fn: string,
  options: { readonly manifest?: string | undefined; readonly functionsDir?: string } = {},
): Promise<LoadedPackage> {
  const found = await locate(fn, options.functionsDir ?? FUNCTIONS_DIR);
  const manifestFile = options.manifest ?? found.manifest;
  const kind = SOURCE_KINDS[path.extname(found.source)];
  if (!kind) {
    throw new BentoError("usage", `Cannot use ${found.source}: expected a .ts, .js or .py file`);
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
  const { source, inputs } = kind === "python" ? await readPython(found.source) : await bundle(found.source);
  const loaded = { manifest: input, source };
  const bytes = Buffer.byteLength(JSON.stringify(loaded));
  if (bytes > Limits.packageBytesMax) {
    throw new BentoError(
      "bad-package",
      `Cannot send ${found.source}: ${bytes} bytes with what it imports, at most ${Limits.packageBytesMax}`,
      { advice: "Import less, or let the function fetch data at the box." },
    );
  }
  return {
    package: loaded,
    name: manifest.name,
    files: { source: found.source, manifest: manifestFile },
    bytes,
    sourceHash: sourceHash({ manifest, source }),
    inputs,
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

interface Located {
  readonly source: string;
  readonly manifest: string | undefined;
}

async function locate(fn: string, functionsDir: string): Promise<Located> {
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
    if (source.trim() !== "") return { source, inputs: [file] };
  } catch (cause) {
    throw new BentoError("bad-package", `Cannot read ${file}: it is not UTF-8 text`, { cause });
  }
  throw new BentoError("bad-package", `Cannot use ${file}: it is empty`);
}

async function bundle(file: string): Promise<{ source: string; inputs: string[] }> {
  await read(file);
  const esbuild = await import("esbuild");
  try {
    const result = await esbuild.build({
      entryPoints: [path.resolve(file)],
      // Names of files go into the text: they are relative to the function, and tell the box nothing of this machine.
      absWorkingDir: path.dirname(path.resolve(file)),
      bundle: true,
      write: false,
      metafile: true,
      format: "esm",
      platform: "neutral",
      mainFields: ["module", "main"],
      conditions: ["deno", "worker", "import"],
      target: "es2024",
      charset: "utf8",
      legalComments: "none",
      logLevel: "silent",
      plugins: [
        {
          name: "function-api",
          setup(build) {
            build.onResolve({ filter: API_NAMES }, () => ({ path: "bento/function", external: true }));
            build.onResolve({ filter: /^node:/ }, ({ path: name }) => ({ path: name, external: true }));
          },
        },
      ],
    });
    // Bundles begin with the name of a file. Deno takes 1.6 ms longer to import a module that begins with a comment.
    const source = (result.outputFiles[0]?.text ?? "").replace(/^\/\/ .*\n/, "");
    return { source, inputs: Object.keys(result.metafile.inputs).toReversed() };
  } catch (cause) {
    throw new BentoError("bad-package", `Cannot bundle ${file}: ${bundleErrors(cause)}`, {
      cause,
      advice:
        "A function is sent as one text: install what it imports with npm, or import it by a relative path.",
    });
  }
}

/** `path:line: text` of the first errors that esbuild found. */
function bundleErrors(cause: unknown): string {
  const errors: unknown = cause instanceof Error ? Reflect.get(cause, "errors") : undefined;
  if (!Array.isArray(errors)) return messageOf(cause);
  return (errors as { text: string; location: { file: string; line: number } | null }[])
    .slice(0, 3)
    .map(({ text, location }) => (location ? `${location.file}:${location.line}: ${text}` : text))
    .join("; ");
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
