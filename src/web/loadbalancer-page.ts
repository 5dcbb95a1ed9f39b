// The page at 127.0.0.1 that shows a load balancer at work: the figure of the paper, drawn live (SIGCOMM 2021, Figure 5:
// download speed of each client), throughput of each replica, introductions, states, events. Pure functions from data
// to HTML. Names and reasons come from boxes: everything is escaped. Its script only puts in what the server drew.

import { formatBytes } from "../base/bytes.ts";
import { escapeHtml } from "./escape-html.ts";

/** The course of one number; `isNew` begins a line anew, where nothing was reported before. */
export interface PageCurve {
  /** Which replica's colour it has. */
  readonly replica: number;
  readonly label: string;
  readonly points: readonly { readonly atMs: number; readonly value: number; readonly isNew: boolean }[];
}

export interface PageReplica {
  readonly id: number;
  readonly box: string;
  readonly state: "starting" | "serving" | "retiring" | "silent";
  readonly connections: number;
  readonly bytesPerSecond: number;
  readonly bytesTotal: number;
  readonly cpuPercent: number;
  readonly given: number;
  readonly met: number;
  readonly failed: number;
}

export interface LoadBalancerPageView {
  readonly name: string;
  /** undefined before the first report. */
  readonly report:
    | {
        readonly address: string;
        readonly replicas: readonly PageReplica[];
        readonly introductionsPerSecond: number;
        readonly introductions: number;
        /** Dropped and waiting, in words; empty when all is well. */
        readonly trouble: string;
        readonly standby: string;
        readonly role: string;
        /** When it came. */
        readonly atMs: number;
      }
    | undefined;
  readonly clients: readonly PageCurve[];
  readonly replicas: readonly PageCurve[];
  readonly introductions: readonly PageCurve[];
  /** Milliseconds of the time axis, which ends at the last report. */
  readonly windowMs: number;
  readonly events: readonly { readonly atMs: number; readonly text: string; readonly isBad: boolean }[];
  /** What is wrong with the connection; empty when nothing is. */
  readonly note: string;
}

/** Colours of replicas, by their id: neighbours tell apart for every eye, in light and dark. */
const COLOURS = 8;
const WIDTH = 1000;
const HEIGHT = 300;
const TICKS = 4;

const STYLE = `
:root { color-scheme: light dark; --page: #f9f9f7; --surface: #fcfcfb; --ink: #0b0b0b; --soft: #52514e; --faint: #898781; --grid: #e1e0d9; --axis: #c3c2b7; --line: #0b0b0b1a;
 --c0: #2a78d6; --c1: #1baf7a; --c2: #eda100; --c3: #008300; --c4: #4a3aa7; --c5: #e34948; --c6: #e87ba4; --c7: #eb6834; --bad: #d03b3b; }
@media (prefers-color-scheme: dark) { :root { --page: #0d0d0d; --surface: #1a1a19; --ink: #fff; --soft: #c3c2b7; --faint: #898781; --grid: #2c2c2a; --axis: #383835; --line: #ffffff1a;
 --c0: #3987e5; --c1: #199e70; --c2: #c98500; --c3: #008300; --c4: #9085e9; --c5: #e66767; --c6: #d55181; --c7: #d95926; --bad: #e66767; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1rem clamp(.6rem, 3vw, 2rem) 3rem; background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
header, main { max-width: 72rem; margin: 0 auto; }
header { display: flex; gap: 1rem; align-items: baseline; flex-wrap: wrap; }
h1 { font-size: 1.2rem; margin: 0; } h2 { font-size: .95rem; margin: 0 0 .1rem; }
p { margin: 0; color: var(--soft); font-size: .85rem; } code { font-size: .85rem; overflow-wrap: anywhere; color: var(--soft); }
button { margin-left: auto; font: inherit; color: inherit; background: none; border: 1px solid var(--axis); border-radius: .3rem; padding: .1rem .7rem; cursor: pointer; }
button:focus-visible { outline: 2px solid Highlight; }
.note { color: var(--bad); margin: .4rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: .8rem 0; }
.tiles div, section { background: var(--surface); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
.tiles b { display: block; font-size: 1.45rem; font-weight: 600; line-height: 1.25; } .tiles span { color: var(--soft); font-size: .8rem; }
section { margin: 0 0 .8rem; } .two { display: grid; grid-template-columns: 2fr 1fr; gap: .8rem; } .two section { min-width: 0; }
.plot { display: grid; grid-template-columns: max-content 1fr; gap: 0 .5rem; margin-top: .5rem; }
.plot ol { list-style: none; margin: 0; padding: 0; display: flex; justify-content: space-between; color: var(--faint); font-size: .75rem; font-variant-numeric: tabular-nums; }
.plot .y { flex-direction: column; text-align: right; } .plot .y li { height: 0; line-height: 0; } .plot .x { grid-column: 2; padding-top: .3rem; }
.plot svg { display: block; width: 100%; height: 15rem; overflow: visible; } .small svg { height: 8rem; }
svg path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round; stroke-width: 2; }
svg .thin { stroke-width: 1.5; } svg .dot { stroke-width: 6; } svg .grid { stroke: var(--grid); stroke-width: 1; } svg .axis { stroke: var(--axis); stroke-width: 1; } svg .ink { stroke: var(--soft); }
svg .hit { stroke: transparent; stroke-width: 12; pointer-events: stroke; }
${Array.from({ length: COLOURS }, (_, index) => `svg .c${index} { stroke: var(--c${index}); } i.c${index} { background: var(--c${index}); }`).join(" ")}
ul.legend { list-style: none; margin: .4rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem; color: var(--soft); font-size: .8rem; }
i { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .4rem; vertical-align: -.05rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .85rem; } th { text-align: left; color: var(--soft); font-weight: 500; }
td, th { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--grid); white-space: nowrap; } .n { text-align: right; font-variant-numeric: tabular-nums; }
tr:last-child td { border-bottom: 0; } .bad { color: var(--bad); } .off { color: var(--faint); }
ul.events { list-style: none; margin: .3rem 0 0; padding: 0; font-size: .85rem; } .events li { overflow-wrap: anywhere; padding: .1rem 0; } time { color: var(--faint); margin-right: .6rem; font-variant-numeric: tabular-nums; }
@media (max-width: 45rem) { .two { grid-template-columns: 1fr; gap: 0; } }
`;

