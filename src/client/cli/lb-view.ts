// What a load balancer reports, as text for a terminal. Pure. Names and reasons come from a box that is not trusted: callers
// print them through `printable`; numbers were bounded when they were read.

import { formatBytes } from "../../base/bytes.ts";
import type { Report } from "../loadbalancer/answers.ts";
import { eventText, shortBox } from "../loadbalancer/event-text.ts";
import type { History, Point } from "../loadbalancer/history.ts";
import { WINDOW_MS } from "../loadbalancer/history.ts";
import { table } from "./io.ts";
import { watermarkText } from "./lb-settings.ts";

const LEVELS = "▁▂▃▄▅▆▇█";
const COURSE_COLUMNS = 30;
/** Events of the live view. */
const EVENTS_SHOWN = 6;

/** One report. */
export function reportLines(report: Report): string[] {
  const rows = report.replicas.map((replica) => [
    String(replica.id),
    shortBox(replica.box),
    replica.state,
    String(replica.connections),
    rate(replica.bytesPerSecond),
    formatBytes(replica.bytesTotal),
    `${Math.round(replica.cpuPercent)} %`,
    `${replica.met} of ${replica.given}`,
    replica.failed === 0 ? "" : `${replica.failed} failed`,
  ]);
  return [
    ...summaryLines(report),
    "",
    ...table([["REPLICA", "BOX", "STATE", "CLIENTS", "RATE", "SENT", "CPU", "MET", ""], ...rows]).split("\n"),
    ...(rows.length === 0 ? ["none"] : []),
  ];
}

function summaryLines(report: Report): string[] {
  const { introductions, introductionPoints, scale, standby, role } = report;
  const lost = [
    ...(introductions.waiting > 0 ? [`${introductions.waiting} wait`] : []),
    ...(introductions.dropped > 0 ? [`${introductions.dropped} dropped`] : []),
    ...(introductions.refused > 0 ? [`${introductions.refused} refused`] : []),
  ];
  const clients = report.replicas.reduce((sum, { connections }) => sum + connections, 0);
  const sending = report.replicas.reduce((sum, { bytesPerSecond }) => sum + bytesPerSecond, 0);
  return [
    `address         ${report.address}`,
    `load            ${clients} ${clients === 1 ? "client" : "clients"}, ${rate(sending)}`,
    `introductions   ${introductions.perSecond.toFixed(1)}/s, ${introductions.total} in all${lost.map((text) => `, ${text}`).join("")}, at ${introductionPoints.length} points`,
    `scale           ${scale.replicasMin} to ${scale.replicasMax}, ${scale.choice}; one more at ${watermarkText(scale.high, formatBytes)}, one less below ${watermarkText(scale.low, formatBytes)}`,
    `standby         ${standby ? `${shortBox(standby.box)}, ${standby.isReady ? "ready" : "not ready"}` : role === "standby" ? "none: this is it" : "none"}`,
  ];
}

/** The page that is redrawn: the last report, courses over the last two minutes, the last events. */
export function liveLines(history: History): string[] {
  const { last } = history;
  if (!last) return ["no report yet"];
  const { report } = last;
  const end = last.atMs;
  const total = history.total();
  const curves = new Map(history.replicas().map(({ replica, points }) => [replica, points]));
  const most = Math.max(1, ...[...curves.values()].flat().map(({ value }) => value));
  const rows = report.replicas.map((replica) => [
    String(replica.id),
    shortBox(replica.box),
    replica.state,
    String(replica.connections),
    course(curves.get(replica.id) ?? [], end, most),
    rate(replica.bytesPerSecond),
    `${Math.round(replica.cpuPercent)} %`,
    replica.failed === 0 ? "" : `${replica.failed} failed`,
  ]);
  const introductions = history.introductions();
  const events = history.events.slice(-EVENTS_SHOWN);
  return [
    ...summaryLines(report),
    `throughput      ${course(total, end, peak(total))}  ${rate(total.at(-1)?.value ?? 0)}`,
    `introductions   ${course(introductions, end, peak(introductions))}  ${report.introductions.perSecond.toFixed(1)}/s`,
    "",
    ...table([["REPLICA", "BOX", "STATE", "CLIENTS", "LAST 2 MIN", "RATE", "CPU", ""], ...rows]).split("\n"),
    "",
    ...events.map((event) => `${clockTime(event.seenMs)}  ${eventText(event)}`),
  ];
}

/** Without a terminal: one line for each report. */
export function plainLine(report: Report): string {
  const { replicas, introductions } = report;
  const sending = replicas.reduce((sum, { bytesPerSecond }) => sum + bytesPerSecond, 0);
  const states = new Map<string, number>();
  for (const { state } of replicas) states.set(state, (states.get(state) ?? 0) + 1);
  const clients = replicas.reduce((sum, { connections }) => sum + connections, 0);
  return [
    [...states].map(([state, count]) => `${count} ${state}`).join(", ") || "no replicas",
    `${clients} ${clients === 1 ? "client" : "clients"}`,
    rate(sending),
    `${introductions.perSecond.toFixed(1)} introductions/s`,
  ].join(" · ");
}

export function rate(bytesPerSecond: number): string {
  return `${formatBytes(Math.round(bytesPerSecond))}/s`;
}

function clockTime(ms: number): string {
  return new Date(ms).toISOString().slice(11, 19);
}

function peak(points: readonly Point[]): number {
  return points.reduce((most, { value }) => Math.max(most, value), 0);
}

/** Blocks from two minutes before `endMs` to then; a gap where nothing was reported. */
function course(points: readonly Point[], endMs: number, most: number): string {
  const stepMs = WINDOW_MS / COURSE_COLUMNS;
  const cells: (number | undefined)[] = Array.from({ length: COURSE_COLUMNS });
  for (const { atMs, value } of points) {
    const at = COURSE_COLUMNS - 1 - Math.floor((endMs - atMs) / stepMs);
    if (at >= 0) cells[at] = Math.max(cells[at] ?? 0, value);
  }
  return cells
    .map((value) => {
      if (value === undefined) return " ";
      return LEVELS[Math.min(LEVELS.length - 1, Math.floor((value / Math.max(1e-9, most)) * LEVELS.length))];
    })
    .join("");
}
