// One page in one tab: open, go there as a user who follows a link or sends a form would, wait until it is complete, read
// it out, close. Whatever the page does (loops, dialogs, downloads, windows, its process ending) ends in a value or in a
// FetchFailure, and never waits for the page alone.

import { Buffer } from "node:buffer";
import { Changes } from "../../../src/base/changes.ts";
import type { PageRequest } from "../engine.ts";
import { FetchFailure } from "../failure.ts";
import { captureScript, HEIGHTS, OPEN_ROOTS, scrollTo } from "./capture.ts";
import {
  type Cdp,
  CdpError,
  type CdpEvent,
  type CdpObject,
  isObject,
  numberOf,
  objectOf,
  textOf,
} from "./cdp.ts";
import { RenderedLimits as Limits } from "./limits.ts";
import { PageRequests } from "./requests.ts";

/** As the static engine chooses candidates of pictures for. */
const WINDOW = { width: 1280, height: 800 };
/** Between two looks at what is only known by the time that has passed: milliseconds. */
const LOOK_MS = 50;

export interface CapturedDocument {
  readonly html: string;
  /** The document's own address now. */
  readonly url: string;
  readonly type: string;
}

export class Tab implements AsyncDisposable {
  readonly requests: PageRequests;
  readonly #cdp: Cdp;
  readonly #target: string;
  readonly #session: string;
  readonly #frame: string;
  readonly #gone = new AbortController();
  readonly #crashed = Promise.withResolvers<void>();
  #loaded = false;
  /** How a navigation that something sends goes on when the browser asks. */
  #onDocument: ((params: CdpObject) => void) | undefined;
  readonly #changes = new Changes();

  private constructor(cdp: Cdp, target: string, session: string) {
    this.#cdp = cdp;
    this.#target = target;
    this.#session = session;
    // The main frame of a page has the name of its target.
    this.#frame = target;
    this.requests = new PageRequests(target);
  }

