// The local page: an HTTP server on loopback that shows pages which the browser function fetched. Hostile are the pages
// themselves, every other page in the user's browser, and other users of the machine; all of them can reach this
// port. So: only names of this server are answered (DNS rebinding), what the user did is told from what a page did by a
// cookie and by signed links, pages run no script and stand on an origin of their own for each site.
//
//   http://127.0.0.1:PORT/?key=…                  once: sets the cookie
//   http://127.0.0.1:PORT/                        address bar            (cookie)
//   POST /visits                                  what the user typed    (cookie, same origin)
//   GET  /visits/ID  …/events  …/page.html  …/page.warc.gz   POST …/stop (cookie)
//   GET/POST /go/SEALED                           a link or form of a page (its signature)
//   http://sHASH.localhost:PORT/pages/ID          the page itself, in the frame

import { randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { pipeline } from "node:stream/promises";
import { type Clock, systemClock } from "../../base/clock.ts";
import { messageOf } from "../../base/errors.ts";
import { localPage, type VisitNews, visitText } from "../../web/local-page.ts";
import type { PageLinks } from "../digest/links.ts";
import { warcOf } from "../digest/warc.ts";
import { cookieOf, isSame, protect, redirect, refuse, send } from "./guard.ts";
import { RequestSealer, SEALED_LENGTH_MAX } from "./sealed-request.ts";
import { type Visit, type Visitor, Visits } from "./visits.ts";

/** A form that a user fills in: bytes. */
export const FORM_BYTES_MAX = 512 * 1024;
/** Connections at once: a browser opens a dozen. */
const CONNECTIONS_MAX = 64;
/** Between two lines of progress: milliseconds. */
const NEWS_MS = 100;
const COOKIE = "bento";

/** Where the links and forms of a page at `referrer` lead. */
export type LinkTo = (url: string, method: "GET" | "POST", referrer: string) => string;

/** For the pages of one visit: their links and forms come back to this server. */
export function linksOf(linkTo: LinkTo, referrer: string): PageLinks {
  return {
    linkTo: (url) => linkTo(url, "GET", referrer),
    formAction: ({ url, method }) => linkTo(url, method === "post" ? "POST" : "GET", referrer),
    formSource: new URL(linkTo(referrer, "GET", referrer)).origin,
  };
}

export interface LocalPageOptions {
  /** Fetches pages; what it writes into their links is what `linkTo` gives. */
  readonly visitor: (linkTo: LinkTo) => Visitor;
  /** Who fetches, in words. */
  readonly box: string;
  readonly software: string;
  /** 0 for one that the system chooses. */
  readonly port: number;
  readonly clock?: Clock;
}

export class LocalPage implements AsyncDisposable {
  readonly #options: LocalPageOptions;
  readonly #clock: Clock;
  readonly #server: Server;
  readonly #sealer = new RequestSealer(randomBytes(32));
  readonly #key = randomBytes(24).toString("base64url");
  readonly #visits: Visits;

  private constructor(options: LocalPageOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    const linkTo: LinkTo = (url, method, referrer) =>
      `${this.origin}/go/${this.#sealer.seal({ url, method, referrer })}`;
    this.#visits = new Visits(options.visitor(linkTo), {
      now: () => this.#clock.now(),
      newId: () => randomBytes(12).toString("base64url"),
    });
    // Long enough for a sealed request; requests are small and come from this machine.
    this.#server = createServer({ maxHeaderSize: 2 * SEALED_LENGTH_MAX, requestTimeout: 30_000 });
    this.#server.maxConnections = CONNECTIONS_MAX;
    this.#server.on("request", (request, response) => {
      this.#answer(request, response).catch((error: unknown) => {
        if (!response.headersSent) refuse(response, 500, messageOf(error));
        else response.destroy();
      });
    });
  }

  /** Resolves when it listens on 127.0.0.1. */
  static async start(options: LocalPageOptions): Promise<LocalPage> {
    const page = new LocalPage(options);
    const listening = Promise.withResolvers<void>();
    page.#server.once("error", listening.reject);
    page.#server.listen(options.port, "127.0.0.1", listening.resolve);
    await listening.promise;
    return page;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** The address to open once: whoever has it may browse. With `url`, that page at once. */
  address(url?: string): string {
    const visit = url === undefined ? "" : `&url=${encodeURIComponent(url)}`;
    return `${this.origin}/?key=${this.#key}${visit}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#visits.close();
    const closed = Promise.withResolvers<void>();
    this.#server.close(() => closed.resolve());
    this.#server.closeAllConnections();
    await closed.promise;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { host = "" } = request.headers;
    const url = new URL(request.url ?? "/", this.origin);
    protect(response);
    const [, label] = /^(s[0-9a-f]{24})\.localhost:(\d+)$/.exec(host) ?? [];
    if (label !== undefined && host.endsWith(`:${this.port}`)) {
      this.#answerFrame(label, request, response, url);
      return;
    }
    // Any other name is somebody's who had it resolve to this machine.
    if (host !== `127.0.0.1:${this.port}`) {
      refuse(response, 421, "This server has no such name.");
      return;
    }
    if (url.pathname.startsWith("/go/")) return await this.#follow(request, response, url);
    if (url.pathname === "/" && url.searchParams.has("key")) return this.#welcome(response, url);
    if (!isSame(cookieOf(request, COOKIE), this.#key)) {
      refuse(response, 403, "Open the address that `bento browse --serve` printed.");
      return;
    }
    await this.#answerUser(request, response, url);
  }

  /** The first visit: the key leaves the address bar and becomes a cookie. */
  #welcome(response: ServerResponse, url: URL): void {
    if (!isSame(url.searchParams.get("key") ?? "", this.#key)) {
      refuse(response, 403, "This address is not from this run.");
      return;
    }
    response.setHeader("set-cookie", `${COOKIE}=${this.#key}; HttpOnly; SameSite=Lax; Path=/`);
    const wanted = url.searchParams.get("url");
    const target = wanted === null ? undefined : addressOf(wanted);
    redirect(response, target ? `/visits/${this.#visits.start({ url: target, method: "GET" }).id}` : "/");
  }

  async #answerUser(request: IncomingMessage, response: ServerResponse, url: URL): Promise<void> {
    const { method } = request;
    const [, first, id = "", last = ""] = url.pathname.split("/");
    if (method === "GET" && url.pathname === "/") return this.#sendPage(response, undefined);
    if (first !== "visits") return refuse(response, 404, "There is nothing here.");
    if (method === "POST") {
      // Forms of other pages carry no cookie (SameSite), and say where they come from.
      if (!isOwn(request, this.origin)) return refuse(response, 403, "This form is not from this page.");
      if (id === "") return await this.#visitTyped(request, response);
    }
    const visit = this.#visits.find(id);
    if (!visit) return refuse(response, 404, "This visit is no longer kept. Type the address again.");
    if (method === "POST" && last === "stop") {
      visit.stop();
      return redirect(response, `/visits/${id}`);
    }
    if (method !== "GET") return refuse(response, 405, "Not that way.");
    switch (last) {
      case "":
        return this.#sendPage(response, visit);
      case "events":
        return sendNews(response, visit);
      case "page.html":
        return this.#download(response, visit, "html");
      case "page.warc.gz":
        return await this.#download(response, visit, "warc");
      default:
        return refuse(response, 404, "There is nothing here.");
    }
  }

  async #visitTyped(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const form = new URLSearchParams(Buffer.from(await bodyOf(request)).toString());
    const target = addressOf(form.get("url") ?? "");
    if (!target) return refuse(response, 400, "Expected an address such as https://example.com/.");
    redirect(response, `/visits/${this.#visits.start({ url: target, method: "GET" }).id}`);
  }

  /** A link or a form that this server wrote into a page. */
  async #follow(request: IncomingMessage, response: ServerResponse, url: URL): Promise<void> {
    const sealed = this.#sealer.open(url.pathname.slice("/go/".length));
    if (!sealed) return refuse(response, 403, "This link was not made by this run.");
    const { referrer } = sealed;
    let target = sealed.url;
    let body: { type: string; bytes: Uint8Array } | undefined;
    if (request.method === "POST") {
      const bytes = await bodyOf(request);
      const type = request.headers["content-type"] ?? "application/x-www-form-urlencoded";
      if (sealed.method === "POST") body = { type, bytes };
      else target = withQuery(target, Buffer.from(bytes).toString());
    } else if (request.method !== "GET" || sealed.method === "POST") {
      return refuse(response, 405, "Not that way.");
    } else if (url.search !== "") {
      target = withQuery(target, url.search);
    }
    const method = body ? "POST" : "GET";
    const visit = this.#visits.start({ url: target, method, referrer, ...(body ? { body } : {}) });
    redirect(response, `/visits/${visit.id}`);
  }

  #sendPage(response: ServerResponse, visit: Visit | undefined): void {
    const nonce = randomBytes(16).toString("base64");
    const { port } = this;
    const html = localPage({
      address: visit?.request.url ?? "",
      visit: visit && { id: visit.id, frame: this.#frameOf(visit), version: visit.version },
      nonce,
      box: this.#options.box,
    });
    response.setHeader(
      "content-security-policy",
      `default-src 'none'; script-src 'nonce-${nonce}'; style-src 'nonce-${nonce}'; style-src-attr 'unsafe-inline'; ` +
        `connect-src 'self'; frame-src http://*.localhost:${port}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'`,
    );
    response.setHeader("cross-origin-opener-policy", "same-origin");
    send(response, "text/html; charset=utf-8", Buffer.from(html));
  }

  #frameOf(visit: Visit): string {
    return `http://${this.#sealer.siteLabel(visit.request.url)}.localhost:${this.port}/pages/${visit.id}`;
  }

  /** The page, for the frame: nothing in it runs, and it reaches nobody but this server, by clicks. */
  #answerFrame(label: string, request: IncomingMessage, response: ServerResponse, url: URL): void {
    const [, first, id = "", more] = url.pathname.split("/");
    const visit = this.#visits.find(id);
    if (request.method !== "GET" || first !== "pages" || more !== undefined || !visit)
      return refuse(response, 404, "This page is no longer kept.");
    if (this.#sealer.siteLabel(visit.request.url) !== label)
      return refuse(response, 421, "This page stands at another name.");
    if (!visit.html) return refuse(response, 404, "The page is not here yet.");
    response.setHeader(
      "content-security-policy",
      "sandbox allow-forms allow-top-navigation-by-user-activation; default-src 'none'; img-src data:; font-src data:; " +
        `media-src data:; style-src 'unsafe-inline'; form-action ${this.origin}; base-uri 'none'; frame-ancestors ${this.origin}`,
    );
    // The frame stands in a page of another origin that isolates itself.
    response.setHeader("cross-origin-resource-policy", "cross-origin");
    send(response, "text/html; charset=utf-8", visit.html);
  }

  #download(response: ServerResponse, visit: Visit, form: "html"): void;
  #download(response: ServerResponse, visit: Visit, form: "warc"): Promise<void>;
  #download(response: ServerResponse, visit: Visit, form: "html" | "warc"): void | Promise<void> {
    if (visit.state.kind !== "done") return refuse(response, 404, "The page is not complete.");
    const name = nameOf(visit.request.url);
    response.setHeader(
      "content-disposition",
      `attachment; filename="${name}.${form === "html" ? "html" : "warc.gz"}"`,
    );
    if (form === "html") return send(response, "text/html; charset=utf-8", visit.state.page.html);
    response.setHeader("content-type", "application/warc");
    const { software } = this.#options;
    return pipeline(
      warcOf(visit.state.page.resources, { receivedAtMs: visit.startedMs, software }),
      response,
    );
  }
}

