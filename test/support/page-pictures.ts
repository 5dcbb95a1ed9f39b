// What a page looks like in a real Chromium, how much two looks differ, and a proxy that counts what is asked. Tests of
// the page writer and the experiment on real pages measure with this.

import { once } from "node:events";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Browser } from "playwright-core";
import { withPage } from "../../src/bin/bench/support/chromium.ts";

/** Pages are compared as far down as this: taller pictures take gigabytes. */
const HEIGHT_MAX = 8000;
/** A colour channel that differs by more than this is more than anti-aliasing. */
const CHANNEL_TOLERANCE = 8;

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

/**
 * Share of the pixels that differ by more than anti-aliasing, 0 to 1, of the larger picture in each direction: what one
 * of them lacks differs. Chromium compares them, which has a decoder.
 */
export async function differingShare(browser: Browser, first: Buffer, second: Buffer): Promise<number> {
  const context = await browser.newContext();
  try {
    const tab = await context.newPage();
    const pictures = JSON.stringify([first.toString("base64"), second.toString("base64")]);
    return await tab.evaluate<number>(`(${COMPARE})(${pictures})`);
  } finally {
    await context.close();
  }
}

// Text, since it runs in the page: its names are the page's.
const COMPARE = `async ([first, second]) => {
  const pixels = async (base64) => {
    const bitmap = await createImageBitmap(await (await fetch("data:image/png;base64," + base64)).blob());
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, bitmap.width, bitmap.height);
  };
  const [a, b] = [await pixels(first), await pixels(second)];
  let same = 0;
  for (let y = 0; y < Math.min(a.height, b.height); y++) {
    for (let x = 0; x < Math.min(a.width, b.width); x++) {
      let worst = 0;
      for (let c = 0; c < 3; c++) {
        worst = Math.max(worst, Math.abs(a.data[(y * a.width + x) * 4 + c] - b.data[(y * b.width + x) * 4 + c]));
      }
      if (worst <= ${CHANNEL_TOLERANCE}) same++;
    }
  }
  return 1 - same / (Math.max(a.width, b.width) * Math.max(a.height, b.height));
}`;

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
