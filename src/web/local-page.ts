// The page at 127.0.0.1 around the pages that come from boxes: address bar, progress, and a frame. Pure functions. The
// frame has an origin of its own for each site and runs no script; what is written here comes from the user and from
// boxes, so all of it is escaped.

import { formatBytes } from "../base/bytes.ts";
import { escapeHtml } from "./escape-html.ts";

export interface LocalPageView {
  /** What the address bar holds. */
  readonly address: string;
  /** The visit shown; undefined at first. */
  readonly visit: { readonly id: string; readonly frame: string; readonly version: number } | undefined;
  /** For the page's own script and style. */
  readonly nonce: string;
  /** Who fetches, in words. */
  readonly box: string;
}

/** What the page's script gets while a visit goes on. */
export interface VisitNews {
  readonly state: "loading" | "shown" | "done" | "failed";
  /** A line for the reader. */
  readonly text: string;
  /** 0 to 1, or null while nobody knows. */
  readonly content: number | null;
  readonly padding: number | null;
  /** Where the page came from after redirects, once that is known. */
  readonly address: string | null;
  /** Counts up whenever the frame has something new to show. */
  readonly version: number;
}

const STYLE = `
:root { color-scheme: light dark; --line: #8886; --soft: #666; --content: #2a7; --padding: #78a; }
@media (prefers-color-scheme: dark) { :root { --soft: #aaa; } }
* { box-sizing: border-box; }
html, body { height: 100%; margin: 0; }
body { display: flex; flex-direction: column; font: 15px/1.4 system-ui, sans-serif; }
header { border-bottom: 1px solid var(--line); padding: .4rem .6rem; }
form { display: flex; gap: .4rem; } button, input, a.button { font: inherit; padding: .25rem .6rem; }
input[name=url] { flex: 1; min-width: 8rem; border: 1px solid var(--line); border-radius: .3rem; }
button { border: 1px solid var(--line); border-radius: .3rem; background: none; cursor: pointer; } button:focus-visible, input:focus-visible { outline: 2px solid Highlight; }
.state { display: flex; gap: .8rem; align-items: center; color: var(--soft); min-height: 1.6rem; font-size: .85rem; flex-wrap: wrap; }
.bar { position: relative; width: 12rem; height: .5rem; border: 1px solid var(--line); border-radius: .25rem; overflow: hidden; }
.bar i { position: absolute; inset: 0 auto 0 0; width: 0; } .content i { background: var(--content); } .padding i { background: var(--padding); }
.state span { flex: 1; min-width: 14rem; }
iframe { flex: 1; width: 100%; border: 0; background: #fff; color-scheme: light; } main { padding: 2rem; max-width: 40rem; }
`;

/** Runs in the page at 127.0.0.1 alone: shows what the server says of a visit, and fills the frame. */
const SCRIPT = `
const visit = document.body.dataset.visit;
const $ = (id) => document.getElementById(id);
document.getElementById("back").onclick = () => history.back();
document.getElementById("forward").onclick = () => history.forward();
if (visit) {
  const frame = $("frame");
  const source = frame.dataset.source;
  let version = Number(frame.dataset.version);
  const news = new EventSource("/visits/" + visit + "/events");
  news.onmessage = ({ data }) => {
    const now = JSON.parse(data);
    $("text").textContent = now.text;
    const bar = document.querySelector("[name=url]");
    if (now.address && document.activeElement !== bar) { bar.value = now.address; document.title = now.address; }
    for (const name of ["content", "padding"]) {
      const progress = $(name);
      progress.setAttribute("aria-valuenow", String(Math.round(100 * (now[name] ?? 0))));
      progress.firstElementChild.style.width = 100 * (now[name] ?? 0) + "%";
    }
    if (now.version > version) { version = now.version; frame.contentWindow.location.replace(source + "?" + version); }
    const isOver = now.state === "done" || now.state === "failed";
    $("stop").hidden = isOver || now.state === "shown";
    for (const link of document.querySelectorAll("a.save")) link.hidden = now.state !== "done";
    if (isOver) news.close();
  };
}
`;