const SCRIPT = `
let paused = false;
const button = document.querySelector("button");
button.hidden = false;
button.onclick = () => { paused = !paused; button.textContent = paused ? "Go on" : "Pause"; };
const news = new EventSource("/events");
news.onmessage = ({ data }) => { if (!paused) document.querySelector("main").innerHTML = JSON.parse(data); };
news.onerror = () => { document.querySelector("main").classList.add("off"); document.title = "Ended"; };
`;

export function loadBalancerPage(view: LoadBalancerPageView, nonce: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(view.name)} – load balancer</title>
<style nonce="${nonce}">${STYLE}</style>
<noscript><meta http-equiv="refresh" content="2"></noscript>
</head>
<body>
<header><h1>${escapeHtml(view.name)}</h1><code>${escapeHtml(view.report?.address ?? "")}</code><button hidden>Pause</button></header>
<main>${loadBalancerMain(view)}</main>
<script nonce="${nonce}">${SCRIPT}</script>
</body>
</html>
`;
}

/** What changes. */
export function loadBalancerMain(view: LoadBalancerPageView): string {
  const { report, note, windowMs } = view;
  const shownNote = note === "" ? "" : `<p class="note" role="status">${escapeHtml(note)}</p>`;
  if (!report) return `${shownNote}<p>Waiting for the first report…</p>`;
  const speed = (value: number) => `${formatBytes(value)}/s`;
  const axis = { endMs: report.atMs, windowMs };
  const hasClients = view.clients.length > 0;
  return `${shownNote}${tiles(report)}
