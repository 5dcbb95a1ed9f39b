// The page writer in a thread of its own: writing a page takes up to seconds, and whoever receives it must go on reading
// and acknowledging at the same pace meanwhile, or the link would show that and how long the page was written.
// Content crosses by copy; a page that brings the thread down takes nothing else with it. The thread starts before there
// is anything to write: loading what it needs takes as long as the page is on its way.

import { Worker } from "node:worker_threads";
import { BentoError, messageOf } from "../../base/errors.ts";
import type { ContentRecord } from "../../wire/digest.ts";
import { fillLinks, type PageLinks } from "./links.ts";
import type { PageContent, UnlinkedPage } from "./page-writer.ts";

/** What the thread is given: a page to write, or one to read, without an answer, since it will be written soon. */
export type PageTask = PageJob | { readonly ahead: ContentRecord };

export interface PageJob {
  readonly content: PageContent;
  /** Its document is the one that was read ahead. */
  readonly isAhead: boolean;
  /** Undefined for a single file. */
  readonly formSource: string | undefined;
}

/** What it answers. A page that cannot be written is an error of the thread. */
export type PageDone = UnlinkedPage | { readonly page: Uint8Array };

/** Memory of the thread: a page of 250,000 elements and 160 MiB, several times over. */
const WORKER_LIMITS = { maxOldGenerationSizeMb: 1024 };

/** Writes the pages of one visit. Disposing of it ends the thread, and what it still writes. */
export class PageThread implements Disposable {
  #worker: Worker | undefined;
  /** What the worker has read, or is reading. */
  #ahead: ContentRecord | undefined;
  #isDisposed = false;

  constructor() {
    this.#worker = this.#start();
  }

  /** The document of a page has come, and will be written: what takes nothing else is done meanwhile. */
  readAhead(page: ContentRecord): void {
    if (this.#isDisposed || !this.#worker) return;
    this.#ahead = page;
    const task: PageTask = { ahead: page };
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
    this.#worker.postMessage(task);
  }

  /** writePage elsewhere, one at a time. Throws BentoError "page-failed". */
  async render(content: PageContent, links?: PageLinks): Promise<Uint8Array> {
    const isAhead = content.page !== undefined && content.page === this.#ahead;
    this.#ahead = undefined;
    const done = await this.#run({ content, isAhead, formSource: links?.formSource });
    return "marker" in done && links ? fillLinks(done.page, done.marker, done.placed, links) : done.page;
  }

  [Symbol.dispose](): void {
    this.#isDisposed = true;
    void this.#worker?.terminate();
    this.#worker = undefined;
  }

  async #run(job: PageJob): Promise<PageDone> {
    if (this.#isDisposed) throw failed("its visit is over");
    const worker = (this.#worker ??= this.#start());
    const { promise, resolve, reject } = Promise.withResolvers<PageDone>();
    const onExit = () => {
      reject(failed("its thread ended"));
    };
    const onError = (cause: unknown) => {
      reject(failed(messageOf(cause), cause));
    };
    worker.once("message", resolve).once("error", onError).once("exit", onExit);
    worker.ref();
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
    worker.postMessage(job);
    try {
      return await promise;
    } finally {
      worker.off("message", resolve).off("error", onError).off("exit", onExit);
      worker.unref();
    }
  }

  #start(): Worker {
    const file = import.meta.url.endsWith(".ts") ? "./page-worker.ts" : "./page-worker.js";
    const worker = new Worker(new URL(file, import.meta.url), { env: {}, resourceLimits: WORKER_LIMITS });
    // Waiting for work keeps nothing alive. One that is gone is replaced for the next page.
    worker.unref();
    worker.on("error", () => undefined);
    for (const end of ["error", "exit"]) {
      worker.once(end, () => {
        if (this.#worker !== worker) return;
        this.#worker = undefined;
        this.#ahead = undefined;
      });
    }
    return worker;
  }
}

function failed(why: string, cause?: unknown): BentoError {
  return new BentoError("page-failed", `Cannot write the page: ${why}`, { cause });
}
