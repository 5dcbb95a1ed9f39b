// `bento bench [NAME...]`: runs the benchmarks of src/bin/bench one after another; a table, or one JSON line a figure.

import { readdir } from "node:fs/promises";
import { BentoError, messageOf } from "../../base/errors.ts";
import { type Cli, usage } from "../../client/cli/cli.ts";
import { table } from "../../client/cli/io.ts";
import { Progress } from "../../client/cli/progress.ts";
import { nearest } from "../../client/nearest.ts";
import { type Benchmark, type Figure, reached } from "../bench/benchmark.ts";

const BENCH_DIR = new URL("../bench/", import.meta.url);

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
  let failed = 0;
  for (const benchmark of all.filter(({ name }) => names.length === 0 || names.includes(name))) {
    try {
      const figures = await runOne(cli, benchmark);
      show(cli, benchmark, figures);
    } catch (error) {
      cli.signal.throwIfAborted();
      failed++;
      io.event({ event: "error", benchmark: benchmark.name, message: messageOf(error) });
      io.note(`${io.red("✗")} ${benchmark.name}: ${messageOf(error)}`);
    }
  }
  if (failed > 0) throw new BentoError("benchmark-failed", `${failed} of the benchmarks could not be run`);
  return 0;
}

async function runOne(cli: Cli, benchmark: Benchmark): Promise<readonly Figure[]> {
  using progress = new Progress(cli.io, benchmark.name);
  return await benchmark.run({
    signal: cli.signal,
    phase: (text) => {
      progress.phase(`${benchmark.name}: ${text}`);
    },
  });
}

function show(cli: Cli, benchmark: Benchmark, figures: readonly Figure[]): void {
  const { io } = cli;
  for (const figure of figures)
    io.event({ event: "figure", benchmark: benchmark.name, ...figure, reached: reached(figure) });
  if (io.json) return;
  io.print(io.bold(benchmark.name));
  io.print(
    table(
      figures.map((figure) => {
        const { target } = figure;
        const bound = !target ? "" : "most" in target ? `≤ ${target.most}` : `≥ ${target.least}`;
        const mark = { true: "✓", false: "✗", undefined: " " }[String(reached(figure)) as "true"];
        return [
          `  ${mark} ${figure.name}`,
          `${Number(figure.value.toPrecision(4))} ${figure.unit}`,
          bound,
          figure.note ?? "",
        ];
      }),
    ),
  );
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
