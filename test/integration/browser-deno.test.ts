// The Browser function as it is shipped: bundled, in a real Deno guest, its fetch through the guest channel.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server } from "node:https";
import { type AddressInfo, connect } from "node:net";
import { test } from "node:test";
import { PageThread } from "../../src/client/digest/page-thread.ts";
import { PageReceiver, receivePage } from "../../src/client/digest/receive-page.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import {
  BROWSE_DEFAULTS,
  type BrowseRequest,
  CELL_BYTES,
  encodeRequest,
  encodeSettings,
} from "../../src/wire/browse.ts";
import { SITES } from "../sites/sites.ts";
import { WebServer } from "../sites/web-server.ts";
import { SITE_CERTIFICATE, SITE_KEY } from "../vectors/site-certificate.ts";
import { GuestBench, PLACES } from "./guest-harness.ts";

/** Of the readable text that boxes get. Parsing HTML costs its tables; what is above this has brought in something by mistake. */
const SOURCE_LENGTH_MAX = 464 * 1024;

test("browser: fetches a page in a Deno guest and pads it exactly", { timeout: 60_000 }, async (context) => {
  const { source } = (await loadPackage("browser")).package;
  context.diagnostic(`source: ${source.length} characters`);
  assert.ok(source.length > 0 && source.length <= SOURCE_LENGTH_MAX);
  await using site = await WebServer.start(SITES["magazine"] ?? {});
  const target = new URL(site.origin);
  await using bench = await GuestBench.open();
  const asked = new Set<string>();
  await using guest = await bench.run("deno", source, {
    invocation: { args: ["http://magazine.test/", { pad: 100_000 }] },
    grant: { net: { allow: ["*:80"], connections: 32, bytes: 1e9 }, syscalls: ["loopback"] } as never,
    services: {
      net: {
        async connect({ host, port }) {
          asked.add(`${host}:${port}`);
          return connect(Number(target.port), target.hostname);
        },
        [Symbol.asyncDispose]: () => Promise.resolve(),
      },
    },
  });
  let total = 0;
  const output = async function* () {
    for (let message = await guest.next(); message; message = await guest.next()) {
      total += message.length;
      yield message;
    }
  };
  const page = await receivePage(output());
  assert.deepEqual(await guest.ended, { kind: "returned" });
  assert.deepEqual([...asked], ["magazine.test:80"]);
  assert.ok(page.verified);
  assert.deepEqual(page.failures, []);
  assert.equal(page.resources.length, 12);
  assert.equal(total % 100_000, 0);
  assert.equal(page.contentBytes + page.paddingBytes, total);
});

test("browser: a session in a Deno guest keeps its jar, posts forms, and paces its cells", {
  timeout: 90_000,
}, async (context) => {
  const { source } = (await loadPackage("browser")).package;
  const seen: string[] = [];
  const html = (body: string) => ({ type: "text/html", body: `<!DOCTYPE html>${body}` });
  await using site = await WebServer.start({
    "/": (_request, response) => {
      response.setHeader("set-cookie", "seen=1; Path=/").setHeader("content-type", "text/html");
      response.end("<form action=/login method=post><input name=user></form>");
    },
    "/login": (request, response) => {
      request.setEncoding("utf8").on("data", (body: string) => {
        seen.push(
          `${request.method} ${body} ${request.headers.cookie} ${request.headers.origin} ${request.headers.referer} ${request.headers["content-type"]}`,
        );
        response.writeHead(302, { location: "/in", "set-cookie": "sid=7; Path=/; HttpOnly" }).end();
      });
    },
    "/in": (request, response) => {
      seen.push(`${request.method} ${request.headers.cookie} ${request.headers["content-type"]}`);
      response.setHeader("content-type", "text/html").end("<p>welcome");
    },
    "/long": html(`<p>${"<b>long</b> text ".repeat(20_000)}`),
  });
  const target = new URL(site.origin);
  const sizes = [16, 48, 240].map((cells) => cells * CELL_BYTES);
  const settings = { ...BROWSE_DEFAULTS, shape: { kind: "bucket", bytes: sizes, rate: 262_144 } } as const;
  await using bench = await GuestBench.open();
  await using guest = await bench.run("deno", source, {
    invocation: { args: [encodeSettings(settings)] } as never,
    grant: { net: { allow: ["*:80"], connections: 32, bytes: 1e9 }, syscalls: ["loopback"] } as never,
    services: {
      net: {
        connect: async () => connect(Number(target.port), target.hostname),
        [Symbol.asyncDispose]: () => Promise.resolve(),
      },
    },
  });
  let id = 0;
  const visit = async (request: Partial<BrowseRequest>) => {
    using thread = new PageThread();
    const receiver = new PageReceiver({ render: (content) => thread.render(content) });
    const whole = {
      url: "http://a.test/",
      method: "GET" as const,
      body: undefined,
      referrer: undefined,
      stop: false,
    };
    await guest.send(encodeRequest({ ...whole, ...request, id: ++id }));
    const timesMs: number[] = [];
    while (!receiver.isEnded) {
      const cell = await guest.next();
      assert.equal(cell?.length, CELL_BYTES);
      timesMs.push(performance.now());
      await receiver.push(cell);
    }
    const gaps = timesMs.slice(1).map((time, at) => Math.round(time - (timesMs[at] ?? 0)));
    context.diagnostic(
      `${request.url}: ${timesMs.length} cells, ${Math.round((timesMs.at(-1) ?? 0) - (timesMs[0] ?? 0))} ms, longest gap ${Math.max(...gaps)} ms`,
    );
    assert.ok(sizes.includes(timesMs.length * CELL_BYTES));
    const page = await receiver.finish();
    assert.ok(page.verified);
    return page;
  };
  await visit({ url: "http://a.test/" });
  const body = { type: "application/x-www-form-urlencoded", bytes: new TextEncoder().encode("user=me") };
  const posted = await visit({
    url: "http://a.test/login",
    method: "POST",
    body,
    referrer: "http://a.test/?private",
  });
  assert.equal(posted.url, "http://a.test/in");
  assert.match(new TextDecoder().decode(posted.html), /welcome/);
  assert.deepEqual(seen, [
    "POST user=me seen=1 http://a.test http://a.test/?private application/x-www-form-urlencoded",
    "GET seen=1; sid=7 undefined",
  ]);
  const long = await visit({ url: "http://a.test/long" });
  assert.equal(long.resources[0]?.body.length, 340_018);
  const missing = await visit({ url: "http://a.test/nowhere" });
  assert.equal(missing.status, 404);
});

