// `bento fn init [DIR]`: a folder for a new function, made from one of the examples: it runs, has a test, and editors
// check its types and complete its manifest, without anything to install. Never writes over a file.

import { copyFile, cp, mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { systemCode } from "../../base/errors.ts";
import { type Cli, usage } from "../../client/cli/cli.ts";
import { EXIT, type ExitCode } from "../../client/cli/exit-code.ts";
import { table } from "../../client/cli/io.ts";
import { nearest } from "../../client/nearest.ts";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const EXAMPLES = path.join(ROOT, "examples");
/** Copies for the author's editor: `bento fn init` in another folder has the current ones. */
const EDITOR_FILES: Readonly<Record<string, string>> = {
  "manifest.schema.json": "docs/schema/manifest.schema.json",
  "function.ts": "src/guest/function.ts",
  "testing.d.ts": "src/client/author/testing-api.d.ts",
};
const EDITOR_FOLDER = ".bento";

const TSCONFIG = {
  compilerOptions: {
    target: "es2024",
    lib: ["es2024", "esnext.disposable", "dom", "dom.iterable", "dom.asynciterable"],
    module: "preserve",
    types: [],
    strict: true,
    noUncheckedIndexedAccess: true,
    erasableSyntaxOnly: true,
    allowImportingTsExtensions: true,
    skipLibCheck: true,
    noEmit: true,
    paths: {
      "bento/function": [`./${EDITOR_FOLDER}/function.ts`],
      "bento/testing": [`./${EDITOR_FOLDER}/testing.d.ts`],
    },
  },
  include: ["**/*.ts"],
};

export interface FnInitOptions {
  readonly python?: boolean | undefined;
  readonly template: string;
  readonly list?: boolean | undefined;
}

export async function fnInit(cli: Cli, dir: string | undefined, options: FnInitOptions): Promise<ExitCode> {
  const templates = await allTemplates();
  if (options.list) {
    for (const { name, description } of templates) cli.io.event({ template: name, description });
    if (!cli.io.json) cli.io.print(table(templates.map(({ name, description }) => [name, description])));
    return EXIT.ok;
  }
  const names = templates.map(({ name }) => name);
  const wanted = options.python ? `${options.template.replace(/-python$/, "")}-python` : options.template;
  if (!names.includes(wanted)) {
    const near = nearest(wanted, names);
    const advice = near ? `Did you mean ${near}?` : `Templates: ${names.join(", ")}.`;
    throw usage(`Cannot begin with "${wanted}": there is no such template`, advice);
  }
  const target = dir ?? wanted;
  await claim(target);
  const name = nameOf(path.basename(path.resolve(target)), wanted);
  const files = await fill(target, wanted, name);
  cli.io.result({ dir: target, template: wanted, name, files }, () => target);
  if (!cli.io.json) {
    cli.io.note(`Made ${target}: ${files.join(", ")}.`);
    if (files.includes("package.json")) cli.io.note(`  First: (cd ${target} && npm install)`);
    cli.io.note(`  Try it: ${cli.io.bold(`bento fn dev ${argument(target)}`)}`);
    cli.io.note(`  Test it: ${cli.io.bold(`bento fn test ${argument(target)}`)}`);
  }
  return EXIT.ok;
}

async function allTemplates(): Promise<{ name: string; description: string }[]> {
  const entries = await readdir(EXAMPLES, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  return Promise.all(
    names.sort().map(async (name) => {
      const { description } = await readManifest(path.join(EXAMPLES, name));
      return { name, description: String(description) };
    }),
  );
}

/** Makes the folder, or finds it empty. */
async function claim(target: string): Promise<void> {
  try {
    await mkdir(target, { recursive: true });
  } catch (error) {
    if (systemCode(error) !== "EEXIST" && systemCode(error) !== "ENOTDIR") throw error;
    throw usage(`Cannot make ${target}: a file is there`, "Name another folder.");
  }
  if ((await readdir(target)).length > 0)
    throw usage(`Cannot make ${target}: it is there and not empty`, "Name another folder.");
}

/** Returns the files that are the author's, as they are called. */
async function fill(target: string, template: string, name: string): Promise<string[]> {
  const from = path.join(EXAMPLES, template);
  await cp(from, target, {
    recursive: true,
    force: false,
    filter: (file) => path.basename(file) !== "node_modules",
  });
  const manifest = {
    ...(await readManifest(from)),
    $schema: `./${EDITOR_FOLDER}/manifest.schema.json`,
    name,
  };
  await writeFile(path.join(target, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
  const readme = await readFile(path.join(from, "README.md"), "utf8");
  await writeFile(path.join(target, "README.md"), readme.replace(/^# .*/, `# ${name}`));
  await mkdir(path.join(target, EDITOR_FOLDER));
  for (const [file, source] of Object.entries(EDITOR_FILES)) {
    await copyFile(path.join(ROOT, source), path.join(target, EDITOR_FOLDER, file));
  }
  if ((await readdir(target)).some((file) => file.endsWith(".ts")))
    await writeFile(path.join(target, "tsconfig.json"), `${JSON.stringify(TSCONFIG, null, 2)}\n`);
  return (await readdir(target)).sort();
}

async function readManifest(folder: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(path.join(folder, "manifest.json"), "utf8")) as Record<string, unknown>;
}

/** A folder's name as a function may be called. */
function nameOf(folder: string, fallback: string): string {
  const name = folder
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replaceAll(/^-+|-+$/g, "")
    .slice(0, 64);
  return name || fallback;
}

/** As FN on the command line, where a bare name could be a bundled function. */
function argument(target: string): string {
  return /[/.]/.test(target) ? target : `./${target}`;
}
