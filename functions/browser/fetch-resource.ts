// One resource of a page, from a server that may be slow, endless, lying or dead: redirects, cookies, mixed content,
// deadlines and sizes. What cannot be had becomes a FetchFailure with its reason; nothing here waits without an end.

import { isFetchable } from "../../src/wire/browse.ts";
import { DigestLimits } from "../../src/wire/digest.ts";
import { resolveUrl } from "../../src/wire/page/text.ts";
import type { CookieJar, CookieUse } from "./cookies.ts";
import type { PageRequest } from "./engine.ts";
import { FetchFailure, failureOf } from "./failure.ts";
import type { HeldBytes } from "./held-bytes.ts";
import { BrowserLimits as Limits } from "./limits.ts";

export type ResourceKind = "page" | "style" | "font" | "image" | "script";

export interface Fetched {
  readonly finalUrl: string;
  readonly status: number;
  readonly type: string;
  /** Counted in HeldBytes until it is released. */
  readonly body: Uint8Array;
  /** Why the body is not whole: pages are kept as far as they came. */
  readonly cut: FetchFailure | undefined;
}

/** What all fetches of a visit share. */
export interface FetchContext {
  readonly fetch: typeof globalThis.fetch;
  readonly cookies: CookieJar;
  readonly held: HeldBytes;
  readonly userAgent: string;
  /** Aborts with a FetchFailure "deadline", or when the instance must stop. */
  readonly signal: AbortSignal;
  /** Takes from the bytes that all bodies together may have. False when they are used up. */
  takeTotal(bytes: number): boolean;
  /** `fetch` waits for memory and sees to slow servers itself: no time is too long here. */
  readonly isPatient?: boolean;
}

const ACCEPT: Readonly<Record<ResourceKind, string>> = {
  page: "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
  style: "text/css,*/*;q=0.1",
  image: "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
  font: "application/font-woff2;q=1.0,application/font-woff;q=0.9,*/*;q=0.8",
  script: "*/*",
};

const BYTES_MAX: Readonly<Record<ResourceKind, number>> = {
  page: Limits.documentBytesMax,
  style: Limits.styleBytesMax,
  image: Limits.resourceBytesMax,
  font: Limits.resourceBytesMax,
  script: Limits.resourceBytesMax,
};

export interface ResourceRequest {
  readonly url: URL;
  readonly kind: ResourceKind;
  /** What refers to it: a page or a style sheet. */
  readonly referrer: string | undefined;
  /** Of a part: the page that it belongs to. */
  readonly page: string | undefined;
  readonly method: PageRequest["method"];
  readonly body: PageRequest["body"];
}

/** @throws FetchFailure */
export async function fetchResource(context: FetchContext, request: ResourceRequest): Promise<Fetched> {
  using attempt = new Attempt(context.signal, request.kind, context.isPatient ?? false);
  let { url, method, body } = request;
  for (let redirects = 0; ; redirects++) {
    url = admit(url, request.kind, request.referrer);
    const use = cookieUse(request, method);
    const response = await attempt.network(
      context.fetch(url.href, {
        method,
        headers: headersFor(context, url, { ...request, method, body }, use),
        body: body ? Uint8Array.from(body.bytes) : null,
        redirect: "manual",
        signal: attempt.signal,
      }),
    );
    context.cookies.store(url, response.headers.getSetCookie(), use);
    const location = [301, 302, 303, 307, 308].includes(response.status) && response.headers.get("location");
    if (!location) return await readResponse(context, attempt, request.kind, url, response);
    discard(response);
    if (redirects === Limits.redirectsMax) {
      throw new FetchFailure("redirect", `more than ${Limits.redirectsMax} redirects`);
    }
    const next = resolveUrl(location, url.href);
    if (!next || !isFetchable(next.href))
      throw new FetchFailure("redirect", "redirect to something that is no page");
    url = next;
    // Fetch "HTTP-redirect fetch" 12: what was posted is not posted again, but where the server asks for just that.
    if (response.status <= 303 && method === "POST") [method, body] = ["GET", undefined];
  }
}

