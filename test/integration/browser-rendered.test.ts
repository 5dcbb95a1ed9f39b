// The rendered engine: pages as they stand after their scripts, in sessions with cookies and forms. Real Chromium in the
// real sandbox. The static engine on the same pages is the control: what it has cannot come from scripts.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { type Page, receivePage } from "../../src/client/digest/receive-page.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { CELL_BYTES } from "../../src/wire/browse.ts";
import { stripes } from "../sites/png.ts";
import { type Route, type Routes, WebServer } from "../sites/web-server.ts";
import { ownUids } from "../support/own-uids.ts";
import { differingShare } from "../support/pictures.ts";
import { startPaperRelay } from "../support/relay-control.ts";
import { RenderedSession, skipRendered, textOf } from "../support/rendered-session.ts";
import { SpawnedBox } from "../support/spawned-box.ts";
import { staticPage } from "../support/static-page.ts";
import { SITE_CERTIFICATE, SITE_KEY } from "../vectors/site-certificate.ts";
import { GuestBench } from "./guest-harness.ts";

const BENTO = fileURLToPath(new URL("../../bento", import.meta.url));

const html = (body: string): Route => ({ type: "text/html; charset=utf-8", body: `<!DOCTYPE html>${body}` });

/** A page of which the server sends a frame, and scripts make the rest in all the ways there are. */
const APP: Routes = {
  "/": html(`<html lang=en><head><title>App</title><link rel=stylesheet href=/app.css><style id=rules></style></head>
<body><noscript>Please switch on scripts</noscript><main id=root>Loading …</main><div id=first></div><div id=second></div>
<canvas id=c width=200 height=80></canvas><p><input id=text><input type=checkbox id=box><textarea id=area rows=1></textarea>
<select id=select><option>one<option>two</select></p><div style="height:1800px"></div><img id=late width=48 height=48 alt="">
<script src=/app.js></script></body></html>`),
  "/app.css": { type: "text/css", body: "body{font:16px sans-serif;margin:20px}h1{color:#064}" },
  "/app.js": {
    type: "text/javascript",
    body:
      `
const response = await fetch("/data.json");
const { items } = await response.json();
root.innerHTML = "<h1>Made by script</h1><ul>" + items.map((item) => "<li>" + item).join("") + "</ul><img src=/made.png>";
rules.sheet.insertRule("li { background: rgb(200, 220, 255); padding: 4px; }");
const sheet = new CSSStyleSheet(); sheet.replaceSync("ul { border: 3px solid rgb(90, 0, 90); }");
document.adoptedStyleSheets = [sheet];
first.attachShadow({ mode: "open" }).innerHTML = "<style>p{color:rgb(160,0,0)}</style><p>In an open root</p>";
second.attachShadow({ mode: "closed" }).innerHTML = "<p style='background:gold'>In a closed root</p>";
const draw = c.getContext("2d"); draw.fillStyle = "rgb(0,120,60)"; draw.fillRect(10, 10, 120, 50);
text.value = "typed"; box.checked = true; area.value = "written"; select.selectedIndex = 1;
const blob = await (await fetch("/blob.png")).blob();
const picture = new Image(); picture.src = URL.createObjectURL(blob); root.append(picture);
new IntersectionObserver(([entry]) => { if (entry.isIntersecting) late.src = "/late.png"; }).observe(late);
`.replace(/^/, "(async()=>{") + "})()",
  },
  "/data.json": { type: "application/json", body: JSON.stringify({ items: ["first", "second", "third"] }) },
  "/made.png": { type: "image/png", body: stripes(64, 32, 0xdd2222, 0xffdddd) },
  "/blob.png": { type: "image/png", body: stripes(40, 40, 0x22aa22, 0xddffdd) },
  "/late.png": { type: "image/png", body: stripes(48, 48, 0x2222dd, 0xddddff) },
};

const SHOP: Routes = {
  "/login": (_request, response) => {
    response.writeHead(302, {
      location: "/who?",
      "set-cookie": ["lax=1; SameSite=Lax; Path=/", "strict=1; SameSite=Strict; Path=/"],
    });
    response.end();
  },
  "/who?": (request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const { cookie = "none", referer = "none", origin = "none" } = request.headers;
      const seen = { method: request.method, cookie, referer, origin, type: request.headers["content-type"] };
      response.writeHead(200, { "content-type": "text/html" });
      response.end(`<pre>${JSON.stringify({ ...seen, body: Buffer.concat(chunks).toString("hex") })}</pre>`);
    });
  },
};

