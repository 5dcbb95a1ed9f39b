// The thread of page-thread.ts: one answer for each page to write, in order, until it is ended.

import { parentPort } from "node:worker_threads";
import { utf8 } from "../../base/bytes.ts";
import type { PageDone, PageTask } from "./page-thread.ts";
import { type ReadPage, readPage, writePage, writeUnlinked } from "./page-writer.ts";

/** Goes once through what every page takes, while there is nothing to write yet: what runs first runs slowly. */
const REHEARSAL = `<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>A &amp; b</title>
<style>p { color: #123; background: url(/a.png) }</style></head><body><h1>Words</h1><!-- note --><p class=a>Text &mdash; and
<a href="/next#b">more</a><br><img src=/a.png srcset="/a.png 2x" alt=""><table><tr><td>1</table>
<form action=/send><input name=q></form><svg><path d="M0 0"/></svg></body></html>`;
/** Times: what has run a few times is compiled better. */
const ROUNDS = 4;
const picture = content("http://page.invalid/a.png", "image/png", "picture");
for (let round = 0; round < ROUNDS; round++)
  writePage({
    page: content("http://page.invalid/", "text/html", REHEARSAL),
    resources: new Map([[picture.url, picture]]),
    failures: [],
    receivedAtMs: 0,
  });

let ahead: ReadPage | undefined;

parentPort?.on("message", (task: PageTask) => {
  if ("ahead" in task) {
    ahead = readPage({ page: task.ahead, failures: [] });
    return;
  }
  const { content: page, formSource, isAhead } = task;
  const read = isAhead ? ahead : undefined;
  ahead = undefined;
  const done: PageDone =
    formSource === undefined
      ? { page: writePage(page, undefined, read) }
      : writeUnlinked(page, formSource, read);
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(done);
});

function content(url: string, type: string, text: string) {
  return {
    kind: url.endsWith("/") ? "page" : "resource",
    url,
    finalUrl: url,
    status: 200,
    type,
    body: utf8(text),
  } as const;
}
