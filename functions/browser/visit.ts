// One visit: the page, what it refers to, what its style sheets refer to, as far as limits and deadline allow.
// Fetching runs ahead, up to the limits on concurrency and memory; records leave in render order among those that are
// ready, so that one dead server holds up nothing but itself.

import { Changes } from "../../src/base/changes.ts";
import { isFetchable } from "../../src/wire/browse.ts";
import type { ContentRecord, FailureReason } from "../../src/wire/digest.ts";
import { type CssScan, type FontFace, scanCss } from "../../src/wire/page/css.ts";
import { parseDataUrl } from "../../src/wire/page/data-url.ts";
import { decodeCss, decodeHtml, essenceOf, isHtml, resolveUrl } from "../../src/wire/page/text.ts";
import { DocumentScan } from "./document-scan.ts";
import type { DocumentReference, InlineStyle } from "./document-scanner.ts";
import type { PageRecord, PageRequest, RecordSink } from "./engine.ts";
import { FetchFailure, failureOf, failureRecord } from "./failure.ts";
import { type FetchContext, type Fetched, fetchResource, type ResourceKind } from "./fetch-resource.ts";
import { chooseFont } from "./fonts.ts";
import { BrowserLimits as Limits } from "./limits.ts";

/** In which order things are fetched and sent: what changes the look of most of the page first. */
const URGENCY: Readonly<Record<ResourceKind, number>> = { page: 0, style: 1, font: 2, image: 3, script: 4 };

interface Wanted {
  readonly url: URL;
  readonly kind: ResourceKind;
  readonly referrer: string;
  readonly position: number;
  /** Style sheets: how many `@import`s led here, and the encoding if it does not say. */
  readonly importDepth: number;
  readonly charset: string;
}

/** A face of a font, of which one file may be wanted. */
interface WantedFace {
  readonly face: FontFace;
  readonly base: string;
  readonly referrer: string;
}

/** Something ready to be sent: `heldBytes` are released afterwards. */
interface Ready {
  readonly urgency: number;
  readonly position: number;
  readonly record: PageRecord;
  readonly heldBytes: number;
}

export class StaticVisit {
  readonly #context: FetchContext;
  readonly #request: PageRequest;
  readonly #scripts: boolean;
  readonly #sink: RecordSink;
  readonly #seen = new Set<string>();
  readonly #pending: Wanted[] = [];
  readonly #ready: Ready[] = [];
  readonly #runningPerHost = new Map<string, number>();
  #running = 0;
  /** Style sheets that are wanted and have neither come nor failed. */
  #stylesOpen = 0;
  #positions = 0;
  #failures = 0;
  #fontFaces = 0;
  /** Undefined until the document is read to its end: which fonts it needs is known then. */
  #codePoints: Uint32Array | undefined;
  readonly #faces: WantedFace[] = [];
  #pageUrl: string | undefined;
  readonly #changes = new Changes();

  constructor(context: FetchContext, request: PageRequest, scripts: boolean, sink: RecordSink) {
    this.#context = context;
    this.#request = request;
    this.#scripts = scripts;
    this.#sink = sink;
  }

