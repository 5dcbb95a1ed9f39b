// What was typed into `bento shell`, for the next time: commands alone, in a file that only its user can read. Tokens,
// instance ids and messages never get into it, nor into the history of the running shell; nor do answers to questions.

import { appendFile, chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";

export const HISTORY_FILE = "shell-history";
/** Lines kept. */
export const HISTORY_LINES_MAX = 500;
const LINE_CHARS_MAX = 500;

/** Whatever could be a token, an instance id, or most of one: rather a line too many is left out. */
const SECRET = /[0-9a-f]{8}-[0-9a-f]{4}|\bend-[\w-]{8}|[A-Za-z0-9_-]{32}/i;
/** The text after `send` is for the function alone. */
const MESSAGE = /^\s*send\b/;

/** Whether a line may be kept. */
export function isHistory(line: string): boolean {
  return line.trim() !== "" && line.length <= LINE_CHARS_MAX && !SECRET.test(line) && !MESSAGE.test(line);
}

export class ShellHistory {
  readonly #dir: string;
  readonly #file: string;
  #last: string | undefined;

  constructor(dir: string) {
    this.#dir = dir;
    this.#file = path.join(dir, HISTORY_FILE);
  }

  /** Oldest first. A history that cannot be read is none: the shell works without. */
  async read(): Promise<string[]> {
    const text = await readFile(this.#file, "utf8").catch(() => "");
    const all = text.split("\n").filter(isHistory);
    const lines = all.slice(-HISTORY_LINES_MAX);
    this.#last = lines.at(-1);
    if (all.length > lines.length) await this.#quietly(() => this.#write(lines));
    return lines;
  }

  async add(line: string): Promise<void> {
    if (!isHistory(line) || line === this.#last) return;
    this.#last = line;
    await this.#quietly(async () => {
      await mkdir(this.#dir, { recursive: true, mode: 0o700 });
      await appendFile(this.#file, `${line}\n`, { mode: 0o600 });
      await chmod(this.#file, 0o600);
    });
  }

  async #write(lines: readonly string[]): Promise<void> {
    await writeFile(this.#file, `${lines.join("\n")}\n`, { mode: 0o600 });
  }

  async #quietly(write: () => Promise<void>): Promise<void> {
    try {
      await write();
    } catch {
      // A full or read-only disk: what was typed is not remembered, and the shell goes on.
    }
  }
}