<section><h2>Download speed of each client</h2><p>${hasClients ? "In the colour of the replica that met it." : "No client has come within the last two minutes, or replicas do not tell of each."}</p>
${plot({ curves: view.clients, ...axis, unit: speed, isBinary: true, line: "thin", title: "Download speed of each client" })}${legend(report.replicas)}</section>
<div class="two"><section><h2>Throughput of each replica</h2>
${plot({ curves: view.replicas, ...axis, unit: speed, isBinary: true, line: "", title: "Throughput of each replica" })}</section>
<section class="small"><h2>Introductions per second</h2>
${plot({ curves: view.introductions, ...axis, unit: String, isBinary: false, line: "", title: "Introductions per second" })}<p>${escapeHtml(`${report.introductions} in all${report.trouble}`)}</p></section></div>
<section class="wide"><h2>Replicas</h2>${replicaTable(report.replicas)}</section>
<section><h2>Events</h2>${eventList(view.events)}</section>`;
}

type Report = NonNullable<LoadBalancerPageView["report"]>;

function tiles({ replicas, introductionsPerSecond, standby, role }: Report): string {
  const sum = (of: (replica: PageReplica) => number) => replicas.reduce((total, one) => total + of(one), 0);
  const serving = replicas.filter(({ state }) => state === "serving").length;
  const tile = (value: string, label: string) =>
    `<div><b>${escapeHtml(value)}</b><span>${escapeHtml(label)}</span></div>`;
  return `<div class="tiles">${[
    tile(String(sum((one) => one.connections)), "clients"),
    tile(`${formatBytes(Math.round(sum((one) => one.bytesPerSecond)))}/s`, "throughput"),
    tile(introductionsPerSecond.toFixed(1), "introductions per second"),
    tile(`${serving} of ${replicas.length}`, "replicas serve"),
    tile(standby, role === "standby" ? "standby, which has taken over" : "standby"),
  ].join("")}</div>`;
}

interface Plot {
  readonly curves: readonly PageCurve[];
  readonly endMs: number;
  readonly windowMs: number;
  readonly unit: (value: number) => string;
  /** Whether ticks fall on KiB and MiB. */
  readonly isBinary: boolean;
  readonly line: string;
  readonly title: string;
}

/** Lines stretch with the page; what is written stands beside them, and does not. */
function plot({ curves, endMs, windowMs, unit, isBinary, line, title }: Plot): string {
  const values = curves.flatMap(({ points }) => points.map(({ value }) => value));
  const top = niceTop(
    values.reduce((most, value) => Math.max(most, value), 0),
    isBinary,
  );
  const ticks = Array.from({ length: TICKS + 1 }, (_, index) => (top * (TICKS - index)) / TICKS);
  const grid = ticks.map((_, index) => {
    const y = (HEIGHT * index) / TICKS;
    return `<path class="${index === TICKS ? "axis" : "grid"}" d="M0 ${y}H${WIDTH}"/>`;
  });
  const x = (atMs: number) => round(WIDTH * (1 - (endMs - atMs) / windowMs));
  const y = (value: number) => round(HEIGHT * (1 - value / top));
  const lines = curves.map(({ points, replica, label }) => {
    const last = points.at(-1);
    if (!last) return "";
    const d = points
      .map((at, index) => `${index === 0 || at.isNew ? "M" : "L"}${x(at.atMs)} ${y(at.value)}`)
      .join("");
    const colour = replica < 0 ? "ink" : `c${replica % COLOURS}`;
    const end =
      last.atMs === endMs ? `<path class="${colour} dot" d="M${x(last.atMs)} ${y(last.value)}h0"/>` : "";
    const hint = `<title>${escapeHtml(`${label}: ${unit(Math.round(last.value))}`)}</title>`;
    return `<g>${hint}<path class="${`${colour} ${line}`.trim()}" d="${d}"/><path class="hit" d="${d}"/>${end}</g>`;
  });
  const seconds = Array.from(
    { length: TICKS + 1 },
    (_, index) => (windowMs * (TICKS - index)) / TICKS / 1000,
  );
  return `<div class="plot"><ol class="y" aria-hidden="true">${ticks.map((value) => `<li>${escapeHtml(unit(value))}</li>`).join("")}</ol>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label="${escapeHtml(`${title} over the last ${windowMs / 1000} seconds; up to ${unit(top)}`)}">${grid.join("")}${lines.join("")}</svg>
<ol class="x" aria-hidden="true">${seconds.map((value) => `<li>${value === 0 ? "now" : `−${value} s`}</li>`).join("")}</ol></div>`;
}

/** The least of 4, 8, 20, 40, 80, ... (of KiB, MiB, ... where `isBinary`) that is not below: each tick is a round number. */
export function niceTop(most: number, isBinary: boolean): number {
  let unit = 1;
  while (isBinary && most / unit >= 1000) unit *= 1024;
  for (let power = 1; ; power *= 10) {
    for (const factor of [4, 8, 20]) {
      if (factor * power * unit >= most) return factor * power * unit;
    }
  }
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function legend(replicas: readonly PageReplica[]): string {
  const items = replicas.map(
    ({ id, box }) => `<li><i class="c${id % COLOURS}"></i>replica ${id}, ${escapeHtml(box)}</li>`,
  );
  return items.length === 0 ? "" : `<ul class="legend">${items.join("")}</ul>`;
}

function replicaTable(replicas: readonly PageReplica[]): string {
  if (replicas.length === 0) return "<p>None.</p>";
  const rows = replicas.map((one) => {
    const state = one.state === "silent" ? "bad" : one.state === "serving" ? "" : "off";
    return `<tr><td><i class="c${one.id % COLOURS}"></i>${one.id}</td><td>${escapeHtml(one.box)}</td><td class="${state}">${one.state}</td><td class="n">${one.connections}</td><td class="n">${formatBytes(Math.round(one.bytesPerSecond))}/s</td><td class="n">${formatBytes(one.bytesTotal)}</td><td class="n">${Math.round(one.cpuPercent)} %</td><td class="n">${one.met} of ${one.given}</td><td class="n${one.failed > 0 ? " bad" : ""}">${one.failed}</td></tr>`;
  });
  return `<table><tr><th>Replica</th><th>Box</th><th>State</th><th class="n">Clients</th><th class="n">Rate</th><th class="n">Sent</th><th class="n">CPU</th><th class="n">Met</th><th class="n">Failed</th></tr>${rows.join("")}</table>`;
}

function eventList(events: LoadBalancerPageView["events"]): string {
  if (events.length === 0) return "<p>None yet.</p>";
  const items = events.map(({ atMs, text, isBad }) => {
    const time = new Date(atMs).toISOString().slice(11, 19);
    return `<li${isBad ? ' class="bad"' : ""}><time>${time}</time>${escapeHtml(text)}</li>`;
  });
  return `<ul class="events">${items.join("")}</ul>`;
}
