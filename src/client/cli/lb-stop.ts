// `bento lb stop` and `bento lb scale`: what an owner tells a load balancer that runs. Both count only when they are seen to
// have had their effect.

import { isDeepStrictEqual } from "node:util";
import { formatBytes } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import { ORPHAN_MS, type ScaleSettings } from "../../wire/loadbalancer.ts";
import type { Answer } from "../loadbalancer/answers.ts";
import { shortBox } from "../loadbalancer/event-text.ts";
import { follow, type Place } from "../loadbalancer/follow.ts";
import { type Stopped, stopBalancer } from "../loadbalancer/stop.ts";
import { type Cli, type ReachOptions, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable } from "./io.ts";
import { findBalancer, labelsOf } from "./lb-places.ts";
import { forgetBalancer } from "./lb-saved.ts";
import { changesOf, type ScaleOptions, watermarkText } from "./lb-settings.ts";
import { Progress } from "./progress.ts";

export interface LbScaleOptions extends ReachOptions, ScaleOptions {}

export async function lbScale(
  cli: Cli,
  given: string | undefined,
  options: LbScaleOptions,
): Promise<ExitCode> {
  const changes = changesOf(options);
  if (Object.keys(changes).length === 0)
    throw usage("Cannot scale: nothing to change", "Give --replicas, --high, --low or --choice.");
  using found = await findBalancer(cli, given, options);
  using progress = new Progress(cli.io, `Telling ${found.places[0]?.label}`);
  const holds = (answer: Answer) => "report" in answer && isScaledTo(answer.report.scale, changes);
  const { signal } = cli;
  for await (const seen of follow(found.places, {
    say: [{ scale: changes }],
    // Reports until one shows the new settings.
    everyMs: 250,
    awaits: holds,
    signal,
  })) {
    if (seen.kind === "gone") cli.io.note(`${seen.place.label}: ${printable(seen.reason)}`);
    if (seen.kind !== "answer" || !("report" in seen.answer) || !holds(seen.answer)) continue;
    progress[Symbol.dispose]();
    const { scale } = seen.answer.report;
    const { replicasMin, replicasMax, high, low, choice } = scale;
    cli.io.result({ name: found.name, scale }, () =>
      [
        `replicas  ${replicasMin} to ${replicasMax}, ${choice}`,
        `more at   ${watermarkText(high, formatBytes)}`,
        `less at   below ${watermarkText(low, formatBytes)}`,
      ].join("\n"),
    );
    return EXIT.ok;
  }
  return EXIT.interrupted;
}

function isScaledTo(scale: object, changes: Partial<ScaleSettings>): boolean {
  return Object.entries(changes).every(([key, value]) => isDeepStrictEqual(Reflect.get(scale, key), value));
}

export interface LbStopOptions extends ReachOptions {
  /** Forget it here, whatever the boxes say. */
  readonly forget?: boolean | undefined;
}

export async function lbStop(cli: Cli, given: string | undefined, options: LbStopOptions): Promise<ExitCode> {
  using found = await findBalancer(cli, given, options);
  const { io, signal } = cli;
  let stopped: Stopped;
  {
    using progress = new Progress(io, `Asking ${found.places[0]?.label}`);
    stopped = await stopBalancer(found.places, {
      signal,
      onGone: (place, reason) => io.note(`${place.label}: ${printable(reason)}`),
      onAsking: (places) => progress.phase(`Asking ${labelsOf(places)}`),
      onStopping: ({ label }) => progress.phase(`Stopping ${found.name} at ${label}`),
      onChecking: (places) => progress.phase(`Seeing that it is gone at ${labelsOf(places)}`),
    });
  }
  const { told, places } = stopped;
  const left = told?.left ?? [];
  const unsure = places.filter(({ failure }) => failure !== undefined);
  const isDone = unsure.length === 0;
  if (isDone || options.forget) await forgetBalancer(cli, found.name);
  io.result(
    {
      event: "stopped",
      name: found.name,
      replicasEnded: told?.replicasEnded ?? null,
      left,
      boxes: places.map(({ place, failure }) => ({
        box: place.label,
        role: place.kind,
        ended: failure === undefined,
        ...(failure === undefined ? {} : { failure, endsAt: place.expiresAt ?? null }),
      })),
      forgotten: isDone || (options.forget ?? false),
      keyFile: found.entry.keyFile,
    },
    () => "",
  );
  if (!io.json) tell(cli, found.name, stopped, found.entry.keyFile);
  if (isDone && told && left.length === 0) return EXIT.ok;
  const first = unsure[0];
  // Nothing was reached at all: that is what is wrong.
  if (!told && first && unsure.length === places.length)
    throw new BentoError("box-unreachable", `Cannot stop ${found.name}: ${first.failure}`, {
      advice: options.forget
        ? "It is forgotten here; it ends where it is when it expires."
        : "Try again later; `bento lb stop --forget` forgets it here, and it ends when it expires.",
    });
  return EXIT.partial;
}

const REPLICAS_END = `replicas end when their last client has gone and they have heard of no load balancer for ${ORPHAN_MS / 60_000} minutes`;

/** What becomes of a load balancer whose box could not be asked. */
function whenGone({ kind, expiresAt }: Place): string {
  const end = expiresAt === undefined ? "when it expires" : `on ${new Date(expiresAt).toISOString()}`;
  const removed = `Its box removes it ${end}`;
  return kind === "standby"
    ? `${removed}. One that waits there hears of nobody now, and takes the service over: stop it again when its box is back.`
    : `${removed}.`;
}

function tell(cli: Cli, name: string, { told, places, failure }: Stopped, keyFile: string): void {
  const { io } = cli;
  if (told) {
    const count = told.replicasEnded;
    io.note(`${name} is stopped; ${count === 1 ? "1 replica was" : `${count} replicas were`} ended.`);
  } else {
    io.note(
      `No load balancer could be asked to end its replicas (${printable(failure ?? "")}): ${REPLICAS_END}.`,
    );
  }
  for (const box of told?.left ?? [])
    io.note(`  The replica at ${printable(shortBox(box))} could not be asked: ${REPLICAS_END}.`);
  for (const { place, failure: why } of places) {
    const who = place.kind === "standby" ? "the standby" : "the load balancer";
    if (why === undefined) io.note(`  ${place.label} says that ${who} is gone.`);
    else io.note(`  ${place.label}: ${who} may still be there: ${printable(why)}. ${whenGone(place)}`);
  }
  io.note(`  Its key is kept: ${keyFile}`);
}
