// `bento lb status`: one report, a live view in the terminal (--watch), or a page on this machine (--page). Whatever shows
// it, one session feeds it: what the load balancer says, from its box or, when that one is gone, from its standby's.

import { stripVTControlCharacters } from "node:util";
import { systemClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { LoadBalancerLimits } from "../../wire/loadbalancer.ts";
import type { Answer } from "../loadbalancer/answers.ts";
import { eventText, withNames } from "../loadbalancer/event-text.ts";
import { follow, type Place, type Seen } from "../loadbalancer/follow.ts";
import { History } from "../loadbalancer/history.ts";
import { LivePage } from "../loadbalancer/live-page.ts";
import type { Cli, ReachOptions } from "./cli.ts";
import { usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable } from "./io.ts";
import { type FoundBalancer, findBalancer, labelsOf, namesOfBoxes } from "./lb-places.ts";
import { saveStandby } from "./lb-saved.ts";
import { liveLines, plainLine, reportLines } from "./lb-view.ts";
import { openAddress } from "./open-address.ts";
import { Progress } from "./progress.ts";

export interface LbStatusOptions extends ReachOptions {
  readonly watch?: boolean | undefined;
  /** A port, or true for one that the system chooses. */
  readonly page?: number | true | undefined;
  readonly open?: boolean | undefined;
  /** Seconds between reports. */
  readonly interval: number;
}

export async function lbStatus(
  cli: Cli,
  given: string | undefined,
  options: LbStatusOptions,
): Promise<ExitCode> {
  using found = await findBalancer(cli, given, options);
  if (options.page !== undefined) return await servePage(cli, found, options);
  const { signal } = cli;
  const everyMs = options.watch ? everyMsOf(options) : 0;
  const view = options.watch ? new LiveView(cli, found) : undefined;
  let names: ReadonlyMap<string, string> = new Map();
  {
    using progress = new Progress(cli.io, `Asking ${found.places[0]?.label}`);
    const onInterrupted = (_: unknown, reason: string) => view?.note(reason);
    const onAsking = (places: readonly Place[]) => progress.phase(`Asking ${labelsOf(places)}`);
    for await (const seen of follow(found.places, { everyMs, signal, onInterrupted, onAsking })) {
      if (seen.kind === "gone") tellGone(cli, seen);
      if (seen.kind === "attached") names = await namesOfBoxes(cli, seen.place.label);
      if (seen.kind !== "answer") continue;
      progress[Symbol.dispose]();
      await keepStandby(cli, found, seen.answer);
      if (view) await view.show(seen.answer, withNames(seen.answer, names));
      else if ("report" in seen.answer) {
        const { report } = seen.answer;
        const { label, kind } = seen.place;
        const head = `${found.name} at ${label}${kind === "standby" ? ", its standby" : ""}`;
        const shown = withNames(seen.answer, names);
        cli.io.result({ name: found.name, at: kind, box: label, ...report }, () =>
          [head, ...("report" in shown ? reportLines(shown.report) : [])].map(printable).join("\n"),
        );
        return EXIT.ok;
      }
    }
  }
  return EXIT.interrupted;
}

function everyMsOf({ interval }: LbStatusOptions): number {
  return Math.max(LoadBalancerLimits.reportMsMin, Math.round(interval * 1000));
}

function tellGone(cli: Cli, { place, reason }: Extract<Seen, { kind: "gone" }>): void {
  cli.io.event({ event: "gone", box: place.label, reason });
  if (!cli.io.json) cli.io.note(`${place.label} does not have it any more: ${printable(reason)}`);
}

/** A standby may be placed, or placed anew, long after the start. */
async function keepStandby(cli: Cli, found: FoundBalancer, answer: Answer): Promise<void> {
  if ("standby" in answer) await saveStandby(cli, found.name, answer.standby);
  if ("reserve" in answer) await saveStandby(cli, found.name, answer.reserve);
}

const DRAW_MS = 80;

/** The terminal's page, redrawn in place; without a terminal, or with --json, a line for each answer. */
class LiveView {
  readonly #cli: Cli;
  readonly #found: FoundBalancer;
  readonly #history = new History(systemClock);
  #note = "";
  #linesDrawn = 0;
  #drawnMs = 0;

  constructor(cli: Cli, found: FoundBalancer) {
    this.#cli = cli;
    this.#found = found;
  }

  /** Waits while whoever reads our output does not. @param raw as it came, for programs */
  async show(raw: Answer, answer: Answer): Promise<void> {
    const { io } = this.#cli;
    this.#note = "";
    if ("event" in answer) this.#history.addEvent(answer.event);
    if ("report" in answer) this.#history.addReport(answer.report);
    const line = (value: object) => io.write(Buffer.from(`${JSON.stringify(value)}\n`));
    const print = (text: string) => io.write(Buffer.from(`${printable(`${now()}  ${text}`)}\n`));
    if (io.json) {
      if ("event" in raw) await line({ event: "balancer", ...raw.event });
      if ("report" in raw) await line({ event: "report", ...raw.report });
    } else if (io.stdout.isTTY) await this.#draw();
    else if ("event" in answer) await print(eventText(answer.event));
    else if ("report" in answer) await print(plainLine(answer.report));
  }

  note(text: string): void {
    this.#note = text;
    if (this.#cli.io.stdout.isTTY && !this.#cli.io.json) void this.#draw();
    else this.#cli.io.note(printable(text));
  }

  /** Not more often than somebody can see. */
  async #draw(): Promise<void> {
    const { io } = this.#cli;
    const nowMs = Date.now();
    if (nowMs - this.#drawnMs < DRAW_MS && this.#note === "") return;
    this.#drawnMs = nowMs;
    const { columns = 80, rows = 24 } = io.stdout;
    const head = `${this.#found.name}  ${now()}${this.#note === "" ? "" : `  (${this.#note}; trying again)`}`;
    const lines = [head, ...liveLines(this.#history)].map((line) =>
      stripVTControlCharacters(printable(line)).slice(0, columns - 1),
    );
    // What does not fit would scroll, and could not be drawn over any more.
    const shown = lines.slice(0, Math.max(1, rows - 1));
    const below = Math.max(0, this.#linesDrawn - shown.length);
    const up = this.#linesDrawn > 0 ? `\u001b[${this.#linesDrawn}A` : "";
    const text = shown.map((line, index) => `\r\u001b[K${index === 0 ? io.bold(line) : line}\n`).join("");
    this.#linesDrawn = shown.length + below;
    await io.write(Buffer.from(`${up}${text}${"\r\u001b[K\n".repeat(below)}`));
  }
}

function now(): string {
  return new Date().toISOString().slice(11, 19);
}

/** The page, until Ctrl-C. */
async function servePage(cli: Cli, found: FoundBalancer, options: LbStatusOptions): Promise<ExitCode> {
  const { io, signal } = cli;
  const { page: wanted, open } = options;
  const history = new History(systemClock);
  await using page = await LivePage.start({
    port: wanted === true || wanted === undefined ? 0 : wanted,
    name: found.name,
    history,
  }).catch((cause: unknown) => {
    throw usage(
      `Cannot serve at port ${String(wanted)}: ${cause instanceof Error ? cause.message : "failed"}`,
      "Choose another port.",
    );
  });
  io.result({ address: page.address }, () => page.address);
  if (!io.json) io.note("Whoever has this address may look. Ctrl-C stops.");
  if (open) openAddress(cli, page.address);
  let names: ReadonlyMap<string, string> = new Map();
  const onInterrupted = (_: unknown, reason: string) => page.tell(`${reason}; trying again`);
  try {
    for await (const seen of follow(found.places, { everyMs: everyMsOf(options), signal, onInterrupted })) {
      if (seen.kind === "gone") {
        tellGone(cli, seen);
        page.tell(`${seen.place.label} does not have it any more: ${seen.reason}`);
      }
      if (seen.kind === "attached") {
        names = await namesOfBoxes(cli, seen.place.label);
        page.tell("");
      }
      if (seen.kind !== "answer") continue;
      await keepStandby(cli, found, seen.answer);
      const answer = withNames(seen.answer, names);
      if ("event" in answer) history.addEvent(answer.event);
      if ("report" in answer) {
        history.addReport(answer.report);
        page.tell("");
      }
      page.update();
    }
  } catch (error) {
    // The page stays as it was, and says why nothing comes any more.
    page.tell(error instanceof BentoError ? error.message : String(error));
    if (!io.json) io.report(error);
    if (!signal.aborted)
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
  }
  return EXIT.ok;
}
