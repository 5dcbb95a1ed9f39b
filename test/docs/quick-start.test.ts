// The quick starts, as a reader would run them: the marked blocks of README and the guides, in order, one shell a
// page, in an empty folder with an empty home. A block `<!-- run -->` must succeed, and print the `text` block after it,
// if there is one. A block `<!-- run in another terminal -->` stays until the page's end. A block under the name of
// a file is written there. README's last block stops the network that its first one started, after all pages.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { type Block, blocksOf } from "./markdown.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
/** A page that is still not through is stuck: milliseconds. */
const PAGE_MS = 240_000;
const STATE = ".local/state/bento";

const base = await mkdtemp(path.join(tmpdir(), "bento-docs-"));
after(async () => {
  await runScript(await reader("README.md"), "./bento net down");
  await rm(base, { recursive: true, force: true });
});

test("README: its steps work on a private network", async () => {
  const steps = await runnable("README.md");
  assert.ok(steps.length >= 3);
  assert.match(steps.at(-1)?.block.text ?? "", /net down/);
  await readAndRun("README.md", steps.slice(0, -1));
});

for (const page of ["docs/guide/user.md", "docs/guide/author.md", "docs/guide/operator.md"]) {
  test(`${page}: its steps work on the network that README starts`, async () => {
    const home = await reader(page);
    await mkdir(path.join(home, STATE), { recursive: true });
    await copyFile(
      path.join(await reader("README.md"), STATE, "context.json"),
      path.join(home, STATE, "context.json"),
    );
    const steps = await runnable(page);
    assert.ok(steps.length > 0);
    await readAndRun(page, steps);
  });
}

test("README: its last step stops the network", async () => {
  await readAndRun("README.md", (await runnable("README.md")).slice(-1));
  const status = await runScript(await reader("README.md"), "./bento net status");
  assert.equal(status.code, 5, status.err);
});

test("docs/guide/author.md: every sample is a file that the steps use", async () => {
  const page = "docs/guide/author.md";
  const steps = await runnable(page);
  const samples = blocksOf(await readFile(path.join(ROOT, page), "utf8")).filter(({ language }) =>
    ["ts", "py", "json"].includes(language),
  );
  assert.ok(samples.length >= 8);
  for (const { file, line } of samples) {
    assert.ok(file !== undefined, `${page}:${line}: a sample without a file name`);
    const used = file.includes("/") ? path.dirname(file) : file;
    assert.ok(
      steps.some(
        ({ block }) =>
          block.text.includes(`./bento run ./${used}`) ||
          block.text.includes(`run ${used}`) ||
          block.text.includes(`fn test ./${used}`),
      ),
      `${page}:${line}: no step runs ${file}`,
    );
  }
});

interface Step {
  readonly block: Block;
  /** The `text` block right after it. */
  readonly shown: string | undefined;
}

async function runnable(page: string): Promise<Step[]> {
  const blocks = blocksOf(await readFile(path.join(ROOT, page), "utf8"));
  return blocks.flatMap((block, index) => {
    if (block.mark === undefined) return [];
    assert.equal(block.language, "sh", `${page}:${block.line}: only sh blocks run`);
    const next = blocks[index + 1];
    return [{ block, shown: next?.language === "text" ? next.text : undefined }];
  });
}

/** A reader of `page`: a folder that is home and working directory, with `./bento` and the samples of the page in it. */
async function reader(page: string): Promise<string> {
  const home = path.join(base, path.basename(page, ".md"));
  if ((await mkdir(home, { recursive: true })) === undefined) return home;
  await symlink(path.join(ROOT, "bento"), path.join(home, "bento"));
  // What `npm install /path/to/bento` does.
  await mkdir(path.join(home, "node_modules"));
  await symlink(ROOT, path.join(home, "node_modules/bento-tor"));
  for (const { file, text } of blocksOf(await readFile(path.join(ROOT, page), "utf8"))) {
    if (file === undefined) continue;
    await mkdir(path.dirname(path.join(home, file)), { recursive: true });
    await writeFile(path.join(home, file), text);
  }
  return home;
}

/** Runs the steps in one shell; those for another terminal in shells of their own, until the end. */
async function readAndRun(page: string, steps: readonly Step[]): Promise<void> {
  const home = await reader(page);
  await using others = new AsyncDisposableStack();
  const own: Step[] = [];
  for (const { block, shown } of steps) {
    if (block.mark === "run") {
      own.push({ block, shown });
      continue;
    }
    assert.equal(block.mark, "run in another terminal", `${page}:${block.line}`);
    others.use(await otherTerminal(home, block.text, shown ?? ""));
  }
  const script = own.map(({ block }, at) => `printf '\\001%d\\n' ${at}\n${block.text}`).join("");
  const { code, out, err } = await runScript(home, script);
  const printed = out.split("\u0001").slice(1);
  const last = own[printed.length - 1]?.block.line;
  assert.equal(code, 0, `${page}:${last}: exit code ${code}\n${out}\n${err}`);
  assert.doesNotMatch(err, /\n\s+at .+:\d+:\d+/, "no stack trace reaches a reader");
  for (const [at, { block, shown }] of own.entries()) {
    if (shown === undefined) continue;
    const text = (printed[at] ?? "").replace(/^\d+\n/, "");
    assert.equal(text.trimEnd(), shown.trimEnd(), `${page}:${block.line}: output`);
  }
}

function shell(home: string, script: string) {
  const env = {
    PATH: `${path.dirname(process.execPath)}:${process.env["PATH"]}`,
    HOME: home,
    TMPDIR: home,
    LANG: "C.UTF-8",
  };
  // A process group of its own, so that everything that a step left behind can be ended.
  return spawn("sh", ["-eu", "-c", script], {
    cwd: home,
    env,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
}

async function runScript(
  home: string,
  script: string,
): Promise<{ code: number | null; out: string; err: string }> {
  const child = shell(home, script);
  const parts = { out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (text: string) => (parts.out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (parts.err += text));
  const late = setTimeout(() => endGroup(child.pid, "SIGKILL"), PAGE_MS);
  const [code] = (await once(child, "close")) as [number | null];
  clearTimeout(late);
  return { code, ...parts };
}

/** Resolves when each line of `shown` has begun a line of output. Dispose ends it as Ctrl-C does. */
async function otherTerminal(home: string, script: string, shown: string): Promise<AsyncDisposable> {
  const child = shell(home, script);
  const closed = once(child, "close");
  const ready = Promise.withResolvers<void>();
  const wanted = shown.trimEnd().split("\n");
  let said = "";
  const onText = (text: string) => {
    said += text;
    const lines = said.split("\n");
    if (wanted.every((start) => lines.some((line) => line.startsWith(start)))) ready.resolve();
  };
  child.stdout.setEncoding("utf8").on("data", onText);
  child.stderr.setEncoding("utf8").on("data", onText);
  void closed.then(([code]) => ready.reject(new Error(`it ended with ${code}, without "${shown}": ${said}`)));
  const late = setTimeout(() => ready.reject(new Error(`nothing like "${shown}" came: ${said}`)), PAGE_MS);
  const dispose = async () => {
    endGroup(child.pid, "SIGINT");
    await closed;
  };
  try {
    await ready.promise;
  } catch (error) {
    await dispose();
    throw error;
  } finally {
    clearTimeout(late);
  }
  return { [Symbol.asyncDispose]: dispose };
}

function endGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // It has ended already.
  }
}
