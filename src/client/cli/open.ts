// `bento open INSTANCE`, `recv`, `send`, `close`: an instance that runs already. Output goes on where this user
// last read it; nothing is shown twice or left out.

import { readFile } from "node:fs/promises";
import { buffer } from "node:stream/consumers";
import { BentoError, systemCode } from "../../base/errors.ts";
import type { InstanceId } from "../../wire/token.ts";
import type { BoxClient, Session } from "../client.ts";
import {
  forget,
  openInput,
  outputEvent,
  reportOutcome,
  SessionEvents,
  saveOffset,
  streamSession,
} from "./attached.ts";
import { boxLabel, type Cli, type ReachOptions, usage } from "./cli.ts";
import { clientOf, type Found, findInstance } from "./credentials.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { OutputFile } from "./output-file.ts";
import { Progress } from "./progress.ts";

export interface OpenOptions extends ReachOptions {
  readonly output?: string | undefined;
  readonly input?: string | undefined;
  readonly lines?: boolean | undefined;
  readonly endInput?: boolean | undefined;
  readonly offset?: number | undefined;
}

export async function open(cli: Cli, given: string, options: OpenOptions): Promise<ExitCode> {
  await using output = options.output === undefined ? undefined : await OutputFile.open(options.output);
  const input = await openInput(cli, options.input);
  const found = await findInstance(cli, given, options);
  using client = clientOf(found);
  const events = new SessionEvents(cli, `Attaching on ${boxLabel(found.reach)}`);
  let session: Session;
  try {
    session = await client.open(found.value, {
      offset: options.offset ?? found.offset,
      signal: cli.signal,
      onEvent: events.handle,
    });
  } catch (error) {
    events.quiet();
    throw error;
  }
  return await streamSession(
    cli,
    client,
    session,
    events,
    { lines: options.lines, output, input, endInput: options.endInput ?? false },
    rememberedOf(found),
  );
}

export interface RecvOptions extends ReachOptions {
  /** How long to wait for a message: seconds. */
  readonly wait?: number | undefined;
}

/** One message, byte for byte. Exit code 9 when the instance has no more, 6 when none came in time. */
export async function recv(cli: Cli, given: string, options: RecvOptions): Promise<ExitCode> {
  const found = await findInstance(cli, given, options);
  using client = clientOf(found);
  using progress = new Progress(cli.io, `Waiting for a message from ${boxLabel(found.reach)}`);
  await using session = await client.open(found.value, { offset: found.offset, signal: cli.signal });
  const waitMs = (options.wait ?? 30) * 1000;
  const late = AbortSignal.any([cli.signal, AbortSignal.timeout(waitMs)]);
  const onLate = () => void session.detach();
  late.addEventListener("abort", onLate, { once: true });
  const messages = session[Symbol.asyncIterator]();
  const next = await messages.next();
  late.removeEventListener("abort", onLate);
  progress[Symbol.dispose]();
  if (cli.signal.aborted) return EXIT.interrupted;
  if (next.done && late.aborted) {
    throw new BentoError("box-timeout", `Cannot receive: no message within ${waitMs / 1000} s`, {
      advice: "The instance goes on; try again, or wait longer with --wait.",
    });
  }
  if (next.done) {
    await forget(cli, client, rememberedOf(found));
    const code = reportOutcome(cli, await session.ended);
    if (code === EXIT.ok) cli.io.note("The function has returned; there are no more messages.");
    return code === EXIT.ok ? EXIT.partial : code;
  }
  const offset = session.offset + next.value.length;
  if (cli.io.json) cli.io.event(outputEvent({ offset: session.offset, bytes: next.value, last: true }));
  else await cli.io.write(next.value);
  // Only now has it been consumed: a message that could not be written is delivered again.
  if (found.name !== undefined) await saveOffset(cli, found.name, offset);
  return EXIT.ok;
}

export async function send(
  cli: Cli,
  given: string,
  message: string,
  options: ReachOptions,
): Promise<ExitCode> {
  const bytes = await messageBytes(cli, message);
  const found = await findInstance(cli, given, options);
  using client = clientOf(found);
  using progress = new Progress(cli.io, `Sending to ${boxLabel(found.reach)}`);
  await using session = await client.open(found.value, { offset: found.offset, signal: cli.signal });
  await session.send(bytes);
  await session.detach();
  progress[Symbol.dispose]();
  cli.io.event({ event: "sent", bytes: bytes.length });
  return EXIT.ok;
}

export interface CloseOptions extends ReachOptions {
  readonly kill?: boolean | undefined;
}

export async function close(cli: Cli, given: string, options: CloseOptions): Promise<ExitCode> {
  const found = await findInstance(cli, given, options);
  using client: BoxClient = clientOf(found);
  let killed = false;
  if (options.kill) {
    killed = await client.close(found.value, { kill: true, signal: cli.signal });
    await forget(cli, client, rememberedOf(found));
  } else {
    // spec/wire 5: only a session can end input; the request `close` is for killing.
    await using session = await client.open(found.value, { offset: found.offset, signal: cli.signal });
    await session.endInput();
  }
  cli.io.result({ killed }, () => "");
  if (!cli.io.json)
    cli.io.note(
      killed
        ? "Ended."
        : options.kill
          ? "It had ended already."
          : "Input closed; the function ends when it is done.",
    );
  return EXIT.ok;
}

/** Text as given, `@file`, or `-` for stdin. */
async function messageBytes(cli: Cli, given: string): Promise<Uint8Array> {
  if (given === "-") return buffer(cli.io.stdin);
  if (!given.startsWith("@")) return Buffer.from(given);
  try {
    return await readFile(given.slice(1));
  } catch (error) {
    throw usage(`Cannot send ${given.slice(1)}: ${systemCode(error) ?? "not readable"}`);
  }
}

function rememberedOf(found: Found<InstanceId>) {
  const { reach, isolation, shutdownToken } = found;
  return { name: found.name ?? found.value, reach, isolation, shutdownToken };
}
