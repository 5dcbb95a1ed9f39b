// What `run` and `open` share: an attached session from here to its end. Output bytes go to stdout or a file as they
// are, input comes from a file or stdin, Ctrl-C leaves and says how to come back, the outcome becomes the exit code.

import { open as openFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { BentoError, systemCode, unreachable } from "../../base/errors.ts";
import type { Outcome } from "../../wire/api.ts";
import { Limits } from "../../wire/limits.ts";
import type { ShutdownToken } from "../../wire/token.ts";
import type { BoxClient, OutputChunk, Session, SessionEvent, StoredFunction } from "../client.ts";
import { freeName } from "../context.ts";
import { type Cli, type Reach, savedReach, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable } from "./io.ts";
import type { OutputFile } from "./output-file.ts";
import { formatSeconds, Progress } from "./progress.ts";

export interface StreamOptions {
  /** Where output goes; stdout when left out. The caller closes it. */
  readonly output?: OutputFile | undefined;
  /** Sent as messages; ended by whoever reads it. */
  readonly input?: Readable | undefined;
  /** Each line of the input is a message. */
  readonly lines?: boolean | undefined;
  /** End the function's input when the given input has ended (or at once when there is none). */
  readonly endInput: boolean;
  /** Called when the instance has ended, while the box still knows it. */
  readonly onEnded?: (() => Promise<void>) | undefined;
}

/** How a session is remembered while it runs. */
export interface Remembered {
  readonly name: string;
  readonly reach: Reach;
  readonly isolation: string;
  readonly function?: string | undefined;
  /** Ends the function as soon as the instance has ended. */
  readonly shutdownToken?: ShutdownToken | undefined;
}

/** Saves an instance under a free name and returns that name. */
export async function rememberInstance(
  cli: Cli,
  instance: string,
  base: string,
  entry: Omit<Remembered, "name">,
): Promise<string> {
  return cli.context.update((data) => {
    const name = freeName(base, data.instances);
    data.instances[name] = {
      ...savedReach(entry.reach),
      isolation: entry.isolation,
      instance,
      offset: 0,
      startedAt: Date.now(),
      ...(entry.function === undefined ? {} : { function: entry.function }),
      ...(entry.shutdownToken === undefined ? {} : { shutdownToken: entry.shutdownToken }),
    };
    return name;
  });
}

/**
 * Streams a session to its end or to Ctrl-C. Disposes of the session; ends a run's function when it is over. One that is
 * not remembered cannot be attached to again.
 */
export async function streamSession(
  cli: Cli,
  client: BoxClient,
  session: Session,
  events: SessionEvents,
  options: StreamOptions,
  remembered: Remembered | undefined,
): Promise<ExitCode> {
  const { io } = cli;
  await using _session = session;
  const { output } = options;
  await output?.begin();
  const stop = new AbortController();
  const onInterrupt = () => {
    void session.detach();
  };
  cli.signal.addEventListener("abort", onInterrupt, { once: true });
  if (cli.signal.aborted) onInterrupt();
  const inputFailed = Promise.withResolvers<never>();
  inputFailed.promise.catch(() => undefined);
  sendInput(cli, session, options, stop.signal).catch((error: unknown) => {
    if (!stop.signal.aborted) inputFailed.reject(error);
  });
  try {
    const last = await Promise.race([pipeOutput(cli, session, events, output), inputFailed.promise]);
    if (cli.signal.aborted) return await detached(cli, session, remembered);
    const outcome = await session.ended;
    if (last !== undefined && last !== 0x0a && !output && !io.json && io.stdout.isTTY) io.note("");
    await options.onEnded?.();
    if (remembered) await forget(cli, client, remembered);
    return reportOutcome(cli, outcome);
  } catch (error) {
    if (cli.signal.aborted) return await detached(cli, session, remembered);
    if (remembered) await saveOffset(cli, remembered.name, session.offset);
    if (remembered && error instanceof BentoError && session.offset > 0) {
      io.note(`What was received so far is kept; the rest: ${reattachCommand(remembered)}`);
    }
    throw error;
  } finally {
    stop.abort(new BentoError("closed", "The session is over"));
    cli.signal.removeEventListener("abort", onInterrupt);
  }
}

/** Session events as progress and JSON lines. Made before the session, because its first event comes with it. */
export class SessionEvents {
  readonly #cli: Cli;
  progress: Progress | undefined;

  constructor(cli: Cli, label: string) {
    this.#cli = cli;
    this.progress = new Progress(cli.io, label);
  }

  readonly handle = (event: SessionEvent): void => {
    const { io } = this.#cli;
    switch (event.kind) {
      case "attached":
        this.progress?.phase("Running");
        io.event({ event: "attached", offset: event.offset });
        break;
      case "received":
        break;
      case "interrupted":
        this.progress?.phase(
          `Connection lost, attempt ${event.attempt} to attach again in ${formatSeconds(event.delayMs / 1000)}`,
        );
        io.event({
          event: "interrupted",
          attempt: event.attempt,
          delayMs: event.delayMs,
          reason: event.reason,
        });
        break;
      case "resumed":
        this.progress?.phase("Receiving");
        io.event({ event: "resumed", offset: event.offset });
        break;
      case "ended":
        // Told once the output before it has been.
        break;
      default:
        unreachable(event);
    }
  };

  /** Takes the progress line away for good. */
  quiet(): void {
    this.progress?.[Symbol.dispose]();
    this.progress = undefined;
  }
}

async function pipeOutput(
  cli: Cli,
  session: Session,
  events: SessionEvents,
  output: OutputFile | undefined,
): Promise<number | undefined> {
  const { io } = cli;
  let last: number | undefined;
  // Output on the terminal shows progress by itself; a redrawn line would only tear it.
  const showsItself = !output && io.stdout.isTTY === true;
  try {
    for await (const chunk of session.chunks()) {
      if (showsItself) events.quiet();
      if (output) await output.write(chunk.bytes);
      else if (io.json) io.event(outputEvent(chunk));
      else await io.write(chunk.bytes);
      last = chunk.bytes.at(-1) ?? last;
      events.progress?.phase("Received");
      events.progress?.update(chunk.offset + chunk.bytes.length);
    }
  } finally {
    events.quiet();
  }
  return last;
}

/** `text` where the bytes are UTF-8, else `base64`. */
export function outputEvent(chunk: OutputChunk): Readonly<Record<string, unknown>> {
  const buffer = Buffer.from(chunk.bytes);
  const text = buffer.toString("utf8");
  const isText = Buffer.from(text, "utf8").equals(buffer);
  return {
    event: "output",
    offset: chunk.offset,
    last: chunk.last,
    ...(isText ? { text } : { base64: buffer.toString("base64") }),
  };
}

/** The stream that `-i` names, a file or `-` for stdin. Throws "usage" when there is no such file. */
export async function openInput(cli: Cli, given: string | undefined): Promise<Readable | undefined> {
  if (given === undefined) return undefined;
  if (given === "-") return cli.io.stdin;
  try {
    const file = await openFile(given, "r");
    if (!(await file.stat()).isDirectory())
      return file.createReadStream({ highWaterMark: Limits.fragmentBytesMax });
    await file.close();
  } catch (cause) {
    throw usage(`Cannot read input from ${given}: ${systemCode(cause) ?? "failed"}`);
  }
  throw usage(`Cannot read input from ${given}: it is a folder`);
}

async function sendInput(
  cli: Cli,
  session: Session,
  options: StreamOptions,
  signal: AbortSignal,
): Promise<void> {
  const source = options.input;
  if (source) {
    const release = () => {
      if (source === cli.io.stdin) source.pause();
      else source.destroy();
    };
    signal.addEventListener("abort", release, { once: true });
    try {
      for await (const message of messagesOf(source, options.lines ?? false)) {
        signal.throwIfAborted();
        await session.send(message);
      }
    } catch (error) {
      if (error instanceof BentoError && error.code === "already-ended") return;
      if (systemCode(error) !== undefined && !(error instanceof BentoError)) {
        throw usage(`Cannot read input: ${systemCode(error) ?? "failed"}`);
      }
      throw error;
    }
  }
  if (!options.endInput || signal.aborted) return;
  try {
    await session.endInput();
  } catch (error) {
    // The instance may end before it is told that there is no more input.
    if (!(error instanceof BentoError)) throw error;
  }
}

async function* messagesOf(source: Readable, lines: boolean): AsyncGenerator<Uint8Array | string> {
  if (lines) yield* createInterface({ input: source, crlfDelay: Number.POSITIVE_INFINITY });
  else yield* source as AsyncIterable<Uint8Array>;
}

async function detached(cli: Cli, session: Session, remembered: Remembered | undefined): Promise<ExitCode> {
  if (!remembered) return EXIT.interrupted;
  await saveOffset(cli, remembered.name, session.offset);
  const command = reattachCommand(remembered);
  cli.io.note("");
  cli.io.note(`Detached; the instance goes on. To attach again: ${cli.io.bold(command)}`);
  cli.io.event({ event: "detached", name: remembered.name, offset: session.offset, command });
  return EXIT.interrupted;
}

function reattachCommand(remembered: { readonly name: string }): string {
  return `bento open ${remembered.name}`;
}

export async function saveOffset(cli: Cli, name: string, offset: number): Promise<void> {
  await cli.context.update((data) => {
    const entry = data.instances[name];
    if (entry) entry.offset = offset;
  });
}

/** The instance is over: its name goes, and the function with it when `run` installed it for this call alone. */
export async function forget(cli: Cli, client: BoxClient, remembered: Remembered): Promise<void> {
  await cli.context.update((data) => {
    delete data.instances[remembered.name];
  });
  if (remembered.shutdownToken) await shutDown(client, remembered.shutdownToken, cli.signal);
}

/** Removes a function that one command installed for itself alone. Never throws, never waits long. */
export async function endFunction(client: BoxClient, stored: StoredFunction | undefined): Promise<void> {
  if (stored) await shutDown(client, stored.shutdownToken);
}

async function shutDown(client: BoxClient, token: ShutdownToken, signal?: AbortSignal): Promise<void> {
  const inTime = AbortSignal.timeout(CLEAN_UP_MS);
  try {
    await client.shutdown(token, { signal: signal ? AbortSignal.any([signal, inTime]) : inTime });
  } catch {
    // The output is complete; what stays behind on the box expires there by itself.
  }
}

/** How long a command waits for the box to remove what it installed: milliseconds. */
const CLEAN_UP_MS = 10_000;

export function reportOutcome(cli: Cli, outcome: Outcome): ExitCode {
  const { io } = cli;
  io.event({ event: "ended", outcome });
  switch (outcome.kind) {
    case "returned":
      return EXIT.ok;
    case "failed": {
      io.note(
        `${io.red("bento: the function failed:")} ${printable(outcome.name)}: ${printable(outcome.message)}`,
      );
      if (outcome.traceback !== "" && outcome.traceback !== `${outcome.name}: ${outcome.message}`)
        io.note(io.dim(printable(outcome.traceback.trimEnd())));
      return EXIT.functionFailed;
    }
    case "killed": {
      const detail = outcome.detail ? ` (${printable(outcome.detail)})` : "";
      io.note(`${io.red("bento: the box ended the function:")} ${KILLED[outcome.reason]}${detail}`);
      if (outcome.reason === "runtime-limit") return EXIT.timeLimit;
      return outcome.reason === "out-of-memory" ? EXIT.full : EXIT.functionFailed;
    }
    default:
      return unreachable(outcome);
  }
}

const KILLED = {
  closed: "it was closed with --kill",
  shutdown: "its owner shut it down",
  expired: "its lifetime is over",
  "runtime-limit": "it ran longer than it may",
  "out-of-memory": "it used more memory than it may",
  crashed: "its runtime crashed",
  "box-stopping": "the box is stopping",
} as const;

/** Lets a stream's bytes out before the process ends. */
export async function flushed(stream: Writable): Promise<void> {
  await new Promise<void>((resolve) => stream.write("", () => resolve()));
}
