// `bento test [FILTER...]`: format, lint, types and import rules, then every test file, some side by side: units, then
// what needs real tor, root or a sandbox. Ends with the line `N passed, N failed`.

import { execFile } from "node:child_process";
import { glob } from "node:fs/promises";
import { availableParallelism } from "node:os";
import path from "node:path";
import { run } from "node:test";
import { fileURLToPath } from "node:url";
import { inspect, stripVTControlCharacters } from "node:util";
import { type Cli, usage } from "../../client/cli/cli.ts";
import { table } from "../../client/cli/io.ts";
import { formatSeconds, Progress } from "../../client/cli/progress.ts";
import { placed, roomOn, sideBySide } from "./test-order.ts";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const UNIT_FILES = ["src/**/*.test.ts", "functions/**/*.test.ts", "tools/**/*.test.ts"];
/** Real tor, sandboxes and browsers: mostly they wait, so more of them go side by side than there are cores. */
const INTEGRATION_FILES = ["test/**/*.test.ts"];
const CORES = availableParallelism();
/** More files than these do not fail for lack of time. */
const FILES_AGAIN_MAX = 6;
/** One file of the kind may take this long: milliseconds. */
const UNIT_FILE_MS = 120_000;
const INTEGRATION_FILE_MS = 600_000;
const CHECK_OUTPUT_BYTES_MAX = 4 * 1024 * 1024;
/** Files that `--times` names. */
const SLOWEST = 10;

/** Where Node keeps our code as it has compiled it: each test file is a process and would begin with doing that. */
const NODE_COMPILE_CACHE = path.join(ROOT, "node_modules/.cache/compile");
/** Where `deno check` keeps what it has checked: nothing of the user's. */
const DENO_DIR = path.join(ROOT, "node_modules/.cache/deno");

const DENO_OFFLINE = "--cached-only --no-remote --no-lock --node-modules-dir=manual";

const CHECKS: readonly { readonly name: string; readonly command: readonly string[] }[] = [
  { name: "format", command: ["node_modules/.bin/biome", "check", "--error-on-warnings", "."] },
  { name: "types", command: ["node_modules/.bin/tsc", "-p", "."] },
  {
    // What runs inside the sandbox is Deno's: its globals are not Node's. Nothing is fetched.
    name: "types of the guest",
    command: `node_modules/.bin/deno check ${DENO_OFFLINE} src/guest/deno/runner.ts`.split(" "),
  },
  { name: "lint", command: ["node_modules/.bin/oxlint", "--type-aware"] },
  { name: "import rules", command: [process.execPath, "tools/import-rules.ts"] },
];

interface Failure {
  readonly file: string | undefined;
  readonly where: string;
  readonly name: string;
  readonly text: string;
}

interface Tally {
  passed: number;
  skipped: { name: string; reason: string }[];
  readonly failures: Failure[];
  readonly times: { readonly file: string; readonly seconds: number }[];
}

export interface TestOptions {
  readonly checks: boolean;
  readonly verbose?: boolean;
  readonly times?: boolean;
}

interface How {
  /** How many files go side by side. */
  readonly room: number;
  /** For one file: milliseconds. */
  readonly timeout: number;
  readonly verbose: boolean | undefined;
}

