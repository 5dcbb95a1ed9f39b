// A page that the browser has loaded, as something to fetch from: the document as it stands, and each part as the browser
// got it. Only what the browser did not ask for itself is asked for now, by the browser.

import { DigestLimits } from "../../../src/wire/digest.ts";
import { FetchFailure } from "../failure.ts";
import { CdpError, type CdpObject, numberOf, objectOf, textOf } from "./cdp.ts";
import { RenderedLimits as Limits } from "./limits.ts";
import type { LoadedRequest } from "./requests.ts";
import { Room } from "./room.ts";
import { networkFailure, type Tab } from "./tab.ts";

/** Types that Chromium shows by making a document of its own around them: then it is the file that counts. */
const DOCUMENT_TYPES = ["text/html", "application/xhtml+xml"];

export class LoadedPage {
  readonly #tab: Tab;
  readonly #signal: AbortSignal;
  readonly #document: { readonly url: string; readonly response: () => Response };

  private constructor(
    tab: Tab,
    signal: AbortSignal,
    document: { readonly url: string; readonly response: () => Response },
  ) {
    this.#tab = tab;
    this.#signal = signal;
    this.#document = document;
  }

  /** Reads the document out. Where that fails, the document is what the server sent. */
  static async of(tab: Tab, signal: AbortSignal): Promise<LoadedPage> {
    const { document } = tab.requests;
    if (!document) throw new FetchFailure("network", "no document came");
    const status = document.status >= 200 && document.status <= 599 ? document.status : 200;
    let captured: Awaited<ReturnType<Tab["capture"]>>;
    try {
      captured = await tab.capture(signal);
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof CdpError)) throw error;
    }
    if (captured && DOCUMENT_TYPES.includes(captured.type) && /^https?:/.test(captured.url)) {
      const { html, url } = captured;
      return new LoadedPage(tab, signal, {
        url: withoutFragment(url),
        response: () => answer(status, "text/html; charset=utf-8", new TextEncoder().encode(html)),
      });
    }
    const { bytes, isText } = await tab.body(document.requestId, signal);
    const type = isText ? withUtf8(document.type) : document.type;
    return new LoadedPage(tab, signal, {
      url: withoutFragment(document.url),
      response: () => answer(status, type, bytes),
    });
  }

  /** What a visit calls as `fetch`. The first URL it asks for is that of the page. */
  readonly fetch = async (
    input: string | URL | Request,
    init?: { signal?: AbortSignal | null },
  ): Promise<Response> => {
    const url = String(input instanceof Request ? input.url : input);
    const { signal } = init ?? {};
    if (!this.#isAsked) {
      this.#isAsked = true;
      if (url !== this.#document.url) return redirect(302, this.#document.url);
    }
    if (url === this.#document.url) return this.#document.response();
    return await this.#part(url, signal ? AbortSignal.any([signal, this.#signal]) : this.#signal);
  };
  #isAsked = false;
  readonly #room = new Room(Limits.roomBytesMax);

  async #part(url: string, signal: AbortSignal): Promise<Response> {
    const known = this.#tab.requests.find(url);
    if (known?.redirect) return redirect(known.redirect.status, known.redirect.url);
    if (known?.state === "failed") throw networkFailure(known.error);
    if (known?.state === "done" && known.status >= 200 && known.status <= 599) {
      const found = await this.#loaded(known, signal);
      if (found) return found;
    }
    return await this.#anew(url, signal);
  }

  /** Undefined when the browser has not kept it. */
  async #loaded(known: LoadedRequest, signal: AbortSignal): Promise<Response | undefined> {
    const leave = await this.#room.take(known.bytes || Limits.bufferedBodyBytesMax, signal);
    // Whoever gives up reading aborts.
    signal.addEventListener("abort", leave, { once: true });
    try {
      const { bytes, isText } = await this.#tab.body(known.requestId, signal);
      return answer(known.status, isText ? withUtf8(known.type) : known.type, bytes, leave);
    } catch (error) {
      leave();
      if (error instanceof CdpError) return undefined;
      throw error;
    }
  }

  async #anew(url: string, signal: AbortSignal): Promise<Response> {
    const found = await inTime(signal, (limited) => this.#tab.fetchAnew(url, limited));
    const handle = textOf(found, "stream");
    const status = numberOf(found, "httpStatusCode") ?? 0;
    if (found["success"] !== true || handle === undefined) {
      if (status >= 400 && status <= 599) return answer(status, "", new Uint8Array());
      throw networkFailure(textOf(found, "netErrorName") ?? "");
    }
    const body = byteStream(
      () => inTime(signal, (limited) => this.#tab.readStream(handle, limited)),
      () => {
        this.#tab.closeStream(handle);
      },
    );
    return new Response(body, { status, headers: { "content-type": safeType(contentTypeOf(found)) } });
  }
}

/** The kind of stream that a visit reads into its own buffer, as those of network answers are. */
function byteStream(
  next: () => Promise<Uint8Array | undefined>,
  close: () => void,
): ReadableStream<Uint8Array> {
  return new ReadableStream({
    type: "bytes",
    async pull(controller) {
      let bytes = await next();
      while (bytes?.length === 0) bytes = await next();
      if (bytes) {
        controller.enqueue(Uint8Array.from(bytes));
        return;
      }
      controller.close();
      // Whoever waits with a buffer of their own learns of the end by this.
      controller.byobRequest?.respond(0);
      close();
    },
    cancel: close,
  });
}

/** Gives up when a server has not sent anything for too long. */
async function inTime<T>(signal: AbortSignal, act: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const late = new AbortController();
  const timer = setTimeout(() => {
    late.abort(new FetchFailure("timeout", "the server is too slow"));
  }, Limits.anewMs);
  try {
    return await act(AbortSignal.any([signal, late.signal]));
  } finally {
    clearTimeout(timer);
  }
}

/** @param leave called when the body has been read or given up */
function answer(
  status: number,
  type: string,
  bytes: Uint8Array,
  leave: () => void = () => undefined,
): Response {
  const isEmpty = [204, 205, 304].includes(status) || bytes.length === 0;
  let left: Uint8Array | undefined = bytes;
  const body = byteStream(async () => {
    const all = left;
    left = undefined;
    return all;
  }, leave);
  if (isEmpty) leave();
  return new Response(isEmpty ? null : body, {
    status,
    headers: { "content-type": safeType(type), "content-length": String(bytes.length) },
  });
}

function redirect(status: number, url: string): Response {
  return new Response(null, {
    status: [301, 302, 303, 307, 308].includes(status) ? status : 302,
    headers: { location: url },
  });
}

function contentTypeOf(resource: CdpObject): string {
  const headers = objectOf(resource, "headers") ?? {};
  const name = Object.keys(headers).find((each) => each.toLowerCase() === "content-type");
  return (name === undefined ? undefined : textOf(headers, name)) ?? "";
}

/** What a header can hold. */
function safeType(type: string): string {
  return type.replace(/[^\x20-\x7e]/g, "").slice(0, DigestLimits.typeBytesMax);
}

/** The browser has decoded it. */
function withUtf8(type: string): string {
  return `${type.split(";")[0] ?? ""}; charset=utf-8`;
}

function withoutFragment(url: string): string {
  return url.split("#")[0] ?? "";
}