/** Lines of progress as server-sent events, until the visit is over or the reader is gone. */
function sendNews(response: ServerResponse, visit: Visit): void {
  response.writeHead(200, { "content-type": "text/event-stream" });
  let timer: NodeJS.Timeout | undefined;
  const tell = () => {
    timer = undefined;
    response.write(`data: ${JSON.stringify(newsOf(visit))}\n\n`);
    if (visit.isOver) response.end();
  };
  const onChange = () => {
    timer ??= setTimeout(tell, NEWS_MS);
  };
  visit.changes.on("change", onChange);
  response.once("close", () => {
    clearTimeout(timer);
    visit.changes.off("change", onChange);
  });
  tell();
}

function newsOf(visit: Visit): VisitNews {
  const { state, progress, version } = visit;
  const resources = progress?.resources ?? 0;
  const expected = progress?.resourcesExpected;
  const content = state.kind === "loading" ? share(resources, expected) : 1;
  const padding = state.kind === "done" ? 1 : share(progress?.paddingBytes ?? 0, progress?.paddingTotal);
  return {
    state: state.kind,
    content: state.kind === "failed" ? null : content,
    padding,
    address: state.kind === "done" ? (state.page.url ?? null) : null,
    version,
    text: visitText({
      state: state.kind,
      resources,
      resourcesExpected: expected,
      contentBytes: progress?.contentBytes ?? 0,
      paddingBytes: progress?.paddingBytes ?? 0,
      paddingTotal: progress?.paddingTotal,
      failures: state.kind === "done" ? state.page.failures.length : 0,
      problem: state.kind === "failed" ? state.message : "",
    }),
  };
}

