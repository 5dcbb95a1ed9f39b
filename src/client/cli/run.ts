// `bento run FN [ARG...]`: install, start and attach in one round trip; output to stdout. What it installed is
// removed again when the function has ended, unless --keep saves it under a name.

import type { Invocation } from "../../wire/api.ts";
import { parseInvocationToken, type ShutdownToken } from "../../wire/token.ts";
import { BoxClient, newIsolation, type Runnable, type Session, type StoredFunction } from "../client.ts";
import { loadPackage } from "../package-loader.ts";
import { openInput, rememberInstance, SessionEvents, streamSession } from "./attached.ts";
import { boxLabel, type Cli, chooseBox, manifestOf, type Reach, usage } from "./cli.ts";
import { coverOf, streamCovered } from "./cover.ts";
import { findFunction } from "./credentials.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { type InvocationOptions, invocationOf } from "./invocation.ts";
import type { LaterOptions } from "./later.ts";
import { RunLogs } from "./logs.ts";
import { OutputFile } from "./output-file.ts";
import { saveFunction, showPackage } from "./store.ts";

export interface RunOptions extends LaterOptions, InvocationOptions {
  readonly output?: string | undefined;
  readonly input?: string | undefined;
  readonly lines?: boolean | undefined;
  readonly leaveOpen?: boolean | undefined;
  readonly manifest?: string | undefined;
  /** A name, or true for the function's own. */
  readonly keep?: string | boolean | undefined;
  readonly dryRun?: boolean | undefined;
  /** Show what the function logs. */
  readonly logs?: boolean | undefined;
  /** Rate of the cover around the session, e.g. "64KiB/s". */
  readonly cover?: string | undefined;
  /** The cover lasts a multiple of this, e.g. "30s". */
  readonly coverUnit?: string | undefined;
}

export async function run(
  cli: Cli,
  fn: string,
  args: readonly string[],
  options: RunOptions,
): Promise<ExitCode> {
  const invocation = invocationOf(args, options);
  if (options.dryRun) {
    showPackage(cli, await loadPackage(fn, { manifest: options.manifest }), options.box);
    return EXIT.ok;
  }
  if (options.later) return await leave(cli, fn, invocation, options);
  const cover = options.cover === undefined ? undefined : coverOf(options.cover, options.coverUnit);
  if (cover && (options.keep || options.logs))
    throw usage("Cannot cover: a covered function ends with its cover", "Leave out --keep and --logs.");
  await using output = options.output === undefined ? undefined : await OutputFile.open(options.output);
  const input = await openInput(cli, options.input);
  const target = await findTarget(cli, fn, options);
  await cli.context.checkWritable();
  const { reach } = target;
  const client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: target.isolation });
  using _client = client;
  const events = new SessionEvents(cli, `Connecting to ${boxLabel(reach)}`);
  const endInput = !options.leaveOpen;
  const hasInput = input !== undefined;
  if (cover) {
    const how = { lines: options.lines, output, input, endInput: endInput && hasInput };
    const start = { what: target.what, invocation, endInput: endInput && !hasInput };
    return await streamCovered(cli, client, events, cover, start, how);
  }
  let session: Session;
  try {
    session = await client.run(target.what, invocation, {
      endInput: endInput && !hasInput,
      signal: cli.signal,
      onEvent: events.handle,
    });
  } catch (error) {
    events.quiet();
    throw error;
  }
  const stored = session.stored as StoredFunction | undefined;
  if (stored && options.keep) {
    const name = typeof options.keep === "string" ? options.keep : target.name;
    await saveFunction(cli, name, stored, reach, target.isolation);
  }
  const entry = {
    reach,
    isolation: target.isolation,
    function: target.name,
    ...(stored && !options.keep ? { shutdownToken: stored.shutdownToken } : {}),
  };
  const name = await rememberInstance(cli, session.instance, target.name, entry);
  const token = stored?.shutdownToken ?? target.shutdownToken;
  using logs = options.logs && token ? new RunLogs(cli.io, client, token) : undefined;
  const how = {
    lines: options.lines,
    output,
    input,
    endInput: endInput && hasInput,
    onEnded: async () => logs?.finish(),
  };
  return await streamSession(cli, client, session, events, how, { ...entry, name });
}

async function leave(cli: Cli, fn: string, invocation: Invocation, options: RunOptions): Promise<ExitCode> {
  const { output, cover, keep, logs, leaveOpen } = options;
  if (output !== undefined || cover !== undefined || keep || logs || leaveOpen)
    throw usage(
      "Cannot leave it to be run later: --output, --cover, --keep, --logs and --leave-open are for sessions",
      "`bento get NAME -o FILE` fetches the answer.",
    );
  if (Object.hasOwn((await cli.context.read()).functions, fn) || isToken(fn))
    throw usage("Cannot leave it to be run later: a stored function is named, wanted one to send");
  const loaded = await loadPackage(fn, { manifest: options.manifest });
  return (await import("./later.ts")).runLater(
    cli,
    loaded,
    invocation,
    await openInput(cli, options.input),
    options,
  );
}

interface Target {
  readonly what: Runnable;
  readonly name: string;
  readonly reach: Reach;
  readonly isolation: string;
  /** The owner's token of a saved function. */
  readonly shutdownToken?: ShutdownToken | undefined;
}

/** A saved name or token runs what is installed; anything else is a function to send. */
async function findTarget(cli: Cli, fn: string, options: RunOptions): Promise<Target> {
  const saved = (await cli.context.read()).functions;
  if (Object.hasOwn(saved, fn) || isToken(fn)) {
    const found = await findFunction(cli, fn, options);
    const { value, reach, isolation, shutdownToken } = found;
    if (options.logs && !shutdownToken)
      throw usage("Cannot show logs: only the owner's shutdown token reads them", "Leave out --logs.");
    return { what: { token: value }, name: found.name ?? "function", reach, isolation, shutdownToken };
  }
  const loaded = await loadPackage(fn, { manifest: options.manifest });
  const reach = await chooseBox(cli, options, manifestOf(loaded));
  // A fresh context each time: two runs cannot be linked by their circuit.
  return { what: { package: loaded.package }, name: loaded.name, reach, isolation: newIsolation() };
}

function isToken(text: string): boolean {
  if (text === "-" || text.startsWith("@")) return true;
  try {
    parseInvocationToken(text);
    return true;
  } catch {
    return false;
  }
}
