// The page writer in a thread of its own: writing a page takes up to seconds, and whoever receives it must go on reading
// and acknowledging at the same pace meanwhile, or the link would show that and how long the page was written.
// Content crosses by copy; a page that brings the thread down takes nothing else with it.

import { Worker } from "node:worker_threads";
import { BentoError, messageOf } from "../../base/errors.ts";
import { fillLinks, type PageLinks } from "./links.ts";
import type { PageContent, UnlinkedPage } from "./page-writer.ts";
import type { Render } from "./receive-page.ts";

/** What the thread is given. */
export interface PageJob {
  readonly content: PageContent;
  /** Undefined for a single file. */
  readonly formSource: string | undefined;
}

export type PageDone = UnlinkedPage | { readonly page: Uint8Array };

/** Memory of the thread: a page of 250,000 elements and 160 MiB, several times over. */
const WORKER_LIMITS = { maxOldGenerationSizeMb: 1024 };

/** writePage elsewhere. Throws BentoError "page-failed". */
export function renderInThread(links?: PageLinks): Render {
  return async (content) => {
    const job: PageJob = { content, formSource: links?.formSource };
    const done = await run(job);
    return "marker" in done && links ? fillLinks(done.page, done.marker, done.placed, links) : done.page;
  };
}

async function run(job: PageJob): Promise<PageDone> {
  const file = import.meta.url.endsWith(".ts") ? "./page-worker.ts" : "./page-worker.js";
  const { promise, resolve, reject } = Promise.withResolvers<PageDone>();
  const worker = new Worker(new URL(file, import.meta.url), {
    workerData: job,
    env: {},
    resourceLimits: WORKER_LIMITS,
  });
  const fail = (cause: unknown) => {
    reject(new BentoError("page-failed", `Cannot write the page: ${messageOf(cause)}`, { cause }));
  };
  worker.once("message", resolve);
  worker.once("error", fail);
  worker.once("exit", () => {
    fail("its thread ended");
  });
  return promise;
}
