// Back and forward of one tab. Pages that were seen are kept here, as far as memory allows: going back to them asks
// nobody for anything, so nothing of it shows on the link (spec/browse 3).

/** Entries of one history, as browsers keep them. */
const ENTRIES_MAX = 50;
/** Pages kept, all together: bytes of HTML. Older ones are asked for again. */
const PAGES_BYTES_MAX = 128 * 1024 * 1024;

export interface HistoryEntry<Request> {
  readonly request: Request;
  /** Undefined when it was too much to keep, or has not come yet. */
  readonly page: Uint8Array | undefined;
}

export class History<Request> {
  #entries: HistoryEntry<Request>[] = [];
  #at = -1;

  get current(): HistoryEntry<Request> | undefined {
    return this.#entries[this.#at];
  }

  get canGoBack(): boolean {
    return this.#at > 0;
  }

  get canGoForward(): boolean {
    return this.#at < this.#entries.length - 1;
  }

  /** A new page was asked for: what lay forward is forgotten. */
  push(request: Request): void {
    this.#entries = [...this.#entries.slice(0, this.#at + 1), { request, page: undefined }].slice(
      -ENTRIES_MAX,
    );
    this.#at = this.#entries.length - 1;
  }

  /** The page of `request`, wherever in the history it is by now. */
  keep(request: Request, page: Uint8Array): void {
    this.#entries = this.#entries.map((one) => (one.request === request ? { request, page } : one));
    this.#trim();
  }

  /** Goes `by` entries (negative: back); undefined when there is none. */
  go(by: number): HistoryEntry<Request> | undefined {
    const entry = this.#entries[this.#at + by];
    if (entry) this.#at += by;
    return entry;
  }

  /** Drops the pages that are furthest away. */
  #trim(): void {
    const byDistance = this.#entries
      .map((entry, at) => ({ entry, distance: Math.abs(at - this.#at) }))
      .sort((a, b) => a.distance - b.distance);
    let left = PAGES_BYTES_MAX;
    const dropped = new Set<HistoryEntry<Request>>();
    for (const { entry } of byDistance) {
      left -= entry.page?.length ?? 0;
      if (left < 0) dropped.add(entry);
    }
    this.#entries = this.#entries.map((one) => (dropped.has(one) ? { ...one, page: undefined } : one));
  }
}