  /** Resolves when everything that could be had has been passed to the sink. Throws only what the sink throws. */
  async run(): Promise<void> {
    const page = await this.#fetchPage();
    if (!page) return;
    const { fetched } = page;
    using scan = page.scan;
    this.#pageUrl = fetched.finalUrl;
    // While a long document is read, it leaves, and what it refers to is fetched.
    await Promise.all([this.#read(scan, fetched.finalUrl), this.#send(fetched)]);
  }

  async #send(page: Fetched): Promise<void> {
    await this.#sink.record(contentRecord("page", this.#request.url, page));
    if (page.cut) this.#fail(page.finalUrl, "truncated", `${page.cut.reason}: ${page.cut.message}`);
    this.#context.held.release(page.body.length);
    await this.#sink.flush();
    await this.#deliver();
  }

  /** Follows refreshes that belong to loading. undefined when there is no page: the failure has been recorded. */
  async #fetchPage(): Promise<{ fetched: Fetched; scan: DocumentScan | undefined } | undefined> {
    let { url, method, body } = this.#request;
    let referrer = this.#request.referrer?.href;
    for (let refreshes = 0; ; refreshes++) {
      let fetched: Fetched;
      try {
        fetched = await fetchResource(this.#context, {
          url,
          kind: "page",
          referrer,
          page: undefined,
          method,
          body,
        });
      } catch (error) {
        const { reason, message } = failureOf(error);
        await this.#sink.record(failureRecord(url.href, reason, message));
        return undefined;
      }
      if (!isHtml(fetched.type, fetched.body)) return { fetched, scan: undefined };
      const scan = new DocumentScan(
        decodeHtml(fetched.body, fetched.type),
        fetched.finalUrl,
        this.#context.signal,
      );
      await scan.readHead();
      const next = refreshes < Limits.refreshesMax ? refreshTarget(scan, fetched.finalUrl) : undefined;
      if (!next) return { fetched, scan };
      this.#context.held.release(fetched.body.length);
      referrer = fetched.finalUrl;
      ({ url, method, body } = { url: next, method: "GET", body: undefined });
    }
  }

  /** Reads the document to its end, and begins what it refers to as it is found. */
  async #read(scan: DocumentScan | undefined, documentUrl: string): Promise<void> {
    if (scan) {
      const { base } = scan;
      let taken = 0;
      const want = () => {
        for (const found of scan.references.slice(taken)) this.#want(found, scan.base, documentUrl);
        taken = scan.references.length;
        this.#start();
        this.#changes.notify();
      };
      await scan.readOn(want);
      if (scan.base !== base) {
        // A base counts for what stands before it as well.
        taken = 0;
        want();
      }
      if (!scan.isWhole)
        this.#fail(documentUrl, "truncated", "the document is too entangled to read to its end");
    }
    this.#codePoints = scan?.codePoints ?? new Uint32Array();
    for (const face of this.#faces.splice(0)) this.#wantFont(face, this.#codePoints);
    this.#changes.notify();
  }

  #want(found: DocumentReference | InlineStyle, base: string, documentUrl: string): void {
    if (found.kind === "css")
      this.#wantCss(scanCss(found.text, { inline: found.inline }), base, documentUrl, 0, "utf-8");
    else this.#add(found.kind, found.reference, base, documentUrl, 0, found.charset ?? "utf-8");
  }

  #wantCss(scan: CssScan, base: string, referrer: string, importDepth: number, charset: string): void {
    for (const reference of scan.references) {
      if (reference.kind === "image") this.#add("image", reference.url, base, referrer);
      else if (reference.kind === "import") {
        this.#add("style", reference.url, base, referrer, importDepth + 1, charset);
      }
    }
    for (const face of scan.fontFaces) {
      if (this.#fontFaces++ >= Limits.fontFacesMax) break;
      const wanted = { face, base, referrer };
      if (this.#codePoints) this.#wantFont(wanted, this.#codePoints);
      else this.#faces.push(wanted);
    }
  }

  #wantFont({ face, base, referrer }: WantedFace, codePoints: Uint32Array): void {
    const url = chooseFont(face, codePoints);
    if (url !== undefined) this.#add("font", url, base, referrer);
  }

  #add(
    kind: ResourceKind | "skipped",
    reference: string,
    base: string,
    referrer: string,
    importDepth = 0,
    charset = "utf-8",
  ): void {
    if (reference === "" || (kind === "script" && !this.#scripts)) return;
    const url = resolveUrl(reference, base);
    if (url?.protocol === "data:") {
      if (kind === "style") this.#wantDataStyle(url.href, base, referrer, importDepth, charset);
      return;
    }
    const key = url?.href ?? reference;
    if (this.#seen.has(key)) return;
    if (kind === "skipped") {
      if (url && ["http:", "https:"].includes(url.protocol))
        this.#skip(key, "not-fetched", "frames and media are left out");
      return;
    }
    if (!url || !isFetchable(url.href)) {
      this.#skip(key, "bad-url", "not an http: or https: URL");
      return;
    }
    if (importDepth > Limits.importDepthMax) {
      this.#skip(key, "too-many", `more than ${Limits.importDepthMax} nested imports`);
      return;
    }
    if (this.#positions >= Limits.resourcesMax) {
      this.#skip(key, "too-many", `more than ${Limits.resourcesMax} resources`);
      return;
    }
    this.#seen.add(key);
    if (kind === "style") this.#stylesOpen++;
    this.#pending.push({ url, kind, referrer, position: this.#positions++, importDepth, charset });
  }

  #wantDataStyle(url: string, base: string, referrer: string, importDepth: number, charset: string): void {
    const data = importDepth <= Limits.importDepthMax ? parseDataUrl(url) : undefined;
    if (data && data.body.length <= Limits.styleBytesMax) {
      this.#wantCss(scanCss(decodeCss(data.body, data.type, charset)), base, referrer, importDepth, charset);
    }
  }

  #skip(url: string, reason: FailureReason, detail: string): void {
    if (this.#seen.size < Limits.resourcesMax + Limits.failuresMax) this.#seen.add(url);
    this.#fail(url, reason, detail);
  }

  /** Passes on what is ready, best first, until nothing is left. */
  async #deliver(): Promise<void> {
    let isStyled = false;
    for (;;) {
      this.#start();
      if (!isStyled && this.#isStyled()) {
        isStyled = true;
        await this.#sink.record({ kind: "styled", resources: this.#positions });
        await this.#sink.flush();
        continue;
      }
      const next = this.#takeReady();
      if (next) {
        await this.#sink.record(next.record);
        if (next.heldBytes >= 0) this.#context.held.release(next.heldBytes);
        continue;
      }
      if (this.#codePoints && this.#running === 0 && this.#pending.length === 0) return;
      // Taken before the flush: what changes meanwhile counts.
      const change = this.#changes.next;
      await this.#sink.flush();
      if (this.#ready.length === 0) await change;
    }
  }

  /** All style sheets are known, and have come and been sent. */
  #isStyled(): boolean {
    const waits = this.#ready.some(({ urgency }) => urgency === URGENCY.style);
    return this.#codePoints !== undefined && this.#stylesOpen === 0 && !waits;
  }

  #takeReady(): Ready | undefined {
    let best = 0;
    for (let at = 1; at < this.#ready.length; at++) {
      const one = this.#ready[at];
      const other = this.#ready[best];
      if (one && other && (one.urgency - other.urgency || one.position - other.position) < 0) best = at;
    }
    return this.#ready.splice(best, 1)[0];
  }

  /** Starts as many fetches as may run, the most urgent first. */
  #start(): void {
    if (this.#pending.length === 0) return;
    this.#pending.sort((a, b) => URGENCY[a.kind] - URGENCY[b.kind] || a.position - b.position);
    for (let at = 0; at < this.#pending.length && this.#running < Limits.fetchesMax; ) {
      const wanted = this.#pending[at];
      if (!wanted) break;
      const onHost = this.#runningPerHost.get(wanted.url.host) ?? 0;
      if (onHost >= Limits.fetchesPerHostMax) {
        at++;
        continue;
      }
      this.#pending.splice(at, 1);
      this.#runningPerHost.set(wanted.url.host, onHost + 1);
      this.#running++;
      void this.#fetch(wanted);
    }
  }

  /** Never rejects. */
  async #fetch(wanted: Wanted): Promise<void> {
    try {
      this.#context.signal.throwIfAborted();
      const fetched = await fetchResource(this.#context, {
        ...wanted,
        page: this.#pageUrl,
        method: "GET",
        body: undefined,
      });
      this.#arrived(wanted, fetched);
    } catch (error) {
      const { reason, message } = failureOf(error);
      this.#fail(wanted.url.href, reason, message, wanted);
    }
    if (wanted.kind === "style") this.#stylesOpen--;
    this.#running--;
    const left = (this.#runningPerHost.get(wanted.url.host) ?? 1) - 1;
    if (left === 0) this.#runningPerHost.delete(wanted.url.host);
    else this.#runningPerHost.set(wanted.url.host, left);
    this.#changes.notify();
  }

  #arrived(wanted: Wanted, fetched: Fetched): void {
    const { url, kind, position } = wanted;
    if (kind === "style") {
      const essence = essenceOf(fetched.type);
      if (essence !== "" && essence !== "text/css" && essence !== "text/plain") {
        this.#context.held.release(fetched.body.length);
        throw new FetchFailure("bad-type", `a style sheet of type ${essence}`);
      }
      const text = decodeCss(fetched.body, fetched.type, wanted.charset);
      this.#wantCss(scanCss(text), fetched.finalUrl, fetched.finalUrl, wanted.importDepth, wanted.charset);
    }
    this.#ready.push({
      urgency: URGENCY[kind],
      position,
      record: contentRecord("resource", url, fetched),
      heldBytes: fetched.body.length,
    });
  }

  #fail(url: string, reason: FailureReason, detail: string, wanted?: Wanted): void {
    if (this.#failures++ >= Limits.failuresMax) return;
    this.#ready.push({
      urgency: wanted ? URGENCY[wanted.kind] : URGENCY.script,
      position: wanted?.position ?? this.#positions,
      record: failureRecord(url, reason, detail),
      heldBytes: -1,
    });
  }
}

function refreshTarget(scan: DocumentScan, documentUrl: string): URL | undefined {
  if (!scan.refresh || scan.refresh.seconds > Limits.refreshDelaySecondsMax) return undefined;
  const url = resolveUrl(scan.refresh.reference, scan.base);
  return url && isFetchable(url.href) && url.href !== documentUrl ? url : undefined;
}

function contentRecord(kind: ContentRecord["kind"], url: URL, fetched: Fetched): ContentRecord {
  const { finalUrl, status, type, body } = fetched;
  return { kind, url: url.href, finalUrl, status, type, body };
}
