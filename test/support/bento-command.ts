// `bento ...` as a user types it: a process with nothing of this one's environment, whose home, working directory and
// temporary files are a folder of the test's.

import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const BENTO = fileURLToPath(new URL("../../bento", import.meta.url));
/** A command that takes longer hangs, and is ended: milliseconds. */
export const COMMAND_MS = 240_000;

export interface Finished {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** Its standard input stays open. */
export function startBento(
  home: string,
  args: readonly string[],
  moreEnv: NodeJS.ProcessEnv = {},
): ChildProcessWithoutNullStreams {
  const env = { PATH: process.env["PATH"], HOME: home, TMPDIR: home, ...moreEnv };
  return spawn(BENTO, args, { cwd: home, env, timeout: COMMAND_MS });
}

/** Everything that it says from now on, once it has ended. In "latin1" a character is a byte. */
export async function finished(
  child: ChildProcessWithoutNullStreams,
  encoding: "utf8" | "latin1" = "utf8",
): Promise<Finished> {
  const parts = { out: "", err: "" };
  child.stdout.setEncoding(encoding).on("data", (text: string) => (parts.out += text));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (parts.err += text));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("close", resolve);
    child.once("error", reject);
  });
  return { code, ...parts };
}

/** Writes `input` and ends standard input. A command that ends without reading it is no error. */
export function endInput(child: ChildProcessWithoutNullStreams, input = ""): void {
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
}

/** Runs it to its end, without input. */
export async function bento(home: string, ...args: readonly string[]): Promise<Finished> {
  const child = startBento(home, args);
  endInput(child);
  return await finished(child);
}
