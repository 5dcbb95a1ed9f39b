// `bento browse --serve` in a real Chromium: a person types, follows links, sends forms and goes back; pages come from
// the Browser function in a real sandbox. Without Tor: what is tested is at the two ends of the circuit.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { after, before, test } from "node:test";
import { type Browser, chromium, type Page as Tab } from "playwright-core";
import { LocalBox } from "../../src/bin/local-box.ts";
import { BrowseSession } from "../../src/client/browse/browse-session.ts";
import { loadBrowser } from "../../src/client/browse/browser-package.ts";
import { BoxClient, directDial } from "../../src/client/client.ts";
import { LocalPage } from "../../src/client/local-page/local-page-server.ts";
import { pageVisitor } from "../../src/client/local-page/page-visitor.ts";
import { BROWSE_DEFAULTS } from "../../src/wire/browse.ts";

const CHROMIUM = "/usr/bin/chromium";
const skip = existsSync(CHROMIUM) ? false : "chromium is not installed";
const ADDRESS = "127.9.8.1";
const WAIT = { timeout: 30_000 };

const HOME = `<!doctype html><title>Home</title><h1>Home</h1><a href="/second">second</a> <a href="#here">here</a>
  <form action="/find"><input name=q value="café"><button>find</button></form>
  <form action="/send" method=post><input name=word value=hush><button>send</button></form>
  <script>document.body.append("RAN"); fetch("http://${ADDRESS}/tracker")</script><img src=/pixel.svg>`;

/** Requests as the server saw them: method, path, cookie, body. */
const seen: string[] = [];
let server: Server;
let origin: string;
let box: LocalBox;
let client: BoxClient;
let session: BrowseSession;
let page: LocalPage;
let browser: Browser;
let tab: Tab;
/** What Chromium asked anybody for. */
const asked: string[] = [];

before(async () => {
  if (skip) return;
  server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on("data", (part: Buffer) => parts.push(part));
    request.on("end", () => {
      const { method, url = "/", headers } = request;
      seen.push(`${method} ${url} ${headers.cookie ?? "-"} ${Buffer.concat(parts).toString()}`.trim());
      response.setHeader("content-type", "text/html; charset=utf-8");
      if (url === "/send") response.writeHead(303, { location: "/second", "set-cookie": "sid=42" }).end();
      else if (url === "/") response.end(HOME);
      else response.end(`<!doctype html><title>x</title><p>at ${url}</p><a href="/">home</a>`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, ADDRESS, resolve));
  const bound = server.address();
  origin = `http://${ADDRESS}:${typeof bound === "object" ? bound?.port : 0}`;
  box = await LocalBox.start({ privateNetworks: ["127.9.8.0/24"] });
  client = new BoxClient({ address: box.address, dial: directDial });
  const { package: pack } = await loadBrowser({ urls: [new URL(origin)] });
  session = new BrowseSession({
    client,
    package: pack,
    settings: { ...BROWSE_DEFAULTS, shape: { kind: "none", pad: 16_384 } },
  });
  page = await LocalPage.start({
    port: 0,
    box: "the local box",
    software: "bento test",
    visitor: (linkTo) => pageVisitor(session, linkTo),
  });
  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });
  tab = await browser.newPage();
  tab.on("request", (request) => asked.push(request.url()));
});

after(async () => {
  if (skip) return;
  await browser?.close();
  await page?.[Symbol.asyncDispose]();
  await session?.close();
  client?.[Symbol.dispose]();
  await box?.[Symbol.asyncDispose]();
  server?.closeAllConnections();
  server?.close();
});

/** Waits until the tab shows the page of `address`, whole; its text. The page's policy lets nobody evaluate text in it. */
async function shown(address: string): Promise<string> {
  const bar = tab.locator("[name=url]");
  const save = tab.locator("a.save").first();
  await until(async () => (await bar.inputValue(WAIT)) === address && (await save.isVisible()));
  const frameNow = () => tab.frames().find((one) => /^http:\/\/s[0-9a-f]{24}\.localhost:/.test(one.url()));
  // The page stands in a frame on an origin of its own.
  await until(async () => frameNow() !== undefined);
  const frame = frameNow();
  assert.ok(frame);
  return await frame.locator("body").innerText(WAIT);
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  for (const deadlineMs = Date.now() + WAIT.timeout; !(await holds()); ) {
    if (Date.now() >= deadlineMs) {
      const [address, news] = [tab.locator("[name=url]").inputValue(), tab.locator("#text").textContent()];
      assert.fail(`it did not come in time: ${tab.url()}, ${await address}, ${await news}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function click(text: string): Promise<void> {
  await tab.frameLocator("#frame").getByText(text, { exact: true }).click(WAIT);
}

test("the local page: a visit, a link, forms with cookies, and the way back", {
  skip,
  timeout: 180_000,
}, async () => {
  await tab.goto(page.address(`${origin}/`));
  const home = await shown(`${origin}/`);
  assert.match(home, /^Home/);
  assert.doesNotMatch(home, /RAN/);
  await click("here");
  assert.equal(await shown(`${origin}/`), home, "a fragment stays in the frame");
  await click("second");
  assert.match(await shown(`${origin}/second`), /at \/second/);
  const before = seen.length;
  await tab.goBack({ waitUntil: "commit" });
  assert.equal(await shown(`${origin}/`), home);
  assert.equal(seen.length, before, "going back asks nobody");
  await click("find");
  assert.match(await shown(`${origin}/find?q=caf%C3%A9`), /at \/find/);
  await tab.goBack({ waitUntil: "commit" });
  await shown(`${origin}/`);
  await click("send");
  assert.match(await shown(`${origin}/second`), /at \/second/);
  await click("home");
  await shown(`${origin}/`);
  assert.deepEqual(
    seen.filter((line) => !line.includes("pixel")),
    [
      "GET / -",
      "GET /second -",
      "GET /find?q=caf%C3%A9 -",
      "POST /send - word=hush",
      "GET /second sid=42",
      "GET / sid=42",
    ],
  );
});

test("the local page: Chromium asked this machine's server and nobody else", { skip }, () => {
  const elsewhere = asked.filter(
    (url) => !/^(http:\/\/(127\.0\.0\.1|s[0-9a-f]{24}\.localhost):|data:)/.test(url),
  );
  assert.deepEqual(elsewhere, []);
  assert.ok(asked.length > 5);
});

test("the local page: what is typed is fetched; what is no page says so", {
  skip,
  timeout: 60_000,
}, async () => {
  await tab.fill("[name=url]", `${origin}/typed`);
  await tab.press("[name=url]", "Enter");
  assert.match(await shown(`${origin}/typed`), /at \/typed/);
  await tab.fill("[name=url]", "http://127.0.0.1:1/");
  await tab.press("[name=url]", "Enter");
  await tab.frameLocator("#frame").getByText("could not be fetched").waitFor(WAIT);
});