function share(part: number, whole: number | undefined): number | null {
  return whole === undefined || whole === 0 ? null : Math.min(1, part / whole);
}

/** What was typed: http: and https: addresses, https: where no scheme is given. */
function addressOf(text: string): string | undefined {
  const trimmed = text.trim();
  const url = URL.parse(/^[a-z][a-z0-9+.-]*:\/\//i.test(trimmed) ? trimmed : `https://${trimmed}`);
  if (!url || !["http:", "https:"].includes(url.protocol)) return undefined;
  return url.href;
}

/** A GET form replaces the query of its action (HTML, form submission). */
function withQuery(target: string, query: string): string {
  const url = new URL(target);
  url.search = query;
  return url.href;
}

/** Letters, digits and hyphens of a host. */
function nameOf(url: string): string {
  return new URL(url).hostname.replaceAll(/[^a-z0-9.-]/gi, "").slice(0, 60) || "page";
}

async function bodyOf(request: IncomingMessage): Promise<Uint8Array> {
  const parts: Buffer[] = [];
  let length = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    length += part.length;
    if (length > FORM_BYTES_MAX) throw new Error(`The form is longer than ${FORM_BYTES_MAX} bytes.`);
    parts.push(part);
  }
  return Buffer.concat(parts);
}

/** Browsers say where a form comes from (Fetch Metadata, RFC 6454); what says nothing is not a browser's form. */
function isOwn(request: IncomingMessage, origin: string): boolean {
  return request.headers.origin === origin || request.headers["sec-fetch-site"] === "same-origin";
}