export async function test(cli: Cli, filters: readonly string[], options: TestOptions): Promise<number> {
  const { io } = cli;
  const startedMs = performance.now();
  const tally = newTally();
  const units = await testFiles(UNIT_FILES, filters);
  const integration = await testFiles(INTEGRATION_FILES, filters);
  if (filters.length > 0 && units.length + integration.length === 0) {
    throw usage(
      `There is no test file whose path contains ${filters.map((filter) => `"${filter}"`).join(" or ")}`,
    );
  }
  if (options.checks && filters.length === 0) await runChecks(cli, tally);
  const { verbose } = options;
  await runFiles(cli, units, { room: CORES, timeout: UNIT_FILE_MS, verbose }, tally);
  await runFiles(cli, integration, { room: roomOn(CORES), timeout: INTEGRATION_FILE_MS, verbose }, tally);
  const again = await runAgain(cli, integration, options, tally);
  cli.signal.throwIfAborted();
  const { failures, skipped } = tally;
  for (const { where, name } of again)
    io.note(`${io.red("unsteady")} ${name}, ${where}: failed, then passed alone`);
  for (const { name, reason } of skipped)
    io.note(`${io.dim("skipped")} ${name}${reason ? `: ${reason}` : ""}`);
  if (!io.json) {
    for (const { where, name, text } of failures)
      io.print(`\n${io.red("✗")} ${io.bold(name)}\n  ${where}\n${indent(text)}`);
    if (failures.length > 0) io.print("");
  }
  if (options.times) io.note(slowest(tally));
  io.note(
    io.dim(
      `${skipped.length > 0 ? `${skipped.length} skipped, ` : ""}${formatSeconds((performance.now() - startedMs) / 1000)}`,
    ),
  );
  io.result(
    {
      event: "summary",
      passed: tally.passed,
      failed: failures.length,
      skipped: skipped.length,
      unsteady: again.map(({ name }) => name),
    },
    () => `${tally.passed} passed, ${failures.length} failed`,
  );
  return failures.length === 0 ? 0 : 1;
}

/**
 * Runs integration files that failed once more, one after the other: side by side they share a small machine, and what is
 * late there is not wrong. What fails alone has failed. Returns what passed only then; it is named in the end.
 */
async function runAgain(
  cli: Cli,
  files: readonly string[],
  options: TestOptions,
  tally: Tally,
): Promise<readonly Failure[]> {
  const before = tally.failures.filter(({ file }) => file !== undefined && files.includes(file));
  const failed = new Set(before.flatMap(({ file }) => file ?? []));
  if (failed.size === 0 || failed.size > FILES_AGAIN_MAX || cli.signal.aborted) return [];
  const second = newTally();
  const alone = { room: 1, timeout: INTEGRATION_FILE_MS, verbose: options.verbose };
  await runFiles(cli, [...failed], alone, second);
  const isStill = (one: Failure) =>
    second.failures.some(({ file, name }) => file === one.file && name === one.name);
  const steady = tally.failures.filter((one) => !before.includes(one));
  const unsteady = before.filter((one) => !isStill(one));
  tally.failures.splice(0, tally.failures.length, ...steady, ...second.failures);
  tally.passed += unsteady.length;
  return unsteady;
}

function newTally(): Tally {
  return { passed: 0, skipped: [], failures: [], times: [] };
}

async function testFiles(patterns: readonly string[], filters: readonly string[]): Promise<string[]> {
  const files: string[] = [];
  for await (const file of glob(patterns, { cwd: ROOT, exclude: ["**/node_modules/**"] })) {
    if (filters.length === 0 || filters.some((filter) => file.includes(filter)))
      files.push(path.join(ROOT, file));
  }
  return files.sort();
}

/** All at once: none of them keeps every core busy all the time. */
async function runChecks(cli: Cli, tally: Tally): Promise<void> {
  using _progress = new Progress(cli.io, "Checking format, types, lint and import rules");
  const outputs = await Promise.all(CHECKS.map(({ command }) => outputOfFailed(command, cli.signal)));
  cli.signal.throwIfAborted();
  for (const [at, { name, command }] of CHECKS.entries()) {
    const output = outputs[at];
    cli.io.event({ event: "check", name, passed: output === undefined });
    if (output === undefined) tally.passed++;
    else
      tally.failures.push({
        file: undefined,
        where: command.join(" "),
        name,
        text: lastLines(stripVTControlCharacters(output), 60),
      });
  }
}

/** What a command said that did not succeed; undefined when it did. */
async function outputOfFailed(command: readonly string[], signal: AbortSignal): Promise<string | undefined> {
  const [program = "", ...args] = command;
  const env = { ...process.env, NO_COLOR: "1", DENO_DIR, DENO_NO_UPDATE_CHECK: "1" };
  return await new Promise((resolve) => {
    execFile(
      program,
      args,
      { cwd: ROOT, maxBuffer: CHECK_OUTPUT_BYTES_MAX, signal, env },
      (error, stdout, stderr) => resolve(error ? `${stdout}${stderr}` || error.message : undefined),
    );
  });
}

