// Standard streams as the commands use them: results to stdout byte for byte, everything else to stderr, JSON lines
// when asked for. Text that comes from a box is untrusted: `printable` takes control characters out of it, so that
// no box can drive the user's terminal.

import type { Readable, Writable } from "node:stream";
import { stripVTControlCharacters } from "node:util";
import { drained } from "../../base/drained.ts";
import { BentoError, messageOf, systemCode } from "../../base/errors.ts";
import { BoxError } from "../../wire/error-code.ts";
import { EXIT, type ExitCode, exitCodeOf } from "./exit-code.ts";

type Out = Writable & { readonly isTTY?: boolean; readonly columns?: number; readonly rows?: number };

export interface IoOptions {
  readonly stdin: Readable & { readonly isTTY?: boolean };
  readonly stdout: Out;
  readonly stderr: Out;
  readonly json: boolean;
  readonly env: NodeJS.ProcessEnv;
}

export class Io {
  readonly stdin: IoOptions["stdin"];
  readonly stdout: Out;
  readonly stderr: Out;
  /** Machine-readable: one JSON value per line on stdout. */
  readonly json: boolean;
  /** Whether a person is watching stderr: progress may redraw its line. */
  readonly live: boolean;
  readonly #color: boolean;
  #hasLine = false;

  constructor(options: IoOptions) {
    this.stdin = options.stdin;
    this.stdout = options.stdout;
    this.stderr = options.stderr;
    this.json = options.json;
    this.live = this.stderr.isTTY === true && options.env["TERM"] !== "dumb";
    // https://no-color.org: any non-empty value turns colour off.
    this.#color = this.live && !options.env["NO_COLOR"];
  }

  /** One line for the person at the terminal; a progress line makes room for it. */
  note(text: string): void {
    this.clearLine();
    this.stderr.write(`${text}\n`);
  }

  /** The progress line, redrawn in place. */
  drawLine(text: string): void {
    this.#hasLine = true;
    this.stderr.write(`\r${text.slice(0, (this.stderr.columns ?? 80) - 1)}\u001b[K`);
  }

  /** Takes the progress line away, if there is one. */
  clearLine(): void {
    if (this.#hasLine) this.stderr.write("\r\u001b[K");
    this.#hasLine = false;
  }

  /** One line of result. */
  print(text: string): void {
    this.stdout.write(`${text}\n`);
  }

  /** One JSON value as a line of stdout; nothing when JSON was not asked for. */
  event(value: Readonly<Record<string, unknown>>): void {
    if (this.json) this.stdout.write(`${JSON.stringify(value)}\n`);
  }

  /** The result of a command: JSON when asked for, else as `text` shows it. */
  result(value: unknown, text: () => string): void {
    const shown = this.json ? JSON.stringify(value) : text();
    if (shown !== "") this.stdout.write(`${shown}\n`);
  }

  /** Writes output bytes as they are; waits while stdout is full. */
  async write(bytes: Uint8Array, to: Writable = this.stdout): Promise<void> {
    if (!to.write(bytes)) await drained(to);
  }

  bold(text: string): string {
    return this.#color ? `\u001b[1m${text}\u001b[22m` : text;
  }
  green(text: string): string {
    return this.#color ? `\u001b[32m${text}\u001b[39m` : text;
  }
  red(text: string): string {
    return this.#color ? `\u001b[31m${text}\u001b[39m` : text;
  }
  dim(text: string): string {
    return this.#color ? `\u001b[2m${text}\u001b[22m` : text;
  }

  /** Tells what went wrong and what to do next, in a few lines, and returns the exit code. Never a stack. */
  report(thrown: unknown): ExitCode {
    const error = ofDisk(thrown) ?? thrown;
    if (!(error instanceof BentoError)) {
      this.note(`${this.red("bento: internal error:")} ${printable(messageOf(error))}`);
      this.note("  This is a fault in Bento; BENTO_DEBUG=1 shows where.");
      this.event({ event: "error", code: "internal-error", message: messageOf(error) });
      return EXIT.internal;
    }
    const refusals = error instanceof BoxError ? error.refusals : [];
    this.note(`${this.red("bento:")} ${printable(error.message)}`);
    for (const { rule, wanted, limit } of refusals) {
      this.note(`  ${printable(rule)}: wanted ${printable(wanted)}, granted ${printable(limit)}`);
    }
    if (error.advice) this.note(`  ${printable(error.advice)}`);
    this.event({
      event: "error",
      code: error.code,
      message: error.message,
      ...(error.advice ? { advice: error.advice } : {}),
      ...(refusals.length > 0 ? { refusals } : {}),
    });
    return exitCodeOf(error.code);
  }
}

/** A disk that cannot be written to is no fault in Bento, wherever it was met. */
function ofDisk(error: unknown): BentoError | undefined {
  const code = systemCode(error);
  const at: unknown = error instanceof Error ? Reflect.get(error, "path") : undefined;
  const what = typeof at === "string" ? at : "a file";
  if (code === "ENOSPC" || code === "EDQUOT")
    return new BentoError("disk-full", `Cannot write ${what}: the disk is full`, {
      advice: "Free some space.",
    });
  // Making a folder on a read-only disk fails with ENOENT in Node.
  const isMkdir = error instanceof Error && Reflect.get(error, "syscall") === "mkdir";
  if (code === "EROFS" || code === "EACCES" || (code === "ENOENT" && isMkdir))
    return new BentoError("bad-config", `Cannot use ${what}: ${code}`, {
      advice: "Choose a folder that you can write: with --dir or -o, XDG_STATE_HOME or TMPDIR.",
    });
  return undefined;
}

/** Text of unknown origin, safe for a terminal: escape sequences gone, other control characters as `\xNN`. */
export function printable(text: string): string {
  return stripVTControlCharacters(text).replaceAll(
    /[^\P{Cc}\t\n]|[\u202a-\u202e\u2066-\u2069]/gu,
    (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

/** Columns padded to their widest cell, two spaces apart. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [index, cell] of row.entries()) widths[index] = Math.max(widths[index] ?? 0, cell.length);
  }
  return rows
    .map((row) =>
      row
        .map((cell, index) => cell.padEnd(widths[index] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
