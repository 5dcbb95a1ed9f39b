// The visits of one run of the local page: each a request to the browser function, its progress for whoever watches,
// and the page once it can be shown. Kept in memory, the oldest forgotten first.

import { EventEmitter } from "node:events";
import { messageOf } from "../../base/errors.ts";
import type { Page, PageProgress } from "../digest/receive-page.ts";

/** Visits that can be gone back to. */
export const VISITS_MAX = 64;
/** Their pages together: bytes. */
export const VISITS_BYTES_MAX = 512 * 1024 * 1024;

export interface VisitRequest {
  readonly url: string;
  readonly method: "GET" | "POST";
  readonly body?: { readonly type: string; readonly bytes: Uint8Array };
  readonly referrer?: string;
}

/** Fetches pages, one at a time: a new visit ends the one before. */
export interface Visitor {
  visit(
    request: VisitRequest,
    options: {
      readonly onProgress: (progress: PageProgress) => void;
      readonly onShowable: (html: Uint8Array, stage: "styled" | "complete") => void;
      readonly signal: AbortSignal;
    },
  ): Promise<Page>;
}

export type VisitState =
  | { readonly kind: "loading" }
  /** The content is complete; padding may still flow. */
  | { readonly kind: "shown" }
  | { readonly kind: "done"; readonly page: Page }
  | { readonly kind: "failed"; readonly message: string };

export class Visit {
  readonly id: string;
  readonly request: VisitRequest;
  readonly startedMs: number;
  state: VisitState = { kind: "loading" };
  progress: PageProgress | undefined;
  #html: Uint8Array | undefined;
  #version = 0;
  /** Emits "change" with each of the above. */
  readonly changes = new EventEmitter();
  readonly #stop = new AbortController();

  constructor(id: string, request: VisitRequest, startedMs: number) {
    this.id = id;
    this.request = request;
    this.startedMs = startedMs;
    this.changes.setMaxListeners(0);
  }

  /** What can be shown so far. */
  get html(): Uint8Array | undefined {
    return this.#html;
  }

  /** Counts up with each page that can be shown, 0 for none. */
  get version(): number {
    return this.#version;
  }

  show(html: Uint8Array): void {
    this.#html = html;
    this.#version++;
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  get isOver(): boolean {
    return this.state.kind === "done" || this.state.kind === "failed";
  }

  /** Memory that it holds: bytes. */
  get bytes(): number {
    const resources = this.state.kind === "done" ? this.state.page.resources : [];
    return (this.#html?.length ?? 0) + resources.reduce((sum, { body }) => sum + body.length, 0);
  }

  /** Fetches no more; what has come stays. */
  stop(): void {
    this.#stop.abort(new Error("stopped"));
  }
}

export class Visits {
  readonly #visitor: Visitor;
  readonly #now: () => number;
  readonly #visits = new Map<string, Visit>();
  readonly #newId: () => string;

  constructor(visitor: Visitor, options: { now: () => number; newId: () => string }) {
    this.#visitor = visitor;
    this.#now = options.now;
    this.#newId = options.newId;
  }

  find(id: string): Visit | undefined {
    return this.#visits.get(id);
  }

  /** Begins to fetch; the visit before, if it still does, is stopped. */
  start(request: VisitRequest): Visit {
    for (const other of this.#visits.values()) if (!other.isOver) other.stop();
    const visit = new Visit(this.#newId(), request, this.#now());
    this.#visits.set(visit.id, visit);
    void this.#run(visit);
    this.#forget();
    return visit;
  }

  /** Stops everything. */
  close(): void {
    for (const visit of this.#visits.values()) visit.stop();
  }

  async #run(visit: Visit): Promise<void> {
    const change = () => visit.changes.emit("change");
    try {
      const page = await this.#visitor.visit(visit.request, {
        onProgress: (progress) => {
          visit.progress = progress;
          change();
        },
        onShowable: (html, stage) => {
          visit.show(html);
          if (stage === "complete") visit.state = { kind: "shown" };
          change();
        },
        signal: visit.signal,
      });
      if (!visit.html || !Buffer.from(page.html).equals(visit.html)) visit.show(page.html);
      visit.state = { kind: "done", page };
    } catch (error) {
      visit.state = { kind: "failed", message: visit.signal.aborted ? "Stopped." : messageOf(error) };
    }
    this.#forget();
    change();
  }

  #forget(): void {
    let bytes = 0;
    for (const visit of this.#visits.values()) bytes += visit.bytes;
    for (const [id, visit] of this.#visits) {
      if (this.#visits.size <= VISITS_MAX && bytes <= VISITS_BYTES_MAX) return;
      if (this.#visits.size === 1) return;
      bytes -= visit.bytes;
      visit.stop();
      this.#visits.delete(id);
    }
  }
}
