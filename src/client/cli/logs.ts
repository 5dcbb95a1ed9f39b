// `bento logs`, and `bento run --logs`: what a function logged, read by its owner. The text is the function's: control
// characters are taken out of it.

import { BentoError } from "../../base/errors.ts";
import type { LogLine } from "../../wire/api.ts";
import { Limits } from "../../wire/limits.ts";
import type { ShutdownToken } from "../../wire/token.ts";
import type { BoxClient } from "../client.ts";
import type { Cli, ReachOptions } from "./cli.ts";
import { clientOf, findOwned } from "./credentials.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { type Io, printable } from "./io.ts";

export interface LogsOptions extends ReachOptions {
  readonly follow?: boolean | undefined;
}

/** How long `run --logs` waits for the last lines of a function that has ended: milliseconds. */
const LAST_LINES_MS = 10_000;

/** Exit code 0 also when the function goes away while it is followed. */
export async function logs(cli: Cli, given: string, options: LogsOptions): Promise<ExitCode> {
  const { io } = cli;
  const found = await findOwned(cli, given, options);
  using client = clientOf(found);
  const reader = new LogReader(client, found.value, {
    onLine: (line) => {
      if (io.json) io.event({ ...line });
      else io.print(formatLine(line));
    },
    onMissed: () => io.note("Older lines are gone: the box keeps the newest of each instance."),
  });
  if ((await reader.read(cli.signal)) === 0 && !options.follow && !io.json) io.note("Nothing was logged.");
  if (options.follow) await reader.follow(cli.signal);
  return EXIT.ok;
}

/** Lines of a run's function on stderr, while its output goes where it should. */
export class RunLogs {
  readonly #reader: LogReader;
  readonly #stop = new AbortController();
  readonly #following: Promise<void>;

  constructor(io: Io, client: BoxClient, token: ShutdownToken) {
    this.#reader = new LogReader(client, token, {
      onLine: (line) => {
        if (io.json) io.event({ event: "log", ...line });
        else io.note(io.dim(formatLine(line)));
      },
      onMissed: () => io.note("Some lines of the log are gone: the box keeps the newest."),
    });
    this.#following = this.#reader.follow(this.#stop.signal).catch(() => {
      // What matters is the output; a circuit that broke is told there.
    });
  }

  /** Shows what the function logged last. Called when it has ended, before it is removed. */
  async finish(): Promise<void> {
    this.#stop.abort(new BentoError("closed", "The function has ended"));
    await this.#following;
    await this.#reader.read(AbortSignal.timeout(LAST_LINES_MS)).catch(() => undefined);
  }

  [Symbol.dispose](): void {
    this.#stop.abort(new BentoError("closed", "The run is over"));
  }
}

interface Sink {
  readonly onLine: (line: LogLine) => void;
  readonly onMissed: () => void;
}

class LogReader {
  readonly #client: BoxClient;
  readonly #token: ShutdownToken;
  readonly #sink: Sink;
  #after = 0;

  constructor(client: BoxClient, token: ShutdownToken, sink: Sink) {
    this.#client = client;
    this.#token = token;
    this.#sink = sink;
  }

  /** Everything that is there now: how many lines. */
  async read(signal: AbortSignal, waitMs = 0): Promise<number> {
    for (let count = 0, wait = waitMs; ; wait = 0) {
      const page = await this.#client.logs(this.#token, { after: this.#after, waitMs: wait, signal });
      if (page.missed && this.#after > 0) this.#sink.onMissed();
      for (const line of page.lines) this.#sink.onLine(line);
      count += page.lines.length;
      this.#after = page.next;
      if (!page.more || page.lines.length === 0) return count;
    }
  }

  /** Goes on until the function is gone or `signal` aborts; rejects with its reason then. */
  async follow(signal: AbortSignal): Promise<void> {
    try {
      for (;;) await this.read(signal, Limits.logWaitMsMax);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof BentoError) || error.code !== "bad-token") throw error;
    }
  }
}

// 2026-11-21T13:00:00.000Z 1 info   text
function formatLine({ at, instance, level, text }: LogLine): string {
  return `${new Date(at).toISOString()} ${instance} ${level.padEnd(5)} ${printable(text)}`;
}
