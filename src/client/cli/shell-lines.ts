// Lines of `bento shell` from the terminal or a pipe, in order, none lost between questions; with completion and history
// where a person types.

import { readdir } from "node:fs/promises";
import path from "node:path";
import { createInterface, type Interface } from "node:readline";
import { Channel } from "../../base/channel.ts";
import { BentoError } from "../../base/errors.ts";
import type { Cli } from "./cli.ts";
import { HISTORY_LINES_MAX, isHistory, ShellHistory } from "./shell-history.ts";

/** Lines typed ahead. */
const LINES_MAX = 10_000;

/** What may stand in place of the last word of a line. */
export type Complete = (words: readonly string[]) => Promise<readonly string[]>;

export class ShellLines implements AsyncDisposable {
  readonly #lines = new Channel<string>(LINES_MAX);
  readonly #interface: Interface;
  readonly #history: ShellHistory | undefined;
  #isCommand = true;

  private constructor(
    cli: Cli,
    complete: Complete,
    history: ShellHistory | undefined,
    before: readonly string[],
  ) {
    this.#history = history;
    this.#interface = createInterface({
      input: cli.io.stdin,
      output: cli.io.stderr,
      terminal: history !== undefined,
      // Newest first, as the terminal goes back through it.
      history: before.toReversed(),
      historySize: HISTORY_LINES_MAX,
      removeHistoryDuplicates: true,
      completer: (line: string, answer: (error: Error | null, result: [string[], string]) => void) => {
        void this.#complete(line, complete).then((result) => answer(null, result));
      },
    });
    this.#interface.on("history", (lines: string[]) => {
      // Just typed: an answer, or something with a token.
      if (lines[0] !== undefined && !(this.#isCommand && isHistory(lines[0]))) lines.shift();
    });
    this.#interface.on("line", (line) => {
      if (!this.#lines.isClosed && !this.#lines.push(line)) this.#interface.close();
    });
    this.#interface.on("SIGINT", () => {
      // As in other shells: Ctrl-C takes back what was typed; where nothing was, it ends.
      if (this.#interface.line === "") {
        this.#interface.close();
        return;
      }
      this.#interface.write(null, { ctrl: true, name: "e" });
      this.#interface.write(null, { ctrl: true, name: "u" });
    });
    this.#interface.on("close", () => this.#lines.close());
    cli.signal.addEventListener("abort", () => this.#interface.close(), { once: true });
  }

  static async open(cli: Cli, complete: Complete): Promise<ShellLines> {
    const isTerminal = cli.io.stdin.isTTY === true && cli.io.live;
    const history = isTerminal ? new ShellHistory(cli.context.dir) : undefined;
    return new ShellLines(cli, complete, history, (await history?.read()) ?? []);
  }

  /** The next command; undefined at the end of input. */
  async command(prompt: string): Promise<string | undefined> {
    this.#isCommand = true;
    const line = await this.#next(prompt);
    if (line !== undefined) await this.#history?.add(line);
    return line;
  }

  /** The answer to a question, which is not remembered; undefined at the end of input. */
  async ask(prompt: string): Promise<string | undefined> {
    this.#isCommand = false;
    return this.#next(prompt);
  }

  /** An answer that is not empty, or the default. */
  async need(prompt: string, fallback?: string): Promise<string> {
    const line = (await this.ask(fallback === undefined ? prompt : `${prompt}[${fallback}] `))?.trim();
    const value = line ? line : fallback;
    if (value === undefined) throw new BentoError("usage", "Nothing was entered");
    return value;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#interface.close();
  }

  async #next(prompt: string): Promise<string | undefined> {
    this.#interface.setPrompt(prompt);
    if (!this.#lines.isClosed) this.#interface.prompt();
    return this.#lines.receive();
  }

  async #complete(line: string, complete: Complete): Promise<[string[], string]> {
    const words = line.trimStart().split(/\s+/);
    const last = words.at(-1) ?? "";
    if (!this.#isCommand) return [[], last];
    // No name to offer is no reason to disturb who is typing.
    const pool = await complete(words).catch(() => []);
    const fitting = pool.filter((word) => word.startsWith(last));
    const [only] = fitting;
    // The word is whole: the next one can begin. A folder goes on.
    if (only !== undefined && fitting.length === 1 && !only.endsWith("/")) return [[`${only} `], last];
    return [fitting, last];
  }
}

/** Files and folders whose names may go on like this. */
export async function filesLike(start: string): Promise<string[]> {
  const folder = start.endsWith("/") ? start : path.dirname(start);
  const prefix = start.includes("/") ? start.slice(0, start.lastIndexOf("/") + 1) : "";
  const entries = await readdir(folder || ".", { withFileTypes: true }).catch(() => []);
  return entries
    .filter(({ name }) => !name.startsWith("."))
    .map((entry) => `${prefix}${entry.name}${entry.isDirectory() ? "/" : ""}`);
}
