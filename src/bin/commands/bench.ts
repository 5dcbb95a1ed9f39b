// `bento bench [NAME...]`: runs the benchmarks of src/bin/bench one after another; tables, or one JSON document.

import { readdir, readFile } from "node:fs/promises";
import { cpus, loadavg, release, totalmem } from "node:os";
import { BentoError, messageOf } from "../../base/errors.ts";
import { type Cli, usage } from "../../client/cli/cli.ts";
import { table } from "../../client/cli/io.ts";
import { Progress } from "../../client/cli/progress.ts";
import { nearest } from "../../client/nearest.ts";
import { type Benchmark, type Figure, reached } from "../bench/benchmark.ts";
import { findTor } from "../find-tor.ts";

const BENCH_DIR = new URL("../bench/", import.meta.url);
const TEST_DIR = new URL("../../../test/", import.meta.url);

export async function bench(
  cli: Cli,
  names: readonly string[],
  options: { list?: boolean },
): Promise<number> {
  const { io } = cli;
  const all = await loadBenchmarks();
  const known = all.map(({ name }) => name);
  for (const name of names) {
    if (known.includes(name)) continue;
    const near = nearest(name, known);
    throw usage(
      `There is no benchmark "${name}"`,
      near ? `Did you mean ${near}?` : `There are: ${known.join(", ")}.`,
    );
  }
  if (options.list) {
    for (const { name, description } of all)
      io.result({ name, description }, () => table([[name.padEnd(16), description]]));
    return 0;
  }
  const chosen = all.filter(({ name, onRequest }) =>
    names.length === 0 ? !onRequest : names.includes(name),
  );
  const machine = await describeMachine();
  if (!io.json) for (const line of machineLines(machine)) io.print(line);
  const results: Result[] = [];
  for (const benchmark of chosen) {
    const result = await runOne(cli, benchmark);
    results.push(result);
    if (!io.json) show(cli, result);
  }
  const elsewhere = names.length === 0 ? await shownByTests() : [];
  const onRequest = all.filter((one) => names.length === 0 && one.onRequest).map(({ name }) => name);
  if (io.json) io.event({ machine, benchmarks: results, onRequest, shownByTests: elsewhere });
  else if (elsewhere.length > 0) {
    io.print(io.bold("shown by tests"));
    io.print(table(elsewhere.map(({ what, count, command }) => [`    ${what}`, count, command])));
  }
  if (!io.json && onRequest.length > 0) io.print(`by name only, for they take long: ${onRequest.join(", ")}`);
  const failed = results.filter(({ error }) => error !== undefined).length;
  if (failed > 0) throw new BentoError("benchmark-failed", `${failed} of the benchmarks could not be run`);
  return 0;
}

/** One benchmark, as `--json` shows it. */
interface Result {
  readonly name: string;
  readonly description: string;
  readonly seconds: number;
  readonly figures: readonly (Figure & { readonly reached?: boolean })[];
  /** Why it could not be run. */
  readonly error?: string;
}

async function runOne(cli: Cli, benchmark: Benchmark): Promise<Result> {
  const { name, description } = benchmark;
  const startedMs = performance.now();
  const seconds = () => Math.round((performance.now() - startedMs) / 100) / 10;
  using progress = new Progress(cli.io, name);
  try {
    const figures = await benchmark.run({
      signal: cli.signal,
      phase: (text) => {
        progress.phase(`${name}: ${text}`);
      },
    });
    return { name, description, seconds: seconds(), figures: figures.map(judged) };
  } catch (error) {
    cli.signal.throwIfAborted();
    return { name, description, seconds: seconds(), figures: [], error: messageOf(error) };
  }
}

function judged(figure: Figure): Figure & { readonly reached?: boolean } {
  const verdict = reached(figure);
  return verdict === undefined ? figure : { ...figure, reached: verdict };
}

function show(cli: Cli, { name, description, seconds, figures, error }: Result): void {
  const { io } = cli;
  io.print(`${io.bold(name)}: ${description} (${seconds} s)`);
  if (error !== undefined) {
    io.print(`  ${io.red("✗")} could not be run: ${error}`);
    return;
  }
  io.print(
    table(
      figures.map((figure) => {
        const { target, unit } = figure;
        const bound = !target
          ? ""
          : "most" in target
            ? `≤ ${target.most} ${unit}`
            : `≥ ${target.least} ${unit}`;
        return [
          `    ${figure.name}`,
          `${Number(figure.value.toPrecision(4))} ${unit}`,
          bound,
          verdictOf(figure),
          figure.note ?? "",
        ];
      }),
    ),
  );
}

/** "reached", or how far off: 0 % is the target itself. */
function verdictOf(figure: Figure): string {
  const { target, value } = figure;
  if (!target) return "";
  if (reached(figure)) return "reached";
  const bound = "most" in target ? target.most : target.least;
  return `not reached (${Math.round((100 * Math.abs(value - bound)) / bound)} % off)`;
}

function machineLines(machine: Machine): string[] {
  const { cpu, cores, memoryMiB, kernel, node, tor, load } = machine;
  return [
    `${cores} cores of ${cpu}, ${memoryMiB} MiB, Linux ${kernel}`,
    `Node ${node}, ${tor ?? "no tor"}, load before the start ${load.map((value) => value.toFixed(2)).join(" ")}`,
    "",
  ];
}

type Machine = Awaited<ReturnType<typeof describeMachine>>;

async function describeMachine() {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: cpus().length,
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    node: process.versions.node,
    tor: await findTor(),
    /** Of the last 1, 5 and 15 minutes: what else the machine was doing. */
    load: loadavg(),
  };
}

/** Targets that are no figures: whether they hold is for tests to say. The counts are of what the files declare. */
async function shownByTests(): Promise<{ what: string; count: string; command: string }[]> {
  const count = async (directory: string, name: string, pattern: RegExp) => {
    const files = (await readdir(new URL(directory, TEST_DIR))).filter((file) => file.includes(name));
    const texts = await Promise.all(
      files.map((file) => readFile(new URL(directory + file, TEST_DIR), "utf8")),
    );
    return texts.reduce((sum, text) => sum + (text.match(pattern)?.length ?? 0), 0);
  };
  const declared = /^\s*test\(/gm;
  return [
    {
      what: "abuse cases: refused or bounded, box and neighbours unharmed",
      count: `${await count("escape/", ".test.ts", declared)} tests, tables of cases among them`,
      command: "./bento test escape",
    },
    {
      what: "kill -9 of the box: nothing acknowledged lost, nothing orphaned",
      count: `${await count("integration/", "kill", declared)} tests`,
      command: "./bento test kill",
    },
    {
      what: "hostile bytes at every parser: no crash, hang or growth",
      count: `${await count("fuzz/", ".test.ts", /\bname: "[^"]+",\s*seeds:/g)} parsers`,
      command: "BENTO_FUZZ_RUNS=1000000 ./bento test fuzz",
    },
  ];
}

async function loadBenchmarks(): Promise<Benchmark[]> {
  const files = (await readdir(BENCH_DIR)).filter(
    (file) => file.endsWith(".ts") && !file.endsWith(".test.ts"),
  );
  const benchmarks: Benchmark[] = [];
  for (const file of files.sort()) {
    const module = (await import(new URL(file, BENCH_DIR).href)) as { benchmark?: Benchmark };
    if (module.benchmark) benchmarks.push(module.benchmark);
  }
  return benchmarks;
}
