// `bento lb status --page`: an HTTP server on loopback with one page, fed by what the load balancer reports. Hostile are
// other pages in the user's browser and other users of the machine, who can reach this port, and what boxes wrote into
// reports. Only its own name is answered (DNS rebinding), only whoever has the address that was printed; nothing can be
// changed through it.
//
//   http://127.0.0.1:PORT/?key=…   once: sets the cookie
//   http://127.0.0.1:PORT/         the page as it stands (cookie); without scripts it loads itself again
//   http://127.0.0.1:PORT/events   what changes, as server-sent events (cookie)

import { randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import {
  type LoadBalancerPageView,
  loadBalancerMain,
  loadBalancerPage,
} from "../../web/loadbalancer-page.ts";
import { cookieOf, isSame, protect, redirect, refuse, send } from "../local-page/guard.ts";
import type { History } from "./history.ts";
import { pageView } from "./page-view.ts";

/** Connections at once, and pages that are kept up to date. */
const CONNECTIONS_MAX = 32;
/** Between two drawings: milliseconds. */
const NEWS_MS = 250;

export interface LivePageOptions {
  /** 0 for one that the system chooses. */
  readonly port: number;
  readonly name: string;
  readonly history: History;
}

export class LivePage implements AsyncDisposable {
  readonly #options: LivePageOptions;
  readonly #server: Server;
  readonly #key = randomBytes(24).toString("base64url");
  readonly #readers = new Set<ServerResponse>();
  #note = "";
  #timer: NodeJS.Timeout | undefined;

  private constructor(options: LivePageOptions) {
    this.#options = options;
    this.#server = createServer({ requestTimeout: 30_000 }, (request, response) => {
      this.#answer(request, response);
    });
    this.#server.maxConnections = CONNECTIONS_MAX;
  }

  /** Resolves when it listens on 127.0.0.1. */
  static async start(options: LivePageOptions): Promise<LivePage> {
    const page = new LivePage(options);
    const listening = Promise.withResolvers<void>();
    page.#server.once("error", listening.reject);
    page.#server.listen(options.port, "127.0.0.1", listening.resolve);
    await listening.promise;
    return page;
  }

  get #port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Cookies know no ports: pages of several load balancers have one each. */
  get #cookie(): string {
    return `bento-lb-${this.#port}`;
  }

  /** To be opened once: whoever has it may look. */
  get address(): string {
    return `http://127.0.0.1:${this.#port}/?key=${this.#key}`;
  }

  /** Draws what the history holds by now. */
  update(): void {
    if (this.#readers.size === 0) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const news = `data: ${JSON.stringify(loadBalancerMain(this.#view()))}\n\n`;
      for (const reader of this.#readers) {
        // One that does not keep up gets the next drawing.
        if (!reader.writableNeedDrain) reader.write(news);
      }
    }, NEWS_MS);
  }

  /** What is wrong with the connection to the load balancer; the empty text takes it back. */
  tell(note: string): void {
    this.#note = note;
    this.update();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    const closed = Promise.withResolvers<void>();
    this.#server.close(() => closed.resolve());
    this.#server.closeAllConnections();
    await closed.promise;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const origin = `http://127.0.0.1:${this.#port}`;
    protect(response);
    // Any other name is somebody's who had it resolve to this machine.
    if (request.headers.host !== `127.0.0.1:${this.#port}`)
      return refuse(response, 421, "This server has no such name.");
    if (request.method !== "GET") return refuse(response, 405, "Not that way.");
    const url = URL.parse(request.url ?? "/", origin);
    const key = url?.searchParams.get("key");
    if (url?.pathname === "/" && typeof key === "string") {
      if (!isSame(key, this.#key)) return refuse(response, 403, "This address is not from this run.");
      response.setHeader("set-cookie", `${this.#cookie}=${this.#key}; HttpOnly; SameSite=Strict; Path=/`);
      return redirect(response, "/");
    }
    if (!isSame(cookieOf(request, this.#cookie), this.#key))
      return refuse(response, 403, "Open the address that `bento lb status --page` printed.");
    if (url?.pathname === "/") return this.#sendPage(response);
    if (url?.pathname === "/events") return this.#sendEvents(response);
    refuse(response, 404, "There is nothing here.");
  }

  #sendPage(response: ServerResponse): void {
    const nonce = randomBytes(16).toString("base64");
    response.setHeader(
      "content-security-policy",
      `default-src 'none'; script-src 'nonce-${nonce}'; style-src 'nonce-${nonce}'; connect-src 'self'; ` +
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    response.setHeader("cross-origin-opener-policy", "same-origin");
    send(response, "text/html; charset=utf-8", Buffer.from(loadBalancerPage(this.#view(), nonce)));
  }

  #sendEvents(response: ServerResponse): void {
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`data: ${JSON.stringify(loadBalancerMain(this.#view()))}\n\n`);
    this.#readers.add(response);
    response.once("close", () => this.#readers.delete(response));
  }

  #view(): LoadBalancerPageView {
    return pageView(this.#options.name, this.#options.history, this.#note);
  }
}
