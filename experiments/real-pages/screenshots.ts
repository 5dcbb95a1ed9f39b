// Chromium for the experiment: pages without scripts, through a proxy that counts what is asked, or through Tor.

import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { type Browser, chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--hide-scrollbars",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // Without these Chromium keeps some connections to itself.
  "--disable-features=OptimizationHints,MediaRouter",
];
/** Whole pages up to this height: taller pictures take gigabytes. */
const HEIGHT_MAX = 8000;
const PAGE_MS = 60_000;

export async function launch(proxy: string): Promise<Browser> {
  return await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: FLAGS,
    proxy: { server: proxy, bypass: "<-loopback>" },
  });
}

/** A picture of the page as it stands when everything of it has loaded, and how long that took. */
export async function load(browser: Browser, url: string): Promise<{ png: Buffer; loadMs: number }> {
  // A context of its own: nothing is in its cache.
  const context = await browser.newContext({
    javaScriptEnabled: false,
    viewport: { width: 1280, height: 800 },
  });
  try {
    const tab = await context.newPage();
    const startMs = performance.now();
    await tab.goto(url, { waitUntil: "load", timeout: PAGE_MS });
    const loadMs = performance.now() - startMs;
    const png = await tab.screenshot({
      fullPage: true,
      animations: "disabled",
      clip: { x: 0, y: 0, width: 1280, height: HEIGHT_MAX },
    });
    return { png, loadMs };
  } finally {
    await context.close();
  }
}

/** Share of pixels that differ by more than anti-aliasing, compared in Chromium itself; what one picture lacks differs. */
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

// Runs in the page, as text: its names are the page's.
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
      if (worst <= 8) same++;
    }
  }
  return 1 - same / (Math.max(a.width, b.width) * Math.max(a.height, b.height));
}`;

/** An HTTP proxy that counts, and passes on what goes to `origin`. */
export class CountingProxy implements AsyncDisposable {
  readonly requests: string[] = [];
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(origin: string): Promise<CountingProxy> {
    const server = createServer();
    const self = new CountingProxy(server);
    const target = new URL(origin);
    server.on("request", (request, response) => {
      const url = request.url ?? "";
      self.requests.push(url);
      if (!url.startsWith(`${origin}/`)) {
        response.writeHead(502).end();
        return;
      }
      const { pathname, search } = new URL(url);
      const socket = connect(Number(target.port), target.hostname);
      socket.on("error", () => response.destroy());
      socket.write(`GET ${pathname}${search} HTTP/1.0\r\nHost: ${target.host}\r\n\r\n`);
      const parts: Buffer[] = [];
      socket.on("data", (part: Buffer) => parts.push(part));
      socket.on("end", () => {
        // The answer as it is, on a connection of its own.
        request.socket.end(Buffer.concat(parts));
      });
    });
    server.on("connect", (request, socket) => {
      if (!request.url?.endsWith(".google.com:443")) self.requests.push(`CONNECT ${request.url}`);
      socket.end("HTTP/1.1 502 refused\r\n\r\n");
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return self;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }
}
