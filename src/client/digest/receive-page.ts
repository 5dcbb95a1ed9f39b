// From the output of the Browser function to a page: what `bento browse` calls. The output comes from a box that is
// not trusted; what it may cost is bounded by DigestReader, what it may do to the reader by the page writer.

import { type Clock, systemClock } from "../../base/clock.ts";
import type { ContentRecord, FailureRecord } from "../../wire/digest.ts";
import { DigestReader } from "./digest-reader.ts";
import { type PageContent, writePage } from "./page-writer.ts";

export interface Page {
  /** Where the page came from after redirects; undefined when it could not be fetched. */
  readonly url: string | undefined;
  /** HTTP status of the page. */
  readonly status: number | undefined;
  /** One self-contained HTML file, UTF-8. Makes no request when opened. Says what went wrong when there is no page. */
  readonly html: Uint8Array;
  /** The page first, then everything it refers to as far as it was fetched, as it came. */
  readonly resources: readonly ContentRecord[];
  readonly failures: readonly FailureRecord[];
  /** Whether the digest is whole and its hash right. False when the output ended early: the page is what came. */
  readonly verified: boolean;
  /** Bytes of output that carried content and padding. */
  readonly contentBytes: number;
  readonly paddingBytes: number;
}

export interface PageProgress {
  readonly contentBytes: number;
  /** The content is complete: only padding follows. */
  readonly isComplete: boolean;
  /** Records received, and how many there will be as far as known. */
  readonly resources: number;
  readonly resourcesExpected: number | undefined;
  readonly paddingBytes: number;
  /** All padding, once it has begun. */
  readonly paddingTotal: number | undefined;
}

export interface ReceiveOptions {
  readonly onProgress?: (progress: PageProgress) => void;
  /**
   * The page as a file, before the output has ended: with document and style sheets ("styled"), then with
   * everything ("complete") while padding may still flow.
   */
  readonly onShowable?: (html: Uint8Array, stage: "styled" | "complete") => void;
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
}

/** Reads `output` to its end. Throws ProtocolError when it is not a digest or damaged, or the signal's reason. */
export async function receivePage(
  output: AsyncIterable<Uint8Array>,
  options: ReceiveOptions = {},
): Promise<Page> {
  const { signal } = options;
  using reader = new DigestReader();
  const collector = new Collector(options);
  let wasCut = true;
  for await (const chunk of output) {
    signal?.throwIfAborted();
    for (const event of await reader.push(chunk)) collector.take(event);
  }
  signal?.throwIfAborted();
  // An output that ends early is a page that came so far; one that ends well must also be well formed.
  if (collector.isComplete) {
    await reader.end();
    wasCut = false;
  }
  return collector.finish(!wasCut);
}

class Collector {
  readonly #options: ReceiveOptions;
  #page: ContentRecord | undefined;
  readonly #resources = new Map<string, ContentRecord>();
  readonly #failures: FailureRecord[] = [];
  #expected: number | undefined;
  #progress = { contentBytes: 0, paddingBytes: 0, paddingTotal: undefined as number | undefined };
  #html: Uint8Array | undefined;
  #isComplete = false;

  constructor(options: ReceiveOptions) {
    this.#options = options;
  }

  get isComplete(): boolean {
    return this.#isComplete;
  }

  take(event: Awaited<ReturnType<DigestReader["push"]>>[number]): void {
    switch (event.kind) {
      case "record":
        this.#record(event.record);
        break;
      case "complete":
        this.#isComplete = true;
        this.#html = writePage(this.#content());
        this.#options.onShowable?.(this.#html, "complete");
        break;
      case "progress": {
        const { contentBytes, paddingBytes, paddingTotal } = event;
        this.#progress = { contentBytes, paddingBytes, paddingTotal };
        this.#options.onProgress?.({
          ...this.#progress,
          isComplete: this.#isComplete,
          resources: this.#resources.size,
          resourcesExpected: this.#expected,
        });
        break;
      }
    }
  }

  finish(verified: boolean): Page {
    return {
      url: this.#page?.finalUrl,
      status: this.#page?.status,
      html: this.#html ?? writePage(this.#content()),
      resources: this.#page ? [this.#page, ...this.#resources.values()] : [...this.#resources.values()],
      failures: this.#failures,
      verified,
      contentBytes: this.#progress.contentBytes,
      paddingBytes: this.#progress.paddingBytes,
    };
  }

  #record(record: (Awaited<ReturnType<DigestReader["push"]>>[number] & { kind: "record" })["record"]): void {
    switch (record.kind) {
      case "page":
        this.#page ??= record;
        break;
      case "resource":
        if (!this.#resources.has(record.url)) this.#resources.set(record.url, record);
        break;
      case "failure":
        this.#failures.push(record);
        break;
      case "styled":
        // Once: writing the page is work, and the box could ask for it again and again.
        if (this.#expected !== undefined) break;
        this.#expected = record.resources;
        if (this.#page && this.#options.onShowable) {
          this.#options.onShowable(writePage(this.#content()), "styled");
        }
        break;
    }
  }

  #content(): PageContent {
    return {
      page: this.#page,
      resources: this.#resources,
      failures: this.#failures,
      receivedAtMs: (this.#options.clock ?? systemClock).now(),
    };
  }
}