const FAULTS: Routes = {
  "/loop": html("<p>before the loop</p><script>addEventListener('load', () => { for (;;); })</script>"),
  "/poll": html("<p>polling</p><script>setInterval(() => fetch('/never'), 5)</script>"),
  "/never": () => undefined,
  "/hanging-part": html("<p>shown</p><link rel=stylesheet href=/never>"),
  "/dialogs": html(
    "<script>alert(1);document.write('<p>'+confirm('x')+prompt('y'));onbeforeunload=()=>'stay'</script>after",
  ),
  "/windows": html(
    "<script>open('/popup');for(let i=0;i<50;i++)open('about:blank');document.write('<p>'+(open('/popup2')===null))</script>",
  ),
  "/popup": html("popup"),
  "/download": {
    type: "application/octet-stream",
    body: "x".repeat(1000),
    headers: { "content-disposition": "attachment" },
  },
  "/downloads": html(
    "<a id=a href=/download download>x</a><script>for(let i=0;i<20;i++)a.click()</script><p>clicked",
  ),
  "/memory": html("<script>const all=[];for(;;)all.push(new Array(1e5).fill({}))</script>"),
  "/buffers": html(
    "<script>const all=[];for(;;){const b=new Uint8Array(1<<24);crypto.getRandomValues(b.subarray(0,65536));b.fill(1);all.push(b)}</script>",
  ),
  "/workers": html(
    "<script>for(let i=0;i<500;i++)new Worker(URL.createObjectURL(new Blob(['for(;;);'])))</script><p>workers",
  ),
  "/worker-page": html(
    "<script>navigator.serviceWorker?.register('/sw.js').then(()=>document.title='registered',e=>document.title='no')</script><p>page",
  ),
  "/sw.js": { type: "text/javascript", body: "onfetch=e=>e.respondWith(new Response('from the worker'))" },
  "/away": html("<script>location='/arrived'</script>"),
  "/arrived": html("<p>arrived</p>"),
  "/picture.png": { type: "image/png", body: stripes(32, 32, 1, 2) },
  "/missing-picture": html("<img src=/none.png><p>page"),
  "/latin": {
    type: "text/html; charset=iso-8859-1",
    body: Buffer.from("<!DOCTYPE html><link rel=stylesheet href=/latin.css><p>caf\xe9</p><i></i>", "latin1"),
  },
  "/latin.css": {
    type: "text/css; charset=iso-8859-1",
    body: Buffer.from("i::after{content:'na\xefve'}", "latin1"),
  },
};