/** Whose cookies go along and are taken: those of the page, and of its parts those of the page's own site. */
function cookieUse(request: ResourceRequest, method: PageRequest["method"]): CookieUse {
  const isNavigation = request.kind === "page";
  const from = isNavigation ? request.referrer : request.page;
  return {
    isNavigation,
    from: from === undefined ? undefined : (URL.parse(from) ?? undefined),
    isPost: method === "POST",
  };
}

/** Mixed Content section 5: on a page that came over https, images are upgraded and everything else must be https. */
function admit(url: URL, kind: ResourceKind, referrer: string | undefined): URL {
  if (kind === "page" || !referrer?.startsWith("https:") || url.protocol === "https:") return url;
  if (kind !== "image") throw new FetchFailure("mixed-content", "http on a page that came over https");
  const upgraded = new URL(url);
  upgraded.protocol = "https:";
  return upgraded;
}

function headersFor(context: FetchContext, url: URL, request: ResourceRequest, use: CookieUse): Headers {
  const headers = new Headers({
    accept: ACCEPT[request.kind],
    "accept-language": "en-US,en;q=0.5",
    "user-agent": context.userAgent,
  });
  const cookie = context.cookies.header(url, use);
  if (cookie !== "") headers.set("cookie", cookie);
  // Referrer Policy "strict-origin-when-cross-origin", the default of browsers.
  const from = request.referrer === undefined ? null : URL.parse(request.referrer);
  if (from?.origin === url.origin) headers.set("referer", from.href);
  else if (from && !isDowngrade(from, url)) headers.set("referer", `${from.origin}/`);
  if (request.method === "POST") {
    if (request.body) headers.set("content-type", request.body.type);
    // Fetch "append a request Origin header": servers tell forged posts by it.
    if (from) headers.set("origin", isDowngrade(from, url) ? "null" : from.origin);
  }
  return headers;
}

function isDowngrade(from: URL, to: URL): boolean {
  return from.protocol === "https:" && to.protocol === "http:";
}

async function readResponse(
  context: FetchContext,
  attempt: Attempt,
  kind: ResourceKind,
  url: URL,
  response: Response,
): Promise<Fetched> {
  const type = (response.headers.get("content-type") ?? "")
    .replace(/[^\x20-\x7e]/g, "")
    .slice(0, DigestLimits.typeBytesMax);
  const { status } = response;
  // Browsers show the page and the images that come with an error status, and nothing else.
  if (status >= 400 && kind !== "page" && !(kind === "image" && type.startsWith("image/"))) {
    discard(response);
    throw new FetchFailure("http-status", `HTTP ${status}`);
  }
  const { body, cut } = await readBody(context, attempt, kind, response);
  return { finalUrl: url.href, status, type, body, cut };
}

/** Not awaited: whether a server minds is its own affair. */
function discard(response: Response): void {
  response.body?.cancel().catch(() => undefined);
}

async function readBody(
  context: FetchContext,
  attempt: Attempt,
  kind: ResourceKind,
  response: Response,
): Promise<{ body: Uint8Array; cut: FetchFailure | undefined }> {
  const bytesMax = BYTES_MAX[kind];
  const announced = Number(response.headers.get("content-length") ?? 0);
  if (kind !== "page" && announced > bytesMax) {
    discard(response);
    throw new FetchFailure("too-large", `${announced} bytes, at most ${bytesMax}`);
  }
  const body = new GrowingBytes(Math.min(announced || PIECE_BYTES, bytesMax), bytesMax);
  let kept = false;
  let cut: FetchFailure | undefined;
  context.held.begin(attempt);
  try {
    for await (const piece of piecesOf(response, attempt)) {
      if (piece.length > bytesMax - body.length)
        throw new FetchFailure("too-large", `more than ${bytesMax} bytes`);
      if (!context.takeTotal(piece.length))
        throw new FetchFailure("too-large", "the page has used up its bytes");
      await context.held.take(attempt, piece.length, context.signal);
      body.push(piece);
    }
    kept = true;
  } catch (error) {
    cut = failureOf(error);
    if (kind !== "page" || body.length === 0) throw cut;
    kept = true;
  } finally {
    context.held.end(attempt, body.length, kept);
    if (cut) attempt.abort();
  }
  return { body: body.take(), cut };
}