export function localPage({ address, visit, nonce, box }: LocalPageView): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(visit ? address : "Bento")}</title>
<style nonce="${nonce}">${STYLE}</style>
${visit ? `<noscript><meta http-equiv="refresh" content="3"></noscript>` : ""}
</head>
<body${visit ? ` data-visit="${escapeHtml(visit.id)}"` : ""}>
<header>
<form method="post" action="/visits" autocomplete="off">
<button type="button" id="back" aria-label="Back">←</button>
<button type="button" id="forward" aria-label="Forward">→</button>
<input name="url" value="${escapeHtml(address)}" aria-label="Address" placeholder="https://"${visit ? "" : " autofocus"} required spellcheck="false" inputmode="url">
<button>Go</button>
</form>
${visit ? progress(visit.id) : ""}
</header>
${
  visit
    ? `<iframe id="frame" title="Page" data-source="${escapeHtml(visit.frame)}" data-version="${visit.version}"${sourceOf(visit)} referrerpolicy="no-referrer" sandbox="allow-forms allow-top-navigation-by-user-activation"></iframe>
<noscript><a href="${escapeHtml(visit.frame)}">Show the page</a></noscript>`
    : `<main><h1>Bento</h1><p>Pages are fetched by ${escapeHtml(box)} and come back through Tor as one padded answer. Scripts never run here.</p></main>`
}
<script nonce="${nonce}">${SCRIPT}</script>
</body>
</html>
`;
}

/**
 * What is there already stands in the frame from the start: a script that put it there would fight over the frame with
 * a browser that goes back.
 */
function sourceOf({ frame, version }: { readonly frame: string; readonly version: number }): string {
  return version === 0 ? "" : ` src="${escapeHtml(frame)}?${version}"`;
}

function progress(id: string): string {
  const base = `/visits/${escapeHtml(id)}`;
  return `<div class="state">
<span id="text" role="status">Asking the box…</span>
<div id="content" class="bar content" role="progressbar" aria-label="Content" aria-valuemin="0" aria-valuemax="100"><i></i></div>
<div id="padding" class="bar padding" role="progressbar" aria-label="Padding" aria-valuemin="0" aria-valuemax="100"><i></i></div>
<form method="post" action="${base}/stop"><button id="stop">Stop</button></form>
<a class="save" hidden href="${base}/page.html" download>Save page</a>
<a class="save" hidden href="${base}/page.warc.gz" download>Save archive</a>
</div>`;
}

/** The line under the address bar. */
export function visitText(news: {
  readonly state: VisitNews["state"];
  readonly resources: number;
  readonly resourcesExpected: number | undefined;
  readonly contentBytes: number;
  readonly paddingBytes: number;
  readonly paddingTotal: number | undefined;
  readonly failures: number;
  readonly problem: string;
}): string {
  const { resources, resourcesExpected, contentBytes, paddingBytes, paddingTotal, failures } = news;
  const of = resourcesExpected === undefined ? "" : ` of ${resourcesExpected}`;
  const missing = failures === 0 ? "" : `; ${failures} parts could not be had`;
  switch (news.state) {
    case "loading":
      return contentBytes === 0
        ? "The box fetches the page…"
        : `Page and ${resources}${of} parts, ${formatBytes(contentBytes)}`;
    case "shown": {
      const all = paddingTotal === undefined ? "" : ` of ${formatBytes(paddingTotal)}`;
      return `Page complete, ${formatBytes(contentBytes)}; padding ${formatBytes(paddingBytes)}${all}`;
    }
    case "done":
      return `${formatBytes(contentBytes)} and ${formatBytes(paddingBytes)} of padding${missing}`;
    case "failed":
      return news.problem;
  }
}