describe("browser-rendered", { skip: skipRendered, timeout: 180_000 }, () => {
  let bench: GuestBench;
  let source: string;
  const servers: WebServer[] = [];
  const serve = async (routes: Routes) => {
    const server = await WebServer.start(routes);
    servers.push(server);
    return server;
  };
  before(async () => {
    ({ source } = (await loadPackage("browser-rendered")).package);
    bench = await GuestBench.open("sandbox", ["chromium"]);
  });
  after(async () => {
    await bench[Symbol.asyncDispose]();
    for (const server of servers) await server[Symbol.asyncDispose]();
  });

  test("a page that scripts make: whole in the rendered digest, not in the static one", async () => {
    const server = await serve(APP);
    await using session = await RenderedSession.start(bench, source, { "app.test": server });
    const page = await session.page("http://app.test/");
    const text = textOf(page);
    assert.ok(page.verified && page.status === 200);
    assert.deepEqual(page.failures, []);
    for (const made of [
      "Made by script",
      "<li>third",
      "In an open root",
      "In a closed root",
      "rgb(200, 220, 255)",
      "rgb(90, 0, 90)",
      'value="typed"',
      ">written</textarea>",
    ]) {
      assert.ok(text.includes(made), made);
    }
    assert.ok(!text.includes("switch on scripts") && !text.includes("blob:"));
    const urls = page.resources.map(({ url }) => url).sort();
    assert.deepEqual(urls, [
      "http://app.test/",
      "http://app.test/app.css",
      "http://app.test/late.png",
      "http://app.test/made.png",
    ]);
    const statically = await staticPage(`${server.origin}/`);
    assert.ok(statically.verified);
    assert.ok(!textOf(statically).includes("Made by script"), "the control has no scripts");
    await looksLike(`${server.origin}/`, page);
  });

  test("a session: cookies last, posts arrive as they are, and come from where they come from", async () => {
    const server = await serve(SHOP);
    const hosts = { "shop.test": server, "other.test": server };
    await using session = await RenderedSession.start(bench, source, hosts);
    const seen = async (...args: Parameters<RenderedSession["page"]>) => {
      const text = textOf(await session.page(...args)).replaceAll("&quot;", '"');
      return JSON.parse(/\{.*\}/.exec(text)?.[0] ?? "{}") as Record<string, string>;
    };
    const all = "lax=1; strict=1";
    assert.deepEqual(await seen("http://shop.test/login"), {
      method: "GET",
      cookie: all,
      referer: "none",
      origin: "none",
      body: "",
    });
    const followed = await seen("http://shop.test/who?a", { referrer: "http://shop.test/list?page=2" });
    assert.deepEqual([followed.cookie, followed.referer], [all, "http://shop.test/list?page=2"]);
    const body = {
      type: "multipart/form-data; boundary=x",
      bytes: Buffer.from("--x\r\n\xffdata\r\n--x--", "latin1"),
    };
    const posted = await seen("http://shop.test/who?b", {
      method: "POST",
      body,
      referrer: "http://shop.test/form",
    });
    assert.equal(posted.method, "POST");
    assert.equal(posted.type, body.type);
    assert.equal(posted.body, body.bytes.toString("hex"));
    assert.deepEqual([posted.cookie, posted.origin], [all, "http://shop.test"]);
    // A form of another site: the user's cookies do not go along (RFC 6265bis 5.6.7.2).
    const forged = await seen("http://shop.test/who?c", {
      method: "POST",
      body,
      referrer: "http://other.test/evil",
    });
    assert.deepEqual(
      [forged.method, forged.origin, forged.referer],
      ["POST", "http://other.test", "http://other.test/"],
    );
    assert.ok(!forged.cookie?.includes("strict"), forged.cookie);
    const linked = await seen("http://shop.test/who?d", { referrer: "http://other.test/" });
    assert.deepEqual([linked.cookie, linked.referer], ["lax=1", "http://other.test/"]);
    const unasked = server.requests.filter((request) => /list|form|evil|favicon/.test(request));
    assert.deepEqual(unasked, [], "pages that stand for a referrer are not fetched");
  });

  test("faults: each ends in an answer, and the next page is fine", async (context) => {
    const server = await serve(FAULTS);
    let secretRequests = 0;
    const secret = createServer({ cert: SITE_CERTIFICATE, key: SITE_KEY }, (_request, response) => {
      secretRequests++;
      response.end("<p>forged");
    });
    secret.listen(0, "127.3.0.1");
    await once(secret, "listening");
    context.after(() => secret.close());
    const origin = `https://127.3.0.1:${(secret.address() as AddressInfo).port}`;
    await using session = await RenderedSession.start(
      bench,
      source,
      { "f.test": server, "site.test:443": { origin } },
      { deadlineMs: 10_000 },
    );
    const get = async (path: string) => {
      const startMs = performance.now();
      const page = await session.page(`http://f.test${path}`);
      context.diagnostic(
        `${path}: ${Math.round(performance.now() - startMs)} ms ${page.failures[0]?.detail ?? ""}`,
      );
      assert.ok(page.verified, path);
      return page;
    };
    const shows = async (path: string, wanted: string) => {
      const page = await get(path);
      assert.ok(textOf(page).includes(wanted), `${path}: ${textOf(page).slice(-300)}`);
      return page;
    };
    await shows("/dialogs", "falsenull");
    await shows("/windows", "true");
    assert.ok(!server.requests.some((request) => request.includes("popup")), "no window has opened");
    await shows("/downloads", "clicked");
    assert.equal((await get("/download")).failures[0]?.reason, "bad-type");
    await shows("/away", "<p>arrived");
    assert.ok(textOf(await shows("/latin", "café")).includes("naïve"));
    assert.equal((await get("/picture.png")).resources[0]?.type, "image/png");
    assert.equal((await get("/missing-picture")).failures[0]?.reason, "http-status");
    await shows("/worker-page", "page");
    await shows("/worker-page", "page");
    assert.equal((await get("/none")).status, 404);
    const forged = await session.page("https://site.test/");
    assert.deepEqual([forged.url, forged.failures[0]?.detail], [undefined, "ERR_CERT_AUTHORITY_INVALID"]);
    assert.equal(secretRequests, 0, "nothing is asked of who cannot show who it is");
    for (const url of ["http://elsewhere.test/", "http://127.0.0.1/", "http://[::1]:8080/"]) {
      const page = await session.page(url);
      assert.deepEqual([page.url, page.failures[0]?.reason], [undefined, "network"], url);
    }
    assert.ok(
      session.asked.includes("127.0.0.1:80") && session.asked.includes("::1:8080"),
      "the box has decided",
    );
  });

  test("pages without end: none takes the next one's time, memory or processes", async (context) => {
    const server = await serve(FAULTS);
    await using session = await RenderedSession.start(
      bench,
      source,
      { "f.test": server },
      { deadlineMs: 1_500 },
    );
    for (const path of ["/loop", "/memory", "/buffers", "/workers"]) {
      const startMs = performance.now();
      const stuck = await session.page(`http://f.test${path}`);
      const stuckMs = performance.now() - startMs;
      assert.ok(stuck.verified, path);
      const next = await session.page("http://f.test/arrived");
      context.diagnostic(
        `${path}: ${Math.round(stuckMs)} ms ${stuck.failures[0]?.detail ?? "shown"}, next ${Math.round(performance.now() - startMs - stuckMs)} ms`,
      );
      assert.ok(textOf(next).includes("<p>arrived"), `after ${path}: ${next.failures[0]?.detail}`);
    }
  });

  test("shaped answers: a page and an error have the same size", async () => {
    const server = await serve(FAULTS);
    const bytes = [256 * CELL_BYTES];
    const shape = { kind: "bucket", bytes, rate: 524_288 };
    await using session = await RenderedSession.start(bench, source, { "f.test": server }, { shape });
    const urls = ["http://f.test/arrived", "http://refused.test/"];
    const messages = await session.messages(urls);
    assert.ok(messages.every((message) => message.length === CELL_BYTES));
    assert.equal(messages.length, 256 * urls.length);
    const first = await receivePage(
      (async function* () {
        yield* messages.slice(0, 256);
      })(),
    );
    assert.ok(first.verified && textOf(first).includes("<p>arrived"), "the content is in it");
  });

  test("bento browse --engine rendered: at a box that offers it; another one says that it does not", async () => {
    const server = await serve(APP);
    const relay = await startPaperRelay({ exit: ["accept *:*"], orListeners: [] });
    const dir = await mkdtemp(join(tmpdir(), "bento-rendered-"));
    const toml = (policy: string, limits: string) => `[relay]
control = "${relay.control}"
[policy]
${policy}
[policy.net]
private_networks_allowed = ["127.3.0.0/16"]
[policy.function]
${limits}
[warm]
deno = 0
python = 0
`;
    const run = async (box: SpawnedBox, file: string) => {
      const args = ["browse", `${server.origin}/`, "--engine", "rendered", "--shape", "none", "--direct"];
      const child = spawn(BENTO, [...args, "--box", `127.0.0.1:${box.client.port}`, "-o", file], {
        env: { PATH: process.env["PATH"], HOME: dir, XDG_STATE_HOME: dir },
        timeout: 60_000,
      });
      let err = "";
      child.stderr.on("data", (chunk: Buffer) => (err += chunk.toString()));
      const [code] = (await once(child, "close")) as [number | null];
      return { code, err };
    };
    try {
      await using offering = await SpawnedBox.start(join(dir, "a"), {
        uids: ownUids(20, 100),
        toml: toml('images = ["chromium"]', 'memory = "512MiB"\npids = 200\ntmp = "128MiB"'),
      });
      const file = join(dir, "page.html");
      const { code, err } = await run(offering, file);
      assert.equal(code, 0, err + offering.log.slice(-2000));
      assert.match(await readFile(file, "utf8"), /Made by script/);
      await using other = await SpawnedBox.start(join(dir, "b"), {
        uids: ownUids(20, 200),
        toml: toml('images = ["deno"]', ""),
      });
      const refused = await run(other, file);
      assert.notEqual(refused.code, 0);
      assert.match(refused.err, /image/);
      assert.match(refused.err, /chromium/);
      assert.match(refused.err, /512 MiB/);
    } finally {
      await relay[Symbol.asyncDispose]();
      await rm(dir, { recursive: true, force: true });
    }
  });
});