const PIECE_BYTES = 64 * 1024;

/**
 * The body in pieces that are good until the next one. One buffer serves all of them: a new one for each would be
 * garbage faster than it is collected, and the sandbox counts it.
 */
async function* piecesOf(response: Response, attempt: Attempt): AsyncGenerator<Uint8Array> {
  if (!response.body) return;
  const reader = response.body.getReader({ mode: "byob" });
  let buffer = new ArrayBuffer(PIECE_BYTES);
  for (;;) {
    const { done, value } = await attempt.network(reader.read(new Uint8Array(buffer)));
    if (done || !value) return;
    yield value;
    buffer = value.buffer;
  }
}

/** Bytes put one behind the other, growing by half. */
class GrowingBytes {
  #bytes: Uint8Array;
  readonly #bytesMax: number;
  #length = 0;

  constructor(sizeHint: number, bytesMax: number) {
    this.#bytes = new Uint8Array(sizeHint);
    this.#bytesMax = bytesMax;
  }

  get length(): number {
    return this.#length;
  }

  push(piece: Uint8Array): void {
    const needed = this.#length + piece.length;
    if (needed > this.#bytes.length) {
      const grown = new Uint8Array(
        Math.min(this.#bytesMax, Math.max(needed, Math.ceil(1.5 * this.#bytes.length))),
      );
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
    this.#bytes.set(piece, this.#length);
    this.#length = needed;
  }

  take(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}

/** Timing of one resource: aborts its request when the network has been silent or slow for too long. */
class Attempt implements Disposable {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal;
  /** The page has the whole deadline, its parts have their own. */
  #leftMs: number;
  readonly #idleMs: number;

  constructor(outer: AbortSignal, kind: ResourceKind, isPatient: boolean) {
    this.#outer = outer;
    this.#idleMs = isPatient ? Number.POSITIVE_INFINITY : Limits.idleMs;
    this.#leftMs = isPatient || kind === "page" ? Number.POSITIVE_INFINITY : Limits.resourceMs;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  abort(): void {
    this.#controller.abort();
  }

  /** Waits for the network, never longer than the limits, whether or not the request reacts to being aborted. */
  async network<T>(operation: Promise<T>): Promise<T> {
    const ended = Promise.withResolvers<never>();
    const stop = (failure: unknown) => {
      ended.reject(failure instanceof Error ? failure : new FetchFailure("other", String(failure)));
      this.#controller.abort();
    };
    const onAbort = () => {
      stop(this.#outer.reason);
    };
    if (this.#outer.aborted) onAbort();
    this.#outer.addEventListener("abort", onAbort, { once: true });
    const startMs = performance.now();
    const waitMs = Math.min(this.#idleMs, this.#leftMs);
    const timer = Number.isFinite(waitMs)
      ? setTimeout(() => {
          stop(new FetchFailure("timeout", "the server is too slow"));
        }, waitMs)
      : undefined;
    try {
      return await Promise.race([operation, ended.promise]);
    } catch (error) {
      // The loser of the race may still fail: nobody is interested.
      operation.catch(() => undefined);
      throw failureOf(error);
    } finally {
      clearTimeout(timer);
      this.#outer.removeEventListener("abort", onAbort);
      this.#leftMs -= performance.now() - startMs;
    }
  }

  [Symbol.dispose](): void {
    this.#leftMs = 0;
  }
}
