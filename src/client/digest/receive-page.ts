// From the output of the Browser function to a page: what `bento browse` calls. The output comes from a box that is
// not trusted; what it may cost is bounded by DigestReader, what it may do to the reader by the page writer.

import { type Clock, systemClock } from "../../base/clock.ts";
import { unreachable } from "../../base/errors.ts";
import type { ContentRecord, FailureRecord } from "../../wire/digest.ts";
import { type DigestEvent, DigestReader } from "./digest-reader.ts";
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

/** Makes the file of what has come. */
export type Render = (content: PageContent) => Promise<Uint8Array>;

export interface ReceiveOptions {
  readonly onProgress?: ((progress: PageProgress) => void) | undefined;
  /**
   * The page as a file, before the output has ended: with document and style sheets ("styled"), then with
   * everything ("complete") while padding may still flow. `isPage` is false where the file only says why there is none.
   */
  readonly onShowable?:
    | ((html: Uint8Array, stage: "styled" | "complete", isPage: boolean) => void)
    | undefined;
  /** False: "complete" only, which comes sooner where nothing is written before it. */
  readonly showsStyled?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly clock?: Clock | undefined;
  /** Here and now when left out; elsewhere, where reading must not stand still meanwhile. */
  readonly render?: Render | undefined;
  /** The document is here, and `render` is called with it once its parts are. */
  readonly onDocument?: ((page: ContentRecord) => void) | undefined;
}

/** Reads `output` to its end. Throws ProtocolError when it is not a digest or damaged, or the signal's reason. */
export async function receivePage(
  output: AsyncIterable<Uint8Array>,
  options: ReceiveOptions = {},
): Promise<Page> {
  const { signal } = options;
  using receiver = new PageReceiver(options);
  for await (const chunk of output) {
    signal?.throwIfAborted();
    await receiver.push(chunk);
  }
  signal?.throwIfAborted();
  // Awaited: the reader is not disposed of before.
  return await receiver.finish();
}

/** One page out of an output that may hold several: `push` until `isEnded`, then `finish`. */
export class PageReceiver implements Disposable {
  readonly #reader = new DigestReader();
  readonly #options: ReceiveOptions;
  #page: ContentRecord | undefined;
  readonly #resources = new Map<string, ContentRecord>();
  readonly #failures: FailureRecord[] = [];
  #expected: number | undefined;
  #progress = { contentBytes: 0, paddingBytes: 0, paddingTotal: undefined as number | undefined };
  #isComplete = false;
  /** Renderings one after the other; the last is the page. */
  #rendering: Promise<Uint8Array | undefined> = Promise.resolve(undefined);

  constructor(options: ReceiveOptions = {}) {
    this.#options = options;
  }

  /** Whether the last byte of the digest has come. */
  get isEnded(): boolean {
    return this.#reader.isEnded;
  }

  /** Throws ProtocolError; the receiver is of no further use then. One call at a time. */
  async push(chunk: Uint8Array): Promise<void> {
    for (const event of await this.#reader.push(chunk)) this.#take(event);
  }

  /** The page. An output that ended early is a page that came so far; one that ended well must be well formed. */
  async finish(): Promise<Page> {
    if (this.#isComplete) await this.#reader.end();
    if (!this.#isComplete) this.#render(undefined);
    const html = (await this.#rendering) ?? new Uint8Array();
    return {
      url: this.#page?.finalUrl,
      status: this.#page?.status,
      html,
      resources: this.#page ? [this.#page, ...this.#resources.values()] : [...this.#resources.values()],
      failures: this.#failures,
      verified: this.#isComplete,
      contentBytes: this.#progress.contentBytes,
      paddingBytes: this.#progress.paddingBytes,
    };
  }

  [Symbol.dispose](): void {
    this.#reader[Symbol.dispose]();
  }

  #take(event: DigestEvent): void {
    switch (event.kind) {
      case "record":
        this.#record(event.record);
        break;
      case "complete":
        this.#isComplete = true;
        this.#render("complete");
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
      default:
        unreachable(event);
    }
  }

  #render(stage: "styled" | "complete" | undefined): void {
    const content = this.#content();
    const render = this.#options.render ?? (async (what: PageContent) => writePage(what));
    this.#rendering = this.#rendering.then(async () => {
      const html = await render(content);
      if (stage) this.#options.onShowable?.(html, stage, content.page !== undefined);
      if (stage === "styled" && content.page) this.#options.onDocument?.(content.page);
      return html;
    });
    this.#rendering.catch(() => undefined);
  }

  #record(record: (DigestEvent & { kind: "record" })["record"]): void {
    switch (record.kind) {
      case "page":
        if (this.#page) break;
        this.#page = record;
        this.#options.onDocument?.(record);
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
        if (this.#page && this.#options.onShowable && this.#options.showsStyled !== false)
          this.#render("styled");
        break;
    }
  }

  #content(): PageContent {
    return {
      page: this.#page,
      resources: new Map(this.#resources),
      failures: [...this.#failures],
      receivedAtMs: (this.#options.clock ?? systemClock).now(),
    };
  }
}
