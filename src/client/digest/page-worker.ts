// The thread of page-thread.ts: one job, one answer, then it ends.

import { parentPort, workerData } from "node:worker_threads";
import type { PageDone, PageJob } from "./page-thread.ts";
import { writePage, writeUnlinked } from "./page-writer.ts";

const { content, formSource } = workerData as PageJob;
const done: PageDone =
  formSource === undefined ? { page: writePage(content) } : writeUnlinked(content, formSource);
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
parentPort?.postMessage(done);
