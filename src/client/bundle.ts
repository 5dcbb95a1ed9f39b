// One text out of a function's file and everything it imports, npm packages included (docs/spec/wire.md 2.2). The same
// files give the same bytes on every machine: nothing in the text says where they lie. The author's side; trusted.

import { readFile } from "node:fs/promises";
import path from "node:path";
import type { Metafile, OutputFile } from "esbuild";
import { z } from "zod";
import { BentoError, messageOf } from "../base/errors.ts";

/** Under these names a function may import its API; the runner knows the last one. */
const API_NAMES = /^(#bento\/function|bento-tor\/function|bento\/function)$/;
/** Names that a package's licence has in its folder, the usual one first. */
const LICENCE_FILES = ["LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "license", "license.md", "COPYING"];

export interface Bundle {
  readonly source: string;
  /** Files that went in, relative to the function's folder, the entry first. */
  readonly inputs: readonly string[];
  /** From places in `source` to places in `inputs`: a source map (ECMA-426), as JSON. */
  readonly sourceMap: string;
}

/** An npm package that a bundle holds code of. */
export interface Notice {
  readonly name: string;
  readonly version: string;
  /** SPDX expression, as the package says. */
  readonly licence: string;
  /** The licence file; undefined where the package ships none. */
  readonly text?: string | undefined;
}

/** Bundles `file`. Throws BentoError "bad-package" that names file and line. */
export async function bundle(file: string): Promise<Bundle> {
  const folder = path.dirname(path.resolve(file));
  const esbuild = await import("esbuild");
  try {
    const result = await esbuild.build({
      entryPoints: [path.resolve(file)],
      // Names of files go into the text: they are relative to the function, and tell the box nothing of this machine.
      absWorkingDir: folder,
      outfile: "function.js",
      bundle: true,
      write: false,
      metafile: true,
      sourcemap: "external",
      sourcesContent: false,
      format: "esm",
      platform: "neutral",
      mainFields: ["module", "main"],
      conditions: ["deno", "worker", "import"],
      target: "es2024",
      charset: "utf8",
      // What licences ask to be kept stays, after the code: a module must not begin with a comment, see below.
      legalComments: "eof",
      logLevel: "silent",
      // A tsconfig.json of a folder above must not change what is sent.
      tsconfigRaw: {},
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
    return bundleOf(result.outputFiles, result.metafile);
  } catch (cause) {
    throw new BentoError("bad-package", `Cannot bundle ${file}: ${bundleErrors(cause)}`, {
      cause,
      advice:
        "A function is sent as one text: install what it imports with npm, or import it by a relative path.",
    });
  }
}

function bundleOf(files: readonly OutputFile[], metafile: Metafile): Bundle {
  const text = files.find((each) => !each.path.endsWith(".map"))?.text ?? "";
  const sourceMap = files.find((each) => each.path.endsWith(".map"))?.text ?? "{}";
  const inputs = Object.keys(metafile.inputs).toReversed();
  const placeless = withoutPlaces(text, inputs);
  // Bundles begin with the name of a file. Deno takes 1.6 ms longer to import a module that begins with a comment.
  const source = placeless.replace(/^\/\/ .*\n/, "");
  return { source, inputs, sourceMap: source === placeless ? sourceMap : withoutFirstLine(sourceMap) };
}

/**
 * esbuild names each input where its code begins, `// ../../x/node_modules/a/index.js`, and CommonJS modules by a
 * key, `"../../x/node_modules/a/index.js"(exports) {`. Where those folders lie depends on the machine.
 */
function withoutPlaces(text: string, inputs: readonly string[]): string {
  const moved = new Map(inputs.map((input) => [input, placeless(input)]));
  return text
    .split("\n")
    .map((line) => {
      const [, head, name, tail] =
        /^(\/\/ )(\S.*)()$/.exec(line) ?? /^( *(?:async )?")([^"]+)("\(.*)$/.exec(line) ?? [];
      const to = name === undefined ? undefined : moved.get(name);
      return to === undefined ? line : `${head}${to}${tail}`;
    })
    .join("\n");
}

function placeless(input: string): string {
  const at = input.lastIndexOf("node_modules/");
  return at === -1 ? input.replace(/^(\.\.\/)+/, "") : input.slice(at);
}

/** Each `;` of the mappings ends a line of the text. */
function withoutFirstLine(sourceMap: string): string {
  const map = JSON.parse(sourceMap) as { mappings: string };
  return JSON.stringify({ ...map, mappings: map.mappings.replace(/^[^;]*;/, "") });
}

const packageJson = z.object({
  name: z.string(),
  version: z.string().default(""),
  license: z.union([z.string(), z.object({ type: z.string() }).transform(({ type }) => type)]).default(""),
});

/** The npm packages among `inputs`, by name. */
export async function noticesOf(folder: string, inputs: readonly string[]): Promise<Notice[]> {
  const roots = new Set<string>();
  for (const input of inputs) {
    const root = /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1];
    if (root !== undefined) roots.add(root);
  }
  const notices = await Promise.all([...roots].map((root) => noticeOf(path.join(folder, root))));
  return notices.sort((a, b) => compare(`${a.name}@${a.version}`, `${b.name}@${b.version}`));
}

async function noticeOf(root: string): Promise<Notice> {
  const text = await readFile(path.join(root, "package.json"), "utf8").catch(() => "{}");
  const { name, version, license } = packageJson
    .catch({ name: path.basename(root), version: "", license: "" })
    .parse(JSON.parse(text));
  const notice = { name, version, licence: license || "not said" };
  for (const file of LICENCE_FILES) {
    const licence = await readFile(path.join(root, file), "utf8").catch(() => undefined);
    if (licence !== undefined) return { ...notice, text: licence };
  }
  return notice;
}

/** By code units: the same order everywhere. */
function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
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
