// `bento run --cover RATE`: the session inside cells of one size at a constant rate, and `bento cover`: cells with
// nothing in them. The cover goes on to the end of its unit after the function has ended: when it ended does not show.

import { type Invocation } from "../../wire/api.ts";
import { coverSettings, RATE_MAX, RATE_MIN } from "../../wire/cover.ts";
import { parseBytes, parseDuration } from "../../wire/quantity.ts";
import { BoxClient, newIsolation, type Runnable, type StoredFunction } from "../client.ts";
import { COVER_UNIT_MS, Cover } from "../cover.ts";
import { loadPackage } from "../package-loader.ts";
import { endFunction, type SessionEvents, type StreamOptions, streamSession } from "./attached.ts";
import { boxLabel, type Cli, chooseBox, manifestOf, type ReachOptions, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { formatSeconds, Progress } from "./progress.ts";

export interface CoverSettings {
  /** Bytes of cells per second, each way. */
  readonly rate: number;
  readonly unitMs: number;
}

/** Shortest unit: below it, starting and ending would be most of what shows. */
const UNIT_MS_MIN = 1_000;
const UNIT_MS_MAX = 24 * 3600_000;
/** How often the progress of idle cover is looked at: milliseconds. */
const WATCH_MS = 500;

/** Reads "64KiB/s" and "30s". Throws "usage". */
export function coverOf(rate: string, unit: string | undefined): CoverSettings {
  const bytes = parseBytes(rate.replace(/\/s$/, ""));
  if (bytes === undefined || bytes < RATE_MIN || bytes > RATE_MAX)
    throw usage(`Cannot cover at "${rate}": wanted 4KiB/s to 4MiB/s, e.g. 64KiB/s`);
  const unitMs = unit === undefined ? COVER_UNIT_MS : parseDuration(unit);
  if (unitMs === undefined || unitMs < UNIT_MS_MIN || unitMs > UNIT_MS_MAX)
    throw usage(`Cannot cover in units of "${unit}": wanted 1s to 24h, e.g. 30s`);
  return { rate: bytes, unitMs };
}

/** Runs a function inside cover to its end, and the cover to the end of its unit. Ctrl-C ends both at once. */
export async function streamCovered(
  cli: Cli,
  client: BoxClient,
  events: SessionEvents,
  settings: CoverSettings,
  start: { readonly what: Runnable; readonly invocation: Invocation; readonly endInput: boolean },
  how: StreamOptions,
): Promise<ExitCode> {
  const { what, invocation, endInput } = start;
  const { signal } = cli;
  const undo = new AsyncDisposableStack();
  await using _undo = undo;
  undo.defer(() => events.quiet());
  const { package: pack } = await loadPackage("cover");
  const cover = undo.use(await Cover.start(client, { ...settings, cover: { package: pack }, signal }));
  undo.defer(() => endFunction(client, cover.outer.stored as StoredFunction | undefined));
  const session = await cover.run(what, invocation, { endInput, onEvent: events.handle });
  const code = await streamSession(cli, client, session, events, how, undefined);
  if (!signal.aborted) await finish(cli, cover);
  if (!signal.aborted) return code;
  cli.io.note("The cover has ended, and the function with it.");
  return EXIT.interrupted;
}

export interface IdleCoverOptions extends ReachOptions {
  readonly rate: string;
  /** How long, e.g. "10m". */
  readonly for: string;
  /** Circuits of the box's own, in place of the client's link. */
  readonly circuits?: number | undefined;
  readonly sink?: string | undefined;
}

/** `bento cover`: cells of which none has anything in it. */
export async function cover(cli: Cli, options: IdleCoverOptions): Promise<ExitCode> {
  const { circuits, sink } = options;
  if (circuits !== undefined) return (await import("./poster.ts")).poster(cli, { ...options, circuits });
  if (sink !== undefined)
    throw usage("Cannot use --sink alone: it is where the box's own circuits lead", "Add --circuits.");
  const { rate, unitMs } = coverOf(options.rate, options.for);
  const loaded = await loadPackage("cover");
  const reach = await chooseBox(cli, options, manifestOf(loaded));
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: newIsolation() });
  using progress = new Progress(cli.io, `Connecting to ${boxLabel(reach)}`);
  const { signal } = cli;
  await using idle = await Cover.start(client, { rate, unitMs, cover: { package: loaded.package }, signal });
  const { cellBytes } = coverSettings(rate);
  cli.io.event({ event: "covering", rate, cellBytes });
  progress.phase(`Cover at ${options.rate} for ${options.for}, cells of ${cellBytes} bytes:`);
  const watch = setInterval(() => progress.update(idle.outer.offset), WATCH_MS);
  try {
    await idle.finish(signal);
    cli.io.result({ rate, cellBytes, receivedBytes: idle.outer.offset }, () => "");
    return EXIT.ok;
  } catch (error) {
    if (!signal.aborted) throw error;
    return EXIT.interrupted;
  } finally {
    clearInterval(watch);
    await endFunction(client, idle.outer.stored as StoredFunction | undefined);
  }
}

async function finish(cli: Cli, cover: Cover): Promise<void> {
  using progress = new Progress(cli.io, `Cover goes on for ${formatSeconds(cover.leftMs / 1000)}`);
  progress.update(0);
  try {
    await cover.finish(cli.signal);
  } catch (error) {
    if (!cli.signal.aborted) throw error;
  }
}
