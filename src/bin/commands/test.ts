// `bento test [FILTER...]`: format, lint, types and import rules, then every test file, two at a time: units, then what
// needs real tor, root or a sandbox. Ends with the line `N passed, N failed`.

import { execFile } from "node:child_process";
import { glob } from "node:fs/promises";
import path from "node:path";
import { run } from "node:test";
import { fileURLToPath } from "node:url";
import { inspect, stripVTControlCharacters } from "node:util";
import { type Cli, usage } from "../../client/cli/cli.ts";
import { formatSeconds, Progress } from "../../client/cli/progress.ts";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const UNIT_FILES = ["src/**/*.test.ts", "functions/**/*.test.ts", "tools/**/*.test.ts"];
/** Real tor, sandboxes and browsers: mostly they wait, so two files go side by side. */
const INTEGRATION_FILES = ["test/**/*.test.ts"];
const FILES_AT_ONCE = 2;
/** More files than these do not fail for lack of time. */
const FILES_AGAIN_MAX = 6;
/** One file of the kind may take this long: milliseconds. */
const UNIT_FILE_MS = 120_000;
const INTEGRATION_FILE_MS = 600_000;
const CHECK_OUTPUT_BYTES_MAX = 4 * 1024 * 1024;

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
}

export interface TestOptions {
  readonly checks: boolean;
  readonly verbose?: boolean;
}

export async function test(cli: Cli, filters: readonly string[], options: TestOptions): Promise<number> {
  const { io } = cli;
  const startedMs = performance.now();
  const tally: Tally = { passed: 0, skipped: [], failures: [] };
  const units = await testFiles(UNIT_FILES, filters);
  const integration = await testFiles(INTEGRATION_FILES, filters);
  if (filters.length > 0 && units.length + integration.length === 0) {
    throw usage(
      `There is no test file whose path contains ${filters.map((filter) => `"${filter}"`).join(" or ")}`,
    );
  }
  if (options.checks && filters.length === 0) await runChecks(cli, tally);
  await runFiles(cli, units, { timeout: UNIT_FILE_MS, verbose: options.verbose }, tally);
  await runFiles(cli, integration, { timeout: INTEGRATION_FILE_MS, verbose: options.verbose }, tally);
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
  const second: Tally = { passed: 0, skipped: [], failures: [] };
  for (const file of failed) {
    await runFiles(cli, [file], { timeout: INTEGRATION_FILE_MS, verbose: options.verbose }, second);
  }
  const isStill = (one: Failure) =>
    second.failures.some(({ file, name }) => file === one.file && name === one.name);
  const steady = tally.failures.filter((one) => !before.includes(one));
  const unsteady = before.filter((one) => !isStill(one));
  tally.failures.splice(0, tally.failures.length, ...steady, ...second.failures);
  tally.passed += unsteady.length;
  return unsteady;
}

async function testFiles(patterns: readonly string[], filters: readonly string[]): Promise<string[]> {
  const files: string[] = [];
  for await (const file of glob(patterns, { cwd: ROOT, exclude: ["**/node_modules/**"] })) {
    if (filters.length === 0 || filters.some((filter) => file.includes(filter)))
      files.push(path.join(ROOT, file));
  }
  return files.sort();
}

async function runChecks(cli: Cli, tally: Tally): Promise<void> {
  for (const { name, command } of CHECKS) {
    cli.signal.throwIfAborted();
    using _progress = new Progress(cli.io, `Checking ${name}`);
    const [program = "", ...args] = command;
    const output = await new Promise<string | undefined>((resolve) => {
      execFile(
        program,
        args,
        {
          cwd: ROOT,
          maxBuffer: CHECK_OUTPUT_BYTES_MAX,
          signal: cli.signal,
          env: { ...process.env, NO_COLOR: "1", DENO_DIR, DENO_NO_UPDATE_CHECK: "1" },
        },
        (error, stdout, stderr) => resolve(error ? `${stdout}${stderr}` || error.message : undefined),
      );
    });
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

async function runFiles(
  cli: Cli,
  files: readonly string[],
  how: { timeout: number; verbose: boolean | undefined },
  tally: Tally,
): Promise<void> {
  if (files.length === 0 || cli.signal.aborted) return;
  const { io } = cli;
  using progress = new Progress(io, "Testing");
  const stream = run({
    files: [...files],
    concurrency: FILES_AT_ONCE,
    timeout: how.timeout,
    signal: cli.signal,
    execArgv: ["--disable-warning=ExperimentalWarning"],
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