  static async open(cdp: Cdp, userAgent: CdpObject, signal: AbortSignal): Promise<Tab> {
    const target = textOf(
      await cdp.send("Target.createTarget", { url: "about:blank", ...WINDOW }, { signal }),
      "targetId",
    );
    const attached = await cdp.send("Target.attachToTarget", { targetId: target, flatten: true }, { signal });
    const session = textOf(attached, "sessionId");
    if (target === undefined || session === undefined) throw new CdpError("The browser opens no page");
    const tab = new Tab(cdp, target, session);
    cdp.listen(session, (event) => {
      tab.#take(event);
    });
    const { bufferBytesMax, bufferedBodyBytesMax } = Limits;
    const commands: [string, CdpObject][] = [
      ["Page.enable", {}],
      [
        "Network.enable",
        {
          maxTotalBufferSize: bufferBytesMax,
          maxResourceBufferSize: bufferedBodyBytesMax,
          maxPostDataSize: 0,
        },
      ],
      // What a worker of an earlier page would answer is not what the server says now.
      ["Network.setBypassServiceWorker", { bypass: true }],
      ["Emulation.setUserAgentOverride", userAgent],
      ["Page.addScriptToEvaluateOnNewDocument", { source: OPEN_ROOTS }],
    ];
    await Promise.all(commands.map(([method, params]) => tab.#send(method, params, signal)));
    return tab;
  }

  /** Goes there. Returns when the document has begun to come; throws FetchFailure when it does not. */
  async go(request: PageRequest, signal: AbortSignal): Promise<void> {
    const { url, method, referrer } = request;
    if (method === "GET" && !referrer) {
      const answer = await this.#send("Page.navigate", { url: url.href }, signal);
      const error = textOf(answer, "errorText");
      if (error !== undefined) throw networkFailure(error, this.requests.document?.error);
      return;
    }
    await this.#goFrom(request, signal);
  }

  /**
   * From the page of the referrer, or from nowhere: the browser itself then decides on Referer, Origin and the cookies that
   * go along. That page is not fetched: a form or a link of ours stands in for it.
   */
  async #goFrom({ url, method, body, referrer }: PageRequest, signal: AbortSignal): Promise<void> {
    const address = JSON.stringify(url.href).replaceAll("<", "\\u003c");
    const script =
      method === "GET"
        ? `location.replace(${address})`
        : `const f=document.createElement("form");f.method="post";f.action=${address};document.documentElement.append(f);f.submit()`;
    let sent = false;
    this.#onDocument = (params) => {
      const requestId = textOf(params, "requestId") ?? "";
      if (referrer && !sent && textOf(params, "request.url") === withoutFragment(referrer)) {
        void this.#tell("Fetch.fulfillRequest", {
          requestId,
          responseCode: 200,
          responseHeaders: [{ name: "Content-Type", value: "text/html; charset=utf-8" }],
          body: Buffer.from(`<!DOCTYPE html><script>${script}</script>`).toString("base64"),
        });
        return;
      }
      const isForm = !sent && method === "POST" && body !== undefined;
      sent = true;
      const headers = Object.entries(objectOf(params, "request.headers") ?? {}).filter(
        ([name]) => name.toLowerCase() !== "content-type",
      );
      void this.#tell("Fetch.continueRequest", {
        requestId,
        ...(isForm
          ? {
              postData: Buffer.from(body.bytes).toString("base64"),
              headers: [
                ...headers.map(([name, value]) => ({ name, value: String(value) })),
                { name: "Content-Type", value: body.type },
              ],
            }
          : {}),
      });
    };
    await this.#send("Fetch.enable", { patterns: [{ resourceType: "Document" }] }, signal);
    if (referrer) void this.#tell("Page.navigate", { url: withoutFragment(referrer) });
    else void this.#tell("Runtime.evaluate", { expression: script });
    const isThere = () => {
      const { document } = this.requests;
      return sent && document !== undefined && (document.state === "failed" || document.status > 0);
    };
    await this.#until(isThere, Number.POSITIVE_INFINITY, signal);
    signal.throwIfAborted();
    const { document } = this.requests;
    if (document?.state === "failed") throw networkFailure(document.error);
    await this.#send("Fetch.disable", {}, signal);
  }

  /** Waits until the page shows what it shows: loaded, quiet, scrolled through once. Returns early when `signal` aborts. */
  async settle(signal: AbortSignal): Promise<void> {
    const isQuiet = () => this.requests.quietMs >= Limits.quietMs;
    await this.#until(() => this.#loaded, Limits.loadMs, signal);
    await this.#until(isQuiet, Limits.settleMs, signal);
    if (signal.aborted) return;
    if (await this.#scrollThrough(signal)) await this.#until(isQuiet, Limits.settleAfterScrollMs, signal);
  }

  /** Whether there was anything to scroll. */
  async #scrollThrough(signal: AbortSignal): Promise<boolean> {
    try {
      const world = await this.#world(signal);
      const heights = await this.#evaluate(HEIGHTS, world, LOOK_MS * 10, signal);
      const [page = 0, window = 0] = Array.isArray(heights) ? heights.map(Number) : [];
      if (!(window > 0 && page > 1.2 * window)) return false;
      const steps = Math.min(Math.ceil(page / window), Limits.scrollsMax);
      const endMs = performance.now() + Limits.scrollsMs;
      for (let step = 1; step <= steps && performance.now() < endMs; step++) {
        await this.#evaluate(scrollTo((step * page) / steps), world, LOOK_MS * 10, signal);
        await this.#until(() => false, Limits.scrollMs, signal);
      }
      await this.#evaluate(scrollTo(0), world, LOOK_MS * 10, signal);
      return true;
    } catch (error) {
      // The time is up, the page went elsewhere, or it does not let go.
      if (signal.aborted || (error instanceof CdpError && !this.#cdp.ended.aborted)) return false;
      throw error;
    }
  }

  /** Stops the page's scripts and reads the document out. Undefined when it cannot be read. */
  async capture(signal: AbortSignal): Promise<CapturedDocument | undefined> {
    await Promise.all([
      this.#send("Emulation.setScriptExecutionDisabled", { value: true }, signal),
      // One that runs at the moment, for ever perhaps.
      this.#send("Runtime.terminateExecution", {}, signal),
    ]);
    const world = await this.#world(signal);
    const value = await this.#evaluate(captureScript(Limits), world, Limits.captureMs, signal);
    const html = isObject(value) ? textOf(value, "html") : undefined;
    const url = isObject(value) ? textOf(value, "url") : undefined;
    const type = isObject(value) ? textOf(value, "type") : undefined;
    return html !== undefined && url !== undefined && type !== undefined ? { html, url, type } : undefined;
  }

  /** The body of a request that is done, as the page got it. `isText`: decoded, so UTF-8 whatever it was. */
  async body(requestId: string, signal: AbortSignal): Promise<{ bytes: Uint8Array; isText: boolean }> {
    const answer = await this.#send("Network.getResponseBody", { requestId }, signal);
    const body = textOf(answer, "body") ?? "";
    if (answer["base64Encoded"] !== true) return { bytes: new TextEncoder().encode(body), isText: true };
    return { bytes: Buffer.from(body, "base64"), isText: false };
  }

  /** Asks a server for something that the page has not asked for, as a part of the page. */
  async fetchAnew(url: string, signal: AbortSignal): Promise<CdpObject> {
    const answer = await this.#send(
      "Network.loadNetworkResource",
      { frameId: this.#frame, url, options: { disableCache: false, includeCredentials: true } },
      signal,
    );
    return objectOf(answer, "resource") ?? {};
  }

  /** The next piece of a stream of `fetchAnew`; undefined at its end. */
  async readStream(handle: string, signal: AbortSignal): Promise<Uint8Array | undefined> {
    const answer = await this.#send("IO.read", { handle, size: Limits.pieceBytes }, signal);
    const data = textOf(answer, "data") ?? "";
    const bytes =
      answer["base64Encoded"] === true ? Buffer.from(data, "base64") : new TextEncoder().encode(data);
    return bytes.length === 0 && answer["eof"] === true ? undefined : bytes;
  }

  closeStream(handle: string): void {
    void this.#tell("IO.close", { handle });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#gone.abort(new FetchFailure("stopped", "the page was closed"));
    const signal = AbortSignal.timeout(Limits.closeMs);
    // Its process, not only the page: what still runs there (loops, workers) must not run beside the next page, which
    // would get the same process while it is there.
    this.#cdp.send("Page.crash", {}, { session: this.#session, signal }).catch(() => undefined);
    await orAborted(this.#crashed.promise, signal);
    this.#cdp.listen(this.#session, undefined);
    await this.#cdp.send("Target.closeTarget", { targetId: this.#target }, { signal }).catch(() => undefined);
  }

  async #send(method: string, params: CdpObject, signal: AbortSignal): Promise<CdpObject> {
    return await this.#cdp.send(method, params, {
      session: this.#session,
      signal: AbortSignal.any([signal, this.#gone.signal]),
    });
  }

  /** Where nothing depends on the answer. */
  async #tell(method: string, params: CdpObject): Promise<void> {
    await this.#send(method, params, this.#gone.signal).catch(() => undefined);
  }

  async #world(signal: AbortSignal): Promise<number> {
    const answer = await this.#within(Limits.captureMs, signal, (limited) =>
      this.#send("Page.createIsolatedWorld", { frameId: this.#frame }, limited),
    );
    return numberOf(answer, "executionContextId") ?? 0;
  }

  async #evaluate(
    expression: string,
    world: number,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<unknown> {
    // The browser's own timer counts from when the page lets it begin.
    const answer = await this.#within(2 * timeoutMs, signal, (limited) =>
      this.#send(
        "Runtime.evaluate",
        { expression, contextId: world, returnByValue: true, timeout: timeoutMs, silent: true },
        limited,
      ),
    );
    if (isObject(answer["exceptionDetails"])) throw new CdpError("The page cannot be read");
    return objectOf(answer, "result")?.["value"];
  }

  async #within<T>(ms: number, signal: AbortSignal, ask: (limited: AbortSignal) => Promise<T>): Promise<T> {
    const limit = AbortSignal.timeout(ms);
    try {
      return await ask(AbortSignal.any([signal, limit]));
    } catch (error) {
      if (!limit.aborted || signal.aborted) throw error;
      throw new CdpError("The page does not let itself be read", { cause: error });
    }
  }

  #take(event: CdpEvent): void {
    const { method, params } = event;
    switch (method) {
      case "Page.javascriptDialogOpening":
        // A page may always be left; nothing else is agreed to.
        void this.#tell("Page.handleJavaScriptDialog", { accept: textOf(params, "type") === "beforeunload" });
        break;
      case "Page.frameNavigated":
        if (textOf(params, "frame.id") !== this.#frame) break;
        this.#loaded = false;
        this.requests.navigated(textOf(params, "frame.loaderId") ?? "");
        break;
      case "Page.loadEventFired":
        this.#loaded = true;
        break;
      case "Fetch.requestPaused":
        if (this.#onDocument) this.#onDocument(params);
        else void this.#tell("Fetch.continueRequest", { requestId: textOf(params, "requestId") });
        break;
      case "Inspector.targetCrashed":
        this.#crashed.resolve();
        this.#gone.abort(
          new FetchFailure("other", "the page's process ended: it may have used up its memory"),
        );
        break;
      default:
        this.requests.take(event);
    }
    this.#changes.notify();
  }

  /** Waits for `check`, at most so long. Returns when `signal` aborts; throws when the page or the browser has gone. */
  async #until(check: () => boolean, timeoutMs: number, signal: AbortSignal): Promise<void> {
    const endMs = performance.now() + timeoutMs;
    while (!signal.aborted && !check()) {
      this.#gone.signal.throwIfAborted();
      this.#cdp.ended.throwIfAborted();
      const leftMs = endMs - performance.now();
      if (leftMs <= 0) return;
      let timer: ReturnType<typeof setTimeout> | undefined;
      const tick = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, Math.min(leftMs, LOOK_MS));
      });
      await Promise.race([this.#changes.next, tick]);
      clearTimeout(timer);
    }
  }
}

/** Never rejects: whichever comes first. */
async function orAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const aborted = Promise.withResolvers<void>();
  signal.addEventListener(
    "abort",
    () => {
      aborted.resolve();
    },
    { once: true },
  );
  await Promise.race([promise, aborted.promise]);
}

function withoutFragment(url: URL): string {
  const copy = new URL(url);
  copy.hash = "";
  return copy.href;
}

/** `net::ERR_SOCKS_CONNECTION_FAILED` and its like: the box's broker refused, or the server did. */
export function networkFailure(error: string, other = ""): FetchFailure {
  const name = /^net::(ERR_[A-Z0-9_]{1,80})$/.exec(error || other)?.[1] ?? "failed";
  if (name === "ERR_ABORTED") return new FetchFailure("bad-type", "no page but a download");
  if (name.includes("SOCKS") || name.includes("PROXY")) {
    return new FetchFailure("network", `refused by the box's policy, or not reachable (${name})`);
  }
  return new FetchFailure("network", name);
}
