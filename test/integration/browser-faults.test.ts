// Browser against servers that redirect, compress, stall, lie and never end: the page always comes, as far as it can
// be had, and what is missing is named.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { suite, test } from "node:test";
import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";
import { browse } from "../../functions/browser/browse.ts";
import { BrowserLimits } from "../../functions/browser/limits.ts";
import { parseOptions } from "../../functions/browser/options.ts";
import { type Page, receivePage } from "../../src/client/digest/receive-page.ts";
import { noise, stripes } from "../sites/png.ts";
import { type Route, type Routes, WebServer } from "../sites/web-server.ts";

const PICTURE: Route = { type: "image/png", body: stripes(8, 8, 1, 2) };
const html = (body: string): Route => ({ type: "text/html; charset=utf-8", body: `<!DOCTYPE html>${body}` });
const redirect =
  (location: string, status = 302, headers: Record<string, string> = {}): Route =>
  (_request, response) => {
    response.writeHead(status, { location, ...headers }).end();
  };

interface Visited {
  readonly page: Page;
  readonly sizes: readonly number[];
}

/** Browser and the client's reader, joined: each piece is read before the next is sent. */
async function visit(url: string, options: object = {}): Promise<Visited> {
  const output: Uint8Array[] = [];
  const parsed = parseOptions(url, { deadlineMs: 30_000, ...options });
  const send = async (bytes: Uint8Array) => {
    output.push(Uint8Array.from(bytes));
  };
  await browse(parsed, { fetch, send, signal: new AbortController().signal });
  const page = await receivePage(
    (async function* () {
      yield* output;
    })(),
  );
  return { page, sizes: output.map((bytes) => bytes.length) };
}

/** Visits "/" of a site with these routes; what the site was asked for is in `requests`. */
async function visitSite(
  routes: Routes,
  options: object = {},
  path = "/",
): Promise<Visited & { requests: string[] }> {
  await using site = await WebServer.start(routes);
  const visited = await visit(`${site.origin}${path}`, options);
  return { ...visited, requests: site.requests };
}

const textOf = (page: Page) => new TextDecoder().decode(page.html);
const reasons = (page: Page) =>
  page.failures.map((one) => `${URL.parse(one.url)?.pathname ?? one.url} ${one.reason}`).sort();
const paths = (page: Page) => page.resources.map((one) => URL.parse(one.url)?.pathname ?? "").sort();

