// The thread of page-thread.ts: one answer for each job, in order, until it is ended.

import { parentPort } from "node:worker_threads";
import type { PageDone, PageJob } from "./page-thread.ts";
import { writePage, writeUnlinked } from "./page-writer.ts";

parentPort?.on("message", ({ content, formSource }: PageJob) => {
  const done: PageDone =
    formSource === undefined ? { page: writePage(content) } : writeUnlinked(content, formSource);
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(done);
});