/** The digest without scripts against the original with them, in another Chromium. */
async function looksLike(original: string, page: Page): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "bento-rendered-"));
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars"],
  });
  try {
    const file = join(dir, "page.html");
    await writeFile(file, page.html);
    const shots: Buffer[] = [];
    for (const [url, javaScriptEnabled] of [
      [original, true],
      [`file://${file}`, false],
    ] as const) {
      const tab = await browser.newPage({ javaScriptEnabled, viewport: { width: 1280, height: 800 } });
      await tab.goto(url, { waitUntil: "load" });
      if (javaScriptEnabled) {
        await tab.evaluate("scrollTo(0, 9999)");
        await tab.waitForFunction(
          "late.complete && late.src !== '' && document.querySelector('img[src^=blob]')?.complete",
        );
        await tab.evaluate("scrollTo(0, 0)");
      }
      shots.push(await tab.screenshot({ fullPage: true, animations: "disabled" }));
      await tab.close();
    }
    const [first, second] = shots;
    assert.ok(first && second);
    const share = differingShare(first, second);
    if (process.env["BENTO_SCREENSHOTS"]) {
      await writeFile(join(process.env["BENTO_SCREENSHOTS"], "rendered-original.png"), first);
      await writeFile(join(process.env["BENTO_SCREENSHOTS"], "rendered-digest.png"), second);
    }
    assert.ok(share < 0.001, `${(share * 100).toFixed(2)} % of the pixels differ`);
  } finally {
    await browser.close();
    await rm(dir, { recursive: true, force: true });
  }
}
