// `bento fn test [FN]`: a function's own tests, against a box that this command starts and ends. TypeScript and
// JavaScript by Node's test runner, Python by unittest; either kind may test either kind of function.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { glob, stat } from "node:fs/promises";
import path from "node:path";
import { text } from "node:stream/consumers";
import { run as runTests } from "node:test";
import { spec } from "node:test/reporters";
import { fileURLToPath } from "node:url";
import { systemCode } from "../../base/errors.ts";
import { TEST_BOX_VARIABLE, TEST_FN_VARIABLE, TEST_SITE_VARIABLE } from "../../client/author/testing.ts";
import { type Cli, usage } from "../../client/cli/cli.ts";
import { EXIT, type ExitCode } from "../../client/cli/exit-code.ts";
import { Progress } from "../../client/cli/progress.ts";
import { ENTRY_FILES, loadPackage, locate, PACKAGE_FILE } from "../../client/package-loader.ts";
import { freeAddress, LocalBox } from "../local-box.ts";

const HOOKS = new URL("../test-hooks.ts", import.meta.url).href;
const BRIDGE = fileURLToPath(new URL("../test-bridge.ts", import.meta.url));
const HARNESS = fileURLToPath(new URL("../../client/author/bento_testing.py", import.meta.url));
const PYTHON = "/usr/bin/python3";
/** A test that waits longer than this for its function hangs: milliseconds. */
const TEST_MS = 120_000;
const QUIET = "--disable-warning=ExperimentalWarning";

export interface FnTestOptions {
  /** Private networks that the function may reach. */
  readonly private?: readonly string[] | undefined;
}

/** What is tested, and by which files. */
export interface TestFiles {
  readonly folder: string;
  readonly scripts: readonly string[];
  /** For unittest's discovery; undefined where there are none. */
  readonly pythonPattern: string | undefined;
}

interface Counts {
  readonly passed: number;
  readonly failed: number;
}

/** Exit code 0 when all passed, 1 when one failed, 2 when there are none; 3 for a function that cannot be loaded. */
export async function fnTest(cli: Cli, fn: string, options: FnTestOptions): Promise<ExitCode> {
  const files = await findTests(fn);
  // What is wrong with the function itself is said once, not by every test.
  await loadPackage(fn);
  using progress = new Progress(cli.io, "Starting a box");
  const site = await freeAddress();
  const privateNetworks = [...(options.private ?? []), `${site}/32`];
  await using box = await LocalBox.start({ privateNetworks, signal: cli.signal });
  progress[Symbol.dispose]();
  Object.assign(process.env, {
    [TEST_BOX_VARIABLE]: box.address,
    [TEST_SITE_VARIABLE]: site,
    [TEST_FN_VARIABLE]: path.resolve((await stat(fn).catch(() => undefined)) ? fn : files.folder),
  });
  const counts = [
    ...(files.scripts.length > 0 ? [await testScripts(cli, files)] : []),
    ...(files.pythonPattern === undefined ? [] : [await testPython(cli, files.folder, files.pythonPattern)]),
  ];
  if (cli.signal.aborted) return EXIT.interrupted;
  const passed = counts.reduce((sum, each) => sum + each.passed, 0);
  const failed = counts.reduce((sum, each) => sum + each.failed, 0);
  cli.io.result({ passed, failed }, () => `${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? EXIT.ok : EXIT.functionFailed;
}

/** The tests beside a function: those of its folder, or those named after a lone file. Throws "usage" for none. */
export async function findTests(fn: string): Promise<TestFiles> {
  const { source } = await locate(fn);
  const folder = path.dirname(path.resolve(source));
  const name = path.basename(source);
  const isLone = !ENTRY_FILES.includes(name) && path.extname(name) !== PACKAGE_FILE;
  const stem = isLone ? name.slice(0, -path.extname(name).length) : "*";
  const scripts: string[] = [];
  const exclude = (entry: string) => entry === "node_modules" || path.basename(entry).startsWith(".");
  for await (const found of glob(`${isLone ? "" : "**/"}${stem}.test.{ts,js,mjs}`, {
    cwd: folder,
    exclude,
  })) {
    scripts.push(path.join(folder, found));
  }
  const pattern = `test_${stem}.py`;
  let hasPython = false;
  for await (const _ of glob(pattern, { cwd: folder })) hasPython = true;
  if (scripts.length === 0 && !hasPython) {
    throw usage(
      `Cannot test ${fn}: no test is beside it`,
      `Wanted ${stem === "*" ? "NAME" : stem}.test.ts or ${stem === "*" ? "test_NAME.py" : pattern} in ${folder}.`,
    );
  }
  return { folder, scripts: scripts.sort(), pythonPattern: hasPython ? pattern : undefined };
}

async function testScripts(cli: Cli, { folder, scripts }: TestFiles): Promise<Counts> {
  const stream = runTests({
    files: [...scripts],
    cwd: folder,
    execArgv: [QUIET, "--import", HOOKS],
    timeout: TEST_MS,
    signal: cli.signal,
  });
  const counts = { passed: 0, failed: 0 };
  stream.on("test:summary", ({ file, counts: { passed, tests } }) => {
    // Of all files together; a file that cannot even be loaded counts as a failed test.
    if (file === undefined) Object.assign(counts, { passed, failed: tests - passed });
  });
  for await (const part of stream.compose(new spec()) as AsyncIterable<Uint8Array | string>) {
    await cli.io.write(Buffer.from(part), cli.io.json ? cli.io.stderr : cli.io.stdout);
  }
  return counts;
}

async function testPython(cli: Cli, folder: string, pattern: string): Promise<Counts> {
  const child = spawn(PYTHON, ["-B", HARNESS, folder, pattern], {
    cwd: folder,
    env: { ...process.env, BENTO_TEST_BRIDGE: JSON.stringify([process.execPath, QUIET, BRIDGE]) },
    stdio: ["ignore", "pipe", "pipe", "pipe"],
    signal: cli.signal,
  });
  child.on("error", (error) => {
    if (!cli.signal.aborted) cli.io.note(`Cannot run ${PYTHON}: ${systemCode(error) ?? error.message}`);
  });
  const out = cli.io.json ? cli.io.stderr : cli.io.stdout;
  child.stdout?.pipe(out, { end: false });
  child.stderr?.pipe(out, { end: false });
  const [said] = await Promise.all([text(child.stdio[3] as NodeJS.ReadableStream), once(child, "close")]);
  // Without counts it did not get to the end of the tests.
  return said === "" ? { passed: 0, failed: 1 } : (JSON.parse(said) as Counts);
}
