// One run of the command line: parses argv, hands the command its streams, signal and context, turns whatever it
// returns or throws into an exit code. The first Ctrl-C asks, the second ends; a closed pipe is no error.

import { CommanderError } from "commander";
import { BentoError } from "../base/errors.ts";
import type { Cli } from "../client/cli/cli.ts";
import { EXIT } from "../client/cli/exit-code.ts";
import { buildProgram } from "./commands.ts";

export async function main(version: string): Promise<void> {
  const { Io } = await import("../client/cli/io.ts");
  const json = process.argv.includes("--json");
  const io = new Io({
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    json,
    env: process.env,
  });
  const interrupt = catchSignals();
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      // Whoever read our output has seen enough: nothing is left to be said to anybody.
      if (error.code === "EPIPE") process.exit(EXIT.ok);
      throw error;
    });
  }
  const program = buildProgram(version, async (perform) => {
    const { Context, stateDir } = await import("../client/context.ts");
    const { RelayDialers } = await import("../client/relay-dial.ts");
    const context = new Context(stateDir(process.env));
    await using relays = new RelayDialers();
    const cli: Cli = { io, env: process.env, signal: interrupt, context, relays };
    try {
      process.exitCode = await perform(cli);
    } catch (error) {
      if (interrupt.aborted) process.exitCode = EXIT.interrupted;
      else process.exitCode = report(error);
    }
  });
  const report = (error: unknown): number => {
    if (process.env["BENTO_DEBUG"] && error instanceof Error) io.note(error.stack ?? "");
    return io.report(error);
  };
  for (const command of allCommands(program)) {
    command.exitOverride();
    command.showHelpAfterError(
      command.parent ? `(\`${pathOf(command)} --help\` shows how)` : "(`bento help` lists the commands)",
    );
    command.configureOutput({
      writeErr: (text) => writeUsageError(io, text),
      outputError: (text, write) => write(text),
    });
  }
  try {
    await program.parseAsync();
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    if (error.exitCode !== 0)
      io.event({ event: "error", code: "usage", message: error.message.replace(/^error: /, "") });
  }
  // What is left open now (a keep-alive connection, a paused stdin) must not hold the command back.
  await Promise.all([drained(process.stdout), drained(process.stderr)]);
  process.exit();
}

function* allCommands(command: ReturnType<typeof buildProgram>): Generator<ReturnType<typeof buildProgram>> {
  yield command;
  for (const child of command.commands) yield* allCommands(child);
}

function pathOf(command: ReturnType<typeof buildProgram>): string {
  return command.parent ? `${pathOf(command.parent)} ${command.name()}` : command.name();
}

/** commander's `error: unknown option '--x'` in our words. */
function writeUsageError(io: { note(text: string): void; red(text: string): string }, text: string): void {
  const lines = text.trimEnd().split("\n");
  for (const line of lines) {
    if (line.startsWith("error: ")) {
      io.note(`${io.red("bento:")} ${line.slice(7)}`);
    } else if (line !== "") io.note(line.startsWith("(") ? `  ${line.slice(1, -1)}` : line);
  }
}

function catchSignals(): AbortSignal {
  const controller = new AbortController();
  const onSignal = (signal: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    controller.abort(new BentoError("interrupted", `Interrupted by ${signal}`));
  };
  process.on("SIGINT", onSignal);
  process.on("SIGTERM", onSignal);
  return controller.signal;
}

async function drained(stream: NodeJS.WriteStream): Promise<void> {
  if (stream.writableLength === 0) return;
  await new Promise<void>((resolve) => {
    stream.write("", () => resolve());
  });
}