test("browser: https pages come with their certificates verified; what cannot be verified is named and left out", async () => {
  const place = PLACES.at(-1) ?? "plain";
  await using site = await TlsSite.start({
    "/": ["text/html", "<!doctype html><title>t</title><img src=a.svg><img src=https://other.test/a.svg>"],
    "/a.svg": ["image/svg+xml", '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'],
  });
  const { source } = (await loadPackage("browser")).package;
  await using bench = await GuestBench.open(place);
  const visit = async (url: string) => {
    await using guest = await bench.run("deno", source, {
      invocation: { args: [url, { pad: 0 }] },
      grant: { net: { allow: ["*:443"], connections: 32, bytes: 1e9 }, syscalls: ["loopback"] } as never,
      services: {
        net: {
          connect: async () => connect(site.port, "127.0.0.1"),
          [Symbol.asyncDispose]: () => Promise.resolve(),
        },
      },
    });
    const output = async function* () {
      for (let message = await guest.next(); message; message = await guest.next()) yield message;
    };
    return await receivePage(output());
  };
  // Both names lead to one server; its certificate, which this guest trusts, is for the first alone.
  const good = await visit("https://site.test/");
  assert.equal(good.status, 200);
  assert.ok(good.verified);
  assert.deepEqual(
    good.resources.map(({ url }) => url),
    ["https://site.test/", "https://site.test/a.svg"],
  );
  const [failure, ...others] = good.failures;
  assert.deepEqual(others, []);
  assert.equal(failure?.url, "https://other.test/a.svg");
  assert.match(failure?.detail ?? "", /certificate/);
  const bad = await visit("https://other.test/");
  assert.equal(bad.url, undefined, "no page");
  assert.deepEqual(
    bad.failures.map(({ url }) => url),
    ["https://other.test/"],
  );
  assert.match(bad.failures[0]?.detail ?? "", /certificate/);
  assert.equal(site.requests, 2, "nothing was asked over a connection that was not verified");
});

/** A site with the certificate of site.test, whatever name it is called by. */
class TlsSite implements AsyncDisposable {
  readonly #server: Server;
  requests = 0;

  private constructor(server: Server) {
    this.#server = server;
    server.on("request", () => this.requests++);
  }

  static async start(routes: Readonly<Record<string, readonly [string, string]>>): Promise<TlsSite> {
    const server = createServer({ key: SITE_KEY, cert: SITE_CERTIFICATE }, (request, response) => {
      const [type, body] = routes[request.url ?? ""] ?? ["text/plain", ""];
      response.setHeader("content-type", type).end(body);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new TlsSite(server);
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, "close");
  }
}