suite("browser", { concurrency: 4, timeout: 60_000 }, () => {
  test("browse: follows redirects, keeps cookies for the visit, records where it arrived", async () => {
    const { page, requests } = await visitSite({
      "/": redirect("/login", 301),
      "/login": redirect("/in/", 303, { "set-cookie": "sid=7; Path=/; HttpOnly" }),
      "/in/": (request, response) => {
        if (request.headers.cookie !== "sid=7") redirectTo(response, "/login");
        else response.setHeader("content-type", "text/html").end("<p>welcome<img src=a.png>");
      },
      "/in/a.png": redirect("/b.png", 307),
      "/b.png": PICTURE,
    });
    assert.match(textOf(page), /welcome/);
    assert.match(page.url ?? "", /\/in\/$/);
    assert.deepEqual(requests, ["GET /", "GET /login", "GET /in/", "GET /in/a.png", "GET /b.png"]);
    assert.match(page.resources[1]?.finalUrl ?? "", /\/b\.png$/);
    assert.match(textOf(page), /<img src="data:image\/png/);
  });

  test("browse: gives up on redirect loops and on redirects out of the web", async () => {
    const loop = await visitSite({ "/": redirect("/") });
    assert.deepEqual(reasons(loop.page), ["/ redirect"]);
    assert.match(textOf(loop.page), /could not be fetched/);
    assert.equal(loop.requests.length, BrowserLimits.redirectsMax + 1);
    const out = await visitSite({
      "/": html("<img src=a.png><img src=b.png>"),
      "/a.png": redirect("file:///etc/passwd"),
      "/b.png": redirect("data:image/png,x"),
    });
    assert.deepEqual(reasons(out.page), ["/a.png redirect", "/b.png redirect"]);
  });

  test("browse: follows a refresh that belongs to loading", async () => {
    const { page } = await visitSite({
      "/": html(`<noscript><meta http-equiv=refresh content="0; url='/plain'"></noscript>`),
      "/plain": html("<p>plain<meta http-equiv=refresh content=900>"),
    });
    assert.match(textOf(page), /plain/);
  });

  const long = (head: string, body: string): Route =>
    html(`<html><head>${head}</head><body>${"<p>of many words ".repeat(30_000)}${body}`);

  test("browse: of a long document a refresh counts in its head, of a short one anywhere", async () => {
    const refresh = `<meta http-equiv=refresh content="0; url='/plain'">`;
    const plain = html("<p>plain");
    const inHead = await visitSite({ "/": long(refresh, ""), "/plain": plain });
    assert.match(textOf(inHead.page), /plain/);
    const inShort = await visitSite({ "/": html(`<body><p>words${refresh}`), "/plain": plain });
    assert.match(textOf(inShort.page), /plain/);
    const inBody = await visitSite({ "/": long("", `<p>the end${refresh}`), "/plain": plain });
    assert.match(textOf(inBody.page), /the end/);
    assert.deepEqual(inBody.requests, ["GET /"]);
  });

  test("browse: what a long document names first is there before its end is read", async () => {
    const asked: string[] = [];
    const site: Record<string, Route> = {
      "/": long("<link rel=stylesheet href=a.css>", "<img src=last.png>"),
      "/a.css": { type: "text/css", body: "p { background: url(first.png) }" },
      "/first.png": PICTURE,
      "/last.png": PICTURE,
    };
    await using server = await WebServer.start(site);
    await browse(parseOptions(`${server.origin}/`, {}), {
      fetch: async (url, init) => {
        asked.push(new URL(new Request(url).url).pathname);
        return fetch(url, init);
      },
      // Nobody takes the document before its style sheet was asked for.
      send: async () => {
        while (!asked.includes("/a.css")) await new Promise((resolve) => setTimeout(resolve, 5));
      },
      signal: AbortSignal.timeout(20_000),
    });
    assert.deepEqual(asked, ["/", "/a.css", "/first.png", "/last.png"]);
  });

  test("browse: a base and characters that come late in a long document count for all of it", async () => {
    const style = "<style>@font-face { font-family: f; src: url(f.woff2); unicode-range: U+2602 }</style>";
    const { page } = await visitSite({
      "/": long(`<link rel=stylesheet href=a.css>${style}`, "<p>☂<base href=/in/>"),
      "/in/a.css": { type: "text/css", body: "p { color: red }" },
      "/in/f.woff2": { type: "font/woff2", body: Buffer.from("font") },
    });
    assert.deepEqual(paths(page), ["/", "/in/a.css", "/in/f.woff2"]);
    assert.match(textOf(page), /color: red/);
  });

  test("browse: reads encodings by mark, header, declaration and guess", async () => {
    const latin = (text: string) => Buffer.from(text, "latin1");
    const cases: readonly [string, Uint8Array, string][] = [
      ["text/html; charset=koi8-r", latin("\xf0\xf2\xe9\xf7\xe5\xf4"), "ПРИВЕТ"],
      ["text/html", latin("<meta charset=shift_jis>\x93\xfa\x96\x7b"), "日本"],
      ["text/html", latin("caf\xe9"), "café"],
      ["text/html", Buffer.from("café ☂"), "café ☂"],
      ["text/html", Buffer.from("\ufeffmark", "utf16le"), "mark"],
      [
        "text/html",
        latin(
          "<!-- <meta charset=koi8-r> --><meta http-equiv=Content-Type content='text/html; charset=gbk'>\xd6\xd0",
        ),
        "中",
      ],
      ["text/html; charset=no-such", Buffer.from("still ☂"), "still ☂"],
    ];
    for (const [type, body, expected] of cases) {
      const { page } = await visitSite({ "/": { type, body } });
      assert.ok(textOf(page).includes(expected), `${type} ${expected}`);
    }
  });

  test("browse: reads gzip, deflate and brotli", async () => {
    const packed = (encoding: string, body: Uint8Array): Route => ({
      type: "text/css",
      body,
      headers: { "content-encoding": encoding },
    });
    const { page } = await visitSite({
      "/": html("<link rel=stylesheet href=g><link rel=stylesheet href=d><link rel=stylesheet href=b>"),
      "/g": packed("gzip", gzipSync("p{--g:1}")),
      "/d": packed("deflate", deflateSync("p{--d:1}")),
      "/b": packed("br", brotliCompressSync("p{--b:1}")),
    });
    for (const name of ["g", "d", "b"]) assert.ok(textOf(page).includes(`--${name}:1`));
  });

  test("browse: delivers error pages with their status, lists missing parts", async () => {
    const { page } = await visitSite({ "/a.css": { type: "text/html", body: "<p>no" } }, {}, "/nothing");
    assert.equal(page.status, 404);
    assert.match(textOf(page), /404/);
    const parts = await visitSite({
      "/": html(
        "<link rel=stylesheet href=a.css><img src=b.png><script src=c.js></script><img src='http://127.3.0.9:1/'>",
      ),
      "/a.css": { type: "text/html", body: "<p>no" },
    });
    assert.deepEqual(reasons(parts.page), [
      "/ network",
      "/a.css bad-type",
      "/b.png http-status",
      "/c.js http-status",
    ]);
    assert.ok(parts.page.verified);
  });

  test("browse: a host that does not answer is a digest, padded", async () => {
    const { page, sizes } = await visit("http://127.3.0.9:1/", { pad: 4096 });
    assert.deepEqual(reasons(page), ["/ network"]);
    assert.equal(
      sizes.reduce((a, b) => a + b),
      4096,
    );
  });

  test("browse: dead, dripping and endless parts do not hold up the rest", async () => {
    const { page } = await visitSite(
      {
        "/": html("<script src=dead.js></script><img src=drip.png><img src=endless.png><img src=good.png>"),
        "/dead.js": () => undefined,
        "/drip.png": (_request, response) => {
          response.writeHead(200, { "content-type": "image/png" });
          const timer = setInterval(() => response.write("x"), 50);
          response.once("close", () => {
            clearInterval(timer);
          });
        },
        "/endless.png": endless,
        "/good.png": PICTURE,
      },
      { deadlineMs: 5000 },
    );
    assert.deepEqual(reasons(page), ["/dead.js deadline", "/drip.png deadline", "/endless.png too-large"]);
    assert.match(textOf(page), /<img src="data:image\/png/);
    assert.ok(page.verified);
  });

  test("browse: a silent server counts as dead long before the deadline", async () => {
    await using site = await WebServer.start({ "/": html("<img src=a.png>"), "/a.png": () => undefined });
    const { page } = await visit(`${site.origin}/`, { deadlineMs: 300_000 });
    assert.deepEqual(reasons(page), ["/a.png timeout"]);
  });

  test("browse: a page that stops in the middle is shown as far as it came", async () => {
    const { page } = await visitSite(
      {
        "/": (_request, response) => {
          response.writeHead(200, { "content-type": "text/html" });
          response.write(`<p>begun<img src=a.png>${" ".repeat(5000)}`);
        },
        "/a.png": PICTURE,
      },
      { deadlineMs: 1000 },
    );
    assert.match(textOf(page), /begun/);
    assert.ok(reasons(page).includes("/ truncated"));
  });

  test("browse: endless and exploding documents are cut at their limit", async () => {
    const bomb = gzipSync(Buffer.alloc(64 * 1024 * 1024, "<p>ha "));
    const { page } = await visitSite({
      "/": { type: "text/html", body: bomb, headers: { "content-encoding": "gzip" } },
    });
    assert.deepEqual(reasons(page), ["/ truncated"]);
    const body = page.resources[0]?.body.length ?? 0;
    assert.ok(body > 0 && body <= BrowserLimits.documentBytesMax);
  });

  test("browse: headers that drip and servers that speak no HTTP end in a failure", async () => {
    const server = createServer((socket) => {
      socket.on("error", () => undefined);
      socket.write("HTTP/1.1 200 OK\r\nx-slow: ");
      const timer = setInterval(() => socket.write("a"), 50);
      socket.once("close", () => {
        clearInterval(timer);
      });
    });
    server.listen(0, "127.3.0.1");
    await once(server, "listening");
    const address = server.address();
    assert.ok(address && typeof address === "object");
    const { page } = await visit(`http://127.3.0.1:${address.port}/`, { deadlineMs: 1000 });
    assert.deepEqual(reasons(page), ["/ deadline"]);
    server.close();
    await once(server, "close");
  });

  test("browse: @import cycles and chains end", async () => {
    const chain = Object.fromEntries(
      Array.from({ length: 20 }, (_, at) => [
        `/chain${at}.css`,
        { type: "text/css", body: `@import "chain${at + 1}.css"; p{--chain${at}:1}` },
      ]),
    );
    const { page, requests } = await visitSite({
      "/": html(`<link rel=stylesheet href=a.css><style>@import "chain0.css"</style>`),
      "/a.css": { type: "text/css", body: `@import "b.css"; @import "a.css"; p{--a:1}` },
      "/b.css": { type: "text/css", body: `@import "a.css"; p{--b:1}` },
      ...chain,
    });
    assert.equal(requests.filter((one) => /\/[ab]\.css/.test(one)).length, 2);
    assert.equal(requests.filter((one) => one.includes("chain")).length, BrowserLimits.importDepthMax);
    assert.match(textOf(page), /--b:1[\s\S]*--a:1/);
    assert.deepEqual(reasons(page), [`/chain${BrowserLimits.importDepthMax}.css too-many`]);
  });

  test("browse: thousands of parts are fetched up to the limit, a few at a time", async () => {
    let open = 0;
    let mostOpen = 0;
    const count = BrowserLimits.resourcesMax + 50;
    const picture: Route = (_request, response) => {
      mostOpen = Math.max(mostOpen, ++open);
      setImmediate(() => {
        open--;
        response.setHeader("content-type", "image/gif").end("GIF89a");
      });
    };
    const { page } = await visitSite({
      "/": html(Array.from({ length: count }, (_, at) => `<img src="i?${at}">`).join("")),
      "/i?": picture,
    });
    assert.equal(page.resources.length, 1 + BrowserLimits.resourcesMax);
    assert.deepEqual(new Set(reasons(page)), new Set(["/i too-many"]));
    assert.ok(mostOpen <= BrowserLimits.fetchesPerHostMax, `${mostOpen} at once`);
  });

  test("browse: takes no more than bytesMax of bodies", async () => {
    const body = noise(200, 200, 3);
    const pictures = Array.from(
      { length: 8 },
      (_, at) => [`/${at}.png`, { type: "image/png", body }] as const,
    );
    const { page } = await visitSite(
      {
        "/": html(pictures.map(([path]) => `<img src="${path}">`).join("")),
        ...Object.fromEntries(pictures),
      },
      { bytesMax: 3 * body.length },
    );
    const total = page.resources.reduce((sum, one) => sum + one.body.length, 0);
    assert.ok(total <= 3 * body.length && page.resources.length >= 2);
    assert.ok(page.failures.every((one) => one.reason === "too-large"));
  });

  test("browse: pads to the multiple exactly, for any page and multiple", async () => {
    await using site = await WebServer.start({
      "/": html("<p>small"),
      "/n": { type: "image/png", body: noise(60, 60, 5) },
    });
    for (const path of ["/", "/n", "/404"]) {
      for (const pad of [1, 7, 512, 1000, 65_536, 1_000_000]) {
        const { page, sizes } = await visit(`${site.origin}${path}`, { pad });
        const total = sizes.reduce((a, b) => a + b);
        assert.equal(total % pad, 0);
        assert.equal(page.contentBytes + page.paddingBytes, total);
        assert.ok(page.verified);
      }
    }
  });

  test("browse: fetches one format a font and only faces that the text needs", async () => {
    const font = { type: "font/woff2", body: "wOF2" };
    const { page } = await visitSite({
      "/": html(`<p>latin</p><style>
        @font-face{font-family:a;src:url(a.eot);src:url(a.eot?x) format("embedded-opentype"),url(a.woff) format("woff"),url(a.woff2) format("woff2")}
        @font-face{font-family:b;src:url(cyrillic.woff2);unicode-range:U+0400-04FF}
        @font-face{font-family:b;src:url(latin.woff2);unicode-range:U+0000-00FF,U+0131}
        @font-face{font-family:c;src:url(icons.woff2);unicode-range:U+F0??}</style>`),
      ...Object.fromEntries(
        ["/a.woff2", "/cyrillic.woff2", "/latin.woff2", "/icons.woff2"].map((path) => [path, font]),
      ),
    });
    assert.deepEqual(paths(page), ["/", "/a.woff2", "/icons.woff2", "/latin.woff2"]);
  });

  test("browse: leaves scripts out when asked, names frames and media", async () => {
    const routes = {
      "/": html(
        "<script src=a.js></script><iframe src=f.html></iframe><video src=v.mp4 poster=p.png></video>",
      ),
      "/a.js": { type: "text/javascript", body: "1" },
      "/p.png": PICTURE,
    };
    const all = await visitSite(routes);
    assert.deepEqual(paths(all.page), ["/", "/a.js", "/p.png"]);
    assert.deepEqual(reasons(all.page), ["/f.html not-fetched", "/v.mp4 not-fetched"]);
    const some = await visitSite(routes, { scripts: false });
    assert.deepEqual(paths(some.page), ["/", "/p.png"]);
  });

  test("browse: shows pictures and texts that are no pages", async () => {
    const picture = await visitSite({ "/": PICTURE });
    assert.match(textOf(picture.page), /<img src="data:image\/png/);
    const text = await visitSite({ "/": { type: "text/plain", body: "<b>plain" } });
    assert.match(textOf(text.page), /&lt;b&gt;plain/);
    const other = await visitSite({ "/": { type: "application/zip", body: "PK" } });
    assert.match(textOf(other.page), /application\/zip with 2 bytes/);
  });

  test("browse: documents made to be slow to parse are given up in time", async () => {
    const deep = "<div>".repeat(400_000);
    const attributes = `<p ${Array.from({ length: 50_000 }, (_, at) => `a${at}`).join(" ")}>`;
    const formatting = Array.from({ length: 40_000 }, (_, at) => `<b a=${at}><p>`).join("");
    for (const body of [deep, attributes, formatting]) {
      const { page } = await visitSite({ "/": html(`<p>begin${body}`) });
      assert.match(textOf(page), /begin/);
      assert.ok(page.verified);
    }
  });

  test("browse: the document leaves before slow parts have come", async () => {
    const held: (() => void)[] = [];
    const routes: Routes = {
      "/": html("<p>first<img src=slow.png>"),
      "/slow.png": (_request, response) => {
        held.push(() => {
          response.setHeader("content-type", "image/png").end(PICTURE_BYTES);
        });
      },
    };
    await using site = await WebServer.start(routes);
    const stages: string[] = [];
    const sent = new TransformStream<Uint8Array, Uint8Array>();
    const writer = sent.writable.getWriter();
    const received = receivePage(sent.readable, {
      onShowable: (page, stage) => {
        stages.push(`${stage} ${new TextDecoder().decode(page).includes("first")}`);
        // Only now may the picture come: the page was shown without.
        held.shift()?.();
      },
    });
    await browse(parseOptions(`${site.origin}/`, { pad: 10_000 }), {
      fetch,
      send: (bytes) => writer.write(Uint8Array.from(bytes)),
      signal: new AbortController().signal,
    });
    await writer.close();
    const page = await received;
    assert.deepEqual(stages, ["styled true", "complete true"]);
    assert.equal(page.failures.length, 0);
  });

  test("browse: a reader that stops reading stops the fetching, memory stays bounded", async () => {
    const body = noise(1200, 1000, 9);
    const pictures = Array.from(
      { length: 16 },
      (_, at) => [`/${at}.png`, { type: "image/png", body }] as const,
    );
    await using site = await WebServer.start({
      "/": html(pictures.map(([path]) => `<img src="${path}">`).join("")),
      ...Object.fromEntries(pictures),
    });
    const gate = Promise.withResolvers<void>();
    let sends = 0;
    const output: Uint8Array[] = [];
    const done = browse(parseOptions(`${site.origin}/`, { deadlineMs: 1000, bytesMax: 64 * 1024 * 1024 }), {
      fetch,
      send: async (bytes) => {
        // The first sends pass, then the reader stands still until it has waited longer than the deadline.
        if (++sends === 3) await gate.promise;
        output.push(Uint8Array.from(bytes));
      },
      signal: new AbortController().signal,
    });
    setTimeout(gate.resolve, 1500);
    await done;
    const page = await receivePage(
      (async function* () {
        yield* output;
      })(),
    );
    // 16 pictures of 3.6 MB are more than may be held: those that waited were not given up.
    assert.deepEqual(reasons(page), []);
    assert.equal(page.resources.length, 17);
  });

  test("parseOptions: refuses what is no web address and options out of range", () => {
    for (const url of ["ftp://a/", "file:///etc/passwd", "a", "http://u:p@a/", 7, undefined]) {
      assert.throws(() => parseOptions(url), /Cannot browse/);
    }
    for (const options of [
      { pad: -1 },
      { pad: 1.5 },
      { pad: 2 ** 40 },
      { deadlineMs: 1 },
      { nope: 1 },
      [],
      "x",
      { userAgent: "a\nb" },
    ]) {
      assert.throws(() => parseOptions("http://a/", options), /Cannot browse/);
    }
    assert.deepEqual(parseOptions("http://a/#b", 512).settings.shape, { kind: "none", pad: 512 });
    assert.equal(parseOptions("http://a/#b", 512).request.url.href, "http://a/");
  });
});

const PICTURE_BYTES = stripes(8, 8, 1, 2);

function redirectTo(
  response: Parameters<Extract<Route, (...args: never[]) => void>>[1],
  location: string,
): void {
  response.writeHead(302, { location }).end();
}

/** A body without an end, as fast as it is taken. */
const endless: Route = (_request, response) => {
  response.writeHead(200, { "content-type": "image/png" });
  const piece = Buffer.alloc(256 * 1024, 1);
  const more = () => {
    while (!response.destroyed && response.write(piece)) {
      /* until the buffer is full */
    }
  };
  response.on("drain", more);
  more();
};
