// What a page looks like in a real Chromium, and a proxy that counts what is asked. Tests of the page writer and the
// experiment on real pages measure with this; pictures.ts compares.

import { once } from "node:events";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Browser } from "playwright-core";
import { withPage } from "../../src/bin/bench/support/chromium.ts";

/** Pages are compared as far down as this: taller pictures take gigabytes. */
const HEIGHT_MAX = 8000;

/** The page with all of its parts, scripts off, as a PNG. */
export async function pictureOf(browser: Browser, url: string): Promise<Buffer> {
  return await withPage(browser, url, (tab) =>
    tab.screenshot({
      fullPage: true,
      animations: "disabled",
      clip: { x: 0, y: 0, width: 1280, height: HEIGHT_MAX },
    }),
  );
}

/** An HTTP proxy that notes what is asked of it, and passes on what goes to addresses that begin with `prefix`. */
export class CountingProxy implements AsyncDisposable {
  readonly requests: string[] = [];
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(options: { readonly host: string; readonly prefix: string }): Promise<CountingProxy> {
    const server = createServer();
    const self = new CountingProxy(server);
    server.on("request", (request, response) => {
      const url = request.url ?? "";
      self.requests.push(url);
      if (!url.startsWith(options.prefix)) {
        response.writeHead(502).end();
        return;
      }
      passOn(url, response).catch(() => response.destroy());
    });
    server.on("connect", (request, socket) => {
      // Chromium asks its maker for things of its own whatever is open; no page here names that host.
      if (!request.url?.endsWith(".google.com:443")) self.requests.push(`CONNECT ${request.url}`);
      socket.on("error", () => socket.destroy());
      socket.end("HTTP/1.1 502 refused\r\n\r\n");
    });
    server.listen(0, options.host);
    await once(server, "listening");
    return self;
  }

  get url(): string {
    const { address, port } = this.#server.address() as AddressInfo;
    return `http://${address}:${port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }
}

async function passOn(url: string, response: ServerResponse): Promise<void> {
  const answer = await fetch(url, { redirect: "manual" });
  const headers: Record<string, string> = {};
  for (const name of ["content-type", "location"]) {
    const value = answer.headers.get(name);
    if (value !== null) headers[name] = value;
  }
  response.writeHead(answer.status, headers);
  response.end(Buffer.from(await answer.arrayBuffer()));
}
