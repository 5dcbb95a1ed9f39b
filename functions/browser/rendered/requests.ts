// What the browser asked the network for while it loaded a page, and what became of it: from the events of the Network
// domain to the answer that each URL got. Names and numbers come from servers and pages; the table is bounded.

import { type CdpEvent, type CdpObject, numberOf, objectOf, textOf } from "./cdp.ts";
import { RenderedLimits as Limits } from "./limits.ts";

export interface LoadedRequest {
  readonly requestId: string;
  readonly url: string;
  state: "pending" | "done" | "failed";
  /** Where the server sent the browser instead; the answer is there. */
  redirect: { readonly url: string; readonly status: number } | undefined;
  status: number;
  /** Content-Type. */
  type: string;
  /** Of the body as the page gets it, uncompressed; 0 when it came from the browser's memory. */
  bytes: number;
  /** Of a failed one, as `net::ERR_…`. */
  error: string;
}

/** Requests that go on as long as the page, or that the page does not wait for. */
const ENDLESS = new Set([
  "WebSocket",
  "EventSource",
  "Media",
  "Ping",
  "Prefetch",
  "CSPViolationReport",
  "Preflight",
]);

export class PageRequests {
  /** By URL without fragment. */
  readonly #byUrl = new Map<string, LoadedRequest>();
  readonly #byId = new Map<string, LoadedRequest>();
  /** And the document that each belongs to. */
  readonly #underWay = new Map<string, string>();
  #quietSinceMs = performance.now();
  /** The document of the main frame, after redirects. */
  document: LoadedRequest | undefined;
  readonly #mainFrame: string;

  constructor(mainFrame: string) {
    this.#mainFrame = mainFrame;
  }

  /** Milliseconds since nothing is under way; 0 while something is. */
  get quietMs(): number {
    return this.#underWay.size > 0 ? 0 : performance.now() - this.#quietSinceMs;
  }

  find(url: string): LoadedRequest | undefined {
    return this.#byUrl.get(url);
  }

  /** Another document has taken the window: what the one before still waited for does not end any more. */
  navigated(document: string): void {
    for (const [requestId, loader] of this.#underWay)
      if (loader !== document) this.#underWay.delete(requestId);
    this.#quietSinceMs = performance.now();
  }

  take({ method, params }: CdpEvent): void {
    const requestId = textOf(params, "requestId");
    if (requestId === undefined) return;
    switch (method) {
      case "Network.requestWillBeSent":
        this.#sent(requestId, params);
        break;
      case "Network.responseReceived":
        this.#answered(requestId, objectOf(params, "response") ?? {});
        break;
      case "Network.dataReceived": {
        const request = this.#byId.get(requestId);
        if (request) request.bytes += numberOf(params, "dataLength") ?? 0;
        break;
      }
      case "Network.loadingFinished":
        this.#ended(requestId, "done", "");
        break;
      case "Network.loadingFailed":
        this.#ended(requestId, "failed", textOf(params, "errorText") ?? "");
        break;
      default:
    }
  }

  #sent(requestId: string, params: CdpObject): void {
    const url = textOf(params, "request.url") ?? "";
    const type = textOf(params, "type") ?? "";
    const redirected = objectOf(params, "redirectResponse");
    const before = this.#byId.get(requestId);
    if (redirected && before) {
      before.redirect = { url, status: numberOf(redirected, "status") ?? 302 };
      before.state = "done";
    }
    if (!ENDLESS.has(type) && this.#underWay.size < Limits.requestsMax)
      this.#underWay.set(requestId, textOf(params, "loaderId") ?? "");
    const isDocument = type === "Document" && textOf(params, "frameId") === this.#mainFrame;
    if (this.#byUrl.size >= Limits.requestsMax && !isDocument) return;
    if (!isDocument && textOf(params, "request.method") !== "GET") return;
    const request: LoadedRequest = {
      requestId,
      url,
      state: "pending",
      redirect: undefined,
      status: 0,
      type: "",
      bytes: 0,
      error: "",
    };
    this.#byId.set(requestId, request);
    if (isDocument) this.document = request;
    // The first whole answer stands: later ones of the same name may be to requests of another kind.
    if (this.#byUrl.get(url)?.state !== "done" || isDocument) this.#byUrl.set(url, request);
  }

  #answered(requestId: string, response: CdpObject): void {
    const request = this.#byId.get(requestId);
    if (!request) return;
    request.status = numberOf(response, "status") ?? 0;
    const headers = objectOf(response, "headers") ?? {};
    const name = Object.keys(headers).find((each) => each.toLowerCase() === "content-type");
    request.type =
      (name === undefined ? undefined : textOf(headers, name)) ?? textOf(response, "mimeType") ?? "";
  }

  #ended(requestId: string, state: "done" | "failed", error: string): void {
    const request = this.#byId.get(requestId);
    if (request && !request.redirect) {
      request.state = state;
      request.error = error;
    }
    if (this.#underWay.delete(requestId) && this.#underWay.size === 0) this.#quietSinceMs = performance.now();
  }
}
