// `bento cover --circuits N`: a box builds circuits of its own and sends cover through each for a while. Nothing of it
// passes this client, which may watch; Ctrl-C ends it at the box.

import { z } from "zod";
import { formatBytes, fromUtf8 } from "../../base/bytes.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import { coverSettings } from "../../wire/cover.ts";
import { parseManifest } from "../../wire/manifest.ts";
import type { PackageInput } from "../../wire/package.ts";
import { cellsOf, type PosterRequest } from "../../wire/poster.ts";
import { formatDuration } from "../../wire/quantity.ts";
import { BoxClient, newIsolation, type Session, type StoredFunction } from "../client.ts";
import { loadPackage } from "../package-loader.ts";
import { endFunction, reportOutcome } from "./attached.ts";
import { boxLabel, type Cli, chooseBox, type ReachOptions, usage } from "./cli.ts";
import { coverOf } from "./cover.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable } from "./io.ts";
import { Progress } from "./progress.ts";

export interface PosterOptions extends ReachOptions {
  readonly circuits: number;
  readonly rate: string;
  readonly for: string;
  /** host:port behind an exit; an onion service of the function's own when left out. */
  readonly sink?: string | undefined;
}

/** What opening and ending take beyond the cover itself: milliseconds. */
const AROUND_MS = 300_000;
const ANSWER_BYTES_MAX = 4096;

const count = z.int().nonnegative();
const countsSchema = z.object({
  opened: count,
  cellsSent: count,
  bytesReceived: count,
  sinkCellsSent: count,
  sinkBytesReceived: count,
  failed: count,
});
const answerSchema = z.union([
  z.object({
    open: z.object({ lane: count, path: z.array(z.string().max(40).nullable()).max(8).nullable() }),
  }),
  z.object({
    failure: z.object({ lane: count, code: z.string().max(64), message: z.string().max(400) }),
  }),
  z.object({ now: countsSchema }),
  z.object({ done: countsSchema }),
]);
type Answer = z.infer<typeof answerSchema>;

export async function poster(cli: Cli, options: PosterOptions): Promise<ExitCode> {
  const request = requestOf(options);
  const pack = posterPackage((await loadPackage("poster")).package, request);
  const reach = await chooseBox(cli, options, parseManifest(pack.manifest));
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: newIsolation() });
  using progress = new Progress(cli.io, `Connecting to ${boxLabel(reach)}`);
  let stored: StoredFunction | undefined;
  try {
    await using session = await client.run({ package: pack }, { args: [request] }, { signal: cli.signal });
    stored = session.stored as StoredFunction | undefined;
    const onAbort = () => void session.detach();
    cli.signal.addEventListener("abort", onAbort, { once: true });
    if (cli.signal.aborted) onAbort();
    const { done, lost } = await watch(cli, session, request, progress);
    if (cli.signal.aborted) return EXIT.interrupted;
    const outcome = await session.ended;
    progress[Symbol.dispose]();
    if (!done) return reportOutcome(cli, outcome);
    return report(cli, request, done, lost);
  } catch (error) {
    if (!cli.signal.aborted) throw error;
    return EXIT.interrupted;
  } finally {
    await endFunction(client, stored);
  }
}

function requestOf({ circuits, rate, for: duration, sink }: PosterOptions): PosterRequest {
  const { rate: bytes, unitMs } = coverOf(rate, duration);
  const settings = { circuits, ...coverSettings(bytes), durationMs: unitMs };
  if (sink === undefined) return settings;
  const match = /^(.{1,255}):(\d{1,5})$/.exec(sink);
  const port = Number(match?.[2]);
  const host = match?.[1]?.replace(/^\[(.*)\]$/, "$1");
  if (host === undefined || port < 1 || port > 65_535 || host.endsWith(".onion"))
    throw usage(`Cannot send cover to "${sink.slice(0, 80)}": wanted host:port behind an exit`);
  return { ...settings, sink: { host, port } };
}

/** Asks for what this request takes, and no more. */
export function posterPackage(pack: PackageInput, request: PosterRequest): PackageInput {
  const { circuits, cellBytes, durationMs, sink } = request;
  // Each way of each circuit, at both of its ends where the sink is the function's own.
  const ways = sink ? 2 : 4;
  const bytes = ways * circuits * cellsOf(request) * cellBytes + 16 * 1024 * circuits + 64 * 1024;
  const tor = sink
    ? { routines: ["circuits" as const, "streams" as const], circuits, streams: circuits }
    : { routines: ["streams" as const, "onions" as const], streams: 2 * circuits, onions: 1 };
  return {
    ...pack,
    manifest: {
      ...pack.manifest,
      tor: { ...tor, extendsPerMinute: 6 * circuits + 6, bytes: `${bytes}B` },
      runtime: formatDuration(durationMs + AROUND_MS),
    },
  };
}

async function watch(
  cli: Cli,
  session: Session,
  { circuits, rate }: PosterRequest,
  progress: Progress,
): Promise<{ done: z.infer<typeof countsSchema> | undefined; lost: number }> {
  let done: z.infer<typeof countsSchema> | undefined;
  let lost = 0;
  progress.phase("Opening circuits");
  for await (const message of session) {
    const answer = parse(message);
    cli.io.event({ event: "cover", ...answer });
    if ("now" in answer) {
      progress.phase(`Cover on ${circuits} circuits at ${formatBytes(rate)}/s:`);
      progress.update(answer.now.bytesReceived);
    } else if ("failure" in answer) {
      lost++;
      const { lane, code, message: why } = answer.failure;
      if (!cli.io.json) cli.io.note(`  circuit ${lane}: ${printable(code)}: ${printable(why)}`);
    } else if ("done" in answer) {
      done = answer.done;
    }
  }
  return { done, lost };
}

function report(
  cli: Cli,
  request: PosterRequest,
  done: z.infer<typeof countsSchema>,
  lost: number,
): ExitCode {
  const { io } = cli;
  const wanted = request.circuits * cellsOf(request);
  io.result({ event: "covered", ...request, ...done, cellsWanted: wanted }, () => "");
  if (!io.json) {
    io.note(
      `${done.opened} circuits carried ${done.cellsSent} of ${wanted} cells of ${request.cellBytes} bytes; ${formatBytes(done.bytesReceived)} came back.`,
    );
  }
  if (done.opened === 0)
    throw new BentoError("cover-failed", "Cannot send cover: no circuit could be opened");
  return done.cellsSent < wanted || lost > 0 ? EXIT.partial : EXIT.ok;
}

function parse(message: Uint8Array): Answer {
  try {
    if (message.length > ANSWER_BYTES_MAX) throw new RangeError("too long");
    return answerSchema.parse(JSON.parse(fromUtf8(message)));
  } catch (cause) {
    throw new ProtocolError("bad-answer", "Cannot read answer: this is not how `poster` answers", { cause });
  }
}