async function runFiles(cli: Cli, files: readonly string[], how: How, tally: Tally): Promise<void> {
  if (files.length === 0) return;
  using progress = new Progress(cli.io, "Testing");
  const names = files.map((file) => path.relative(ROOT, file));
  await sideBySide(placed(names), how.room, async (file) => {
    if (cli.signal.aborted) return;
    const startedMs = performance.now();
    await runFile(cli, file, how, tally, progress);
    const seconds = (performance.now() - startedMs) / 1000;
    tally.times.push({ file, seconds });
    cli.io.event({ event: "file", file, seconds });
  });
}

async function runFile(cli: Cli, file: string, how: How, tally: Tally, progress: Progress): Promise<void> {
  const { io } = cli;
  const stream = run({
    files: [path.join(ROOT, file)],
    timeout: how.timeout,
    signal: cli.signal,
    execArgv: ["--disable-warning=ExperimentalWarning"],
    env: { ...process.env, NODE_COMPILE_CACHE },
  });
  for await (const { type, data } of stream) {
    switch (type) {
      case "test:start":
        progress.phase(
          `Testing, ${tally.passed} passed${tally.failures.length > 0 ? `, ${tally.failures.length} failed` : ""}: ${data.name}`,
        );
        break;
      case "test:pass": {
        // A suite or a file counts by the tests in it.
        if (data.details.type === "suite" || isFile(data.name, data.file)) break;
        const { skip, todo } = data;
        if (skip !== undefined && skip !== false)
          tally.skipped.push({ name: data.name, reason: skip === true ? "" : skip });
        else if (todo === undefined || todo === false) tally.passed++;
        report(cli, data.name, data.file, true, how.verbose);
        break;
      }
      case "test:fail": {
        const { error } = data.details;
        // The tests inside have been reported already.
        if ((error as { failureType?: string }).failureType === "subtestsFailed") break;
        const where = data.file ? `${path.relative(ROOT, data.file)}:${data.line ?? 1}` : "";
        tally.failures.push({ file: data.file, where, name: data.name, text: failureText(error) });
        report(cli, data.name, data.file, false, how.verbose);
        break;
      }
      case "test:stderr":
      case "test:stdout":
        if (how.verbose) io.note(data.message.trimEnd());
        break;
      default:
    }
  }
}

function report(
  cli: Cli,
  name: string,
  file: string | undefined,
  passed: boolean,
  verbose: boolean | undefined,
): void {
  const where = file ? path.relative(ROOT, file) : "";
  cli.io.event({ event: "test", name, file: where, passed });
  if (verbose && !cli.io.json)
    cli.io.note(`${passed ? cli.io.green("✓") : cli.io.red("✗")} ${where} ${name}`);
}

/** Each time as its file was run: one that was late because of others says so, too. */
function slowest({ times }: Tally): string {
  const rows = times
    .sort((a, b) => b.seconds - a.seconds)
    .slice(0, SLOWEST)
    .map(({ file, seconds }) => [`${seconds.toFixed(1)} s`, file]);
  return `slowest files:\n${table(rows)}`;
}

function isFile(name: string, file: string | undefined): boolean {
  return file !== undefined && path.resolve(ROOT, name) === file;
}

/** What the assertion said, and the lines of the stack that are ours. */
function failureText(error: Error): string {
  const cause: unknown = error.cause ?? error;
  if (!(cause instanceof Error)) return inspect(cause, { depth: 4 });
  const stack = (cause.stack ?? cause.message).split("\n");
  const frames = stack.filter((line) => /^\s+at .*(src|test|tools|functions)\//.test(line)).slice(0, 6);
  return [cause.message, ...frames.map((line) => line.trim().replaceAll(`file://${ROOT}`, ""))].join("\n");
}

function indent(text: string): string {
  return lastLines(text, 80)
    .split("\n")
    .map((line) => `  ${line}`)
    .join("\n");
}

function lastLines(text: string, count: number): string {
  const lines = text.trimEnd().split("\n");
  return lines.length <= count
    ? lines.join("\n")
    : `(${lines.length - count} lines left out)\n${lines.slice(-count).join("\n")}`;
}
