// What the page writer makes, in a real Chromium: looks like the original without scripts, and asks the network for
// nothing. A proxy counts requests; the original through the same proxy shows that it would see them.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Browser } from "playwright-core";
import { CHROMIUM, launchChromium } from "../../src/bin/bench/support/chromium.ts";
import { writePage } from "../../src/client/digest/page-writer.ts";
import { HOSTILE_PAGES } from "../sites/hostile.ts";
import { SITES } from "../sites/sites.ts";
import { WebServer } from "../sites/web-server.ts";
import { CountingProxy, pictureOf } from "../support/page-pictures.ts";
import { differingShare } from "../support/pictures.ts";
import { staticPage } from "../support/static-page.ts";

const skip = existsSync(CHROMIUM) ? false : "chromium is not installed";

let dir: string;
let browser: Browser;
let proxy: CountingProxy;

before(async () => {
  if (skip) return;
  dir = await mkdtemp(join(tmpdir(), "bento-browser-"));
  proxy = await CountingProxy.start({ host: "127.3.0.2", prefix: "http://127.3." });
  browser = await launchChromium(proxy.url);
});

after(async () => {
  if (skip) return;
  await browser.close();
  await proxy[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

/** The goal is 1 % at the median of real pages; on these small ones a missing icon must be noticed. */
const DIFFERING_SHARE_MAX = 0.001;

/** Set to keep the screenshots for a look. */
const shotDir = process.env["BENTO_SCREENSHOTS"];

for (const [name, routes] of Object.entries(SITES)) {
  test(`writePage: ${name} looks like the original and makes no request`, {
    skip,
    timeout: 60_000,
  }, async (context) => {
    await using site = await WebServer.start(routes);
    const page = await staticPage(`${site.origin}/`);
    assert.ok(page.verified);
    const countBefore = proxy.requests.length;
    const original = await pictureOf(browser, `${site.origin}/`);
    assert.ok(proxy.requests.length > countBefore, "the original makes requests");
    const seen = proxy.requests.length;
    const file = join(dir, `${name}.html`);
    await writeFile(file, page.html);
    const written = await pictureOf(browser, `file://${file}`);
    assert.deepEqual(proxy.requests.slice(seen), []);
    if (shotDir) {
      await mkdir(shotDir, { recursive: true });
      await writeFile(join(shotDir, `${name}-original.png`), original);
      await writeFile(join(shotDir, `${name}-digest.png`), written);
    }
    const share = differingShare(original, written);
    context.diagnostic(`${(share * 100).toFixed(3)} % of the pixels differ`);
    assert.ok(share < DIFFERING_SHARE_MAX, `${(share * 100).toFixed(2)} % of the pixels differ`);
  });
}

for (const [name, html] of Object.entries(HOSTILE_PAGES)) {
  test(`writePage: hostile page "${name}" neither runs nor asks`, { skip, timeout: 60_000 }, async () => {
    const body = new TextEncoder().encode(html);
    const url = "http://origin.test/";
    const written = writePage({
      page: { kind: "page", url, finalUrl: url, status: 200, type: "text/html; charset=utf-8", body },
      resources: new Map(),
      failures: [],
      receivedAtMs: 0,
    });
    const text = new TextDecoder().decode(written);
    await checkHarmless(text);
    // The policy is a second fence: the first must hold alone.
    const bare = text.replace(/<meta http-equiv="Content-Security-Policy"[^>]*>/, "");
    assert.notEqual(bare, text);
    await checkHarmless(bare);
  });
}

test("hostile pages: would run and ask if they were opened as they are", {
  skip,
  timeout: 60_000,
}, async () => {
  const page = HOSTILE_PAGES["scripts"] + (HOSTILE_PAGES["images"] ?? "");
  await assert.rejects(checkHarmless(page));
});

async function checkHarmless(html: string): Promise<void> {
  const file = join(dir, "hostile.html");
  await writeFile(file, html);
  const seen = proxy.requests.length;
  const tab = await browser.newPage();
  try {
    // Scripts are on: it is the page that must not have any.
    await tab.goto(`file://${file}`, { waitUntil: "load" });
    await tab.mouse.move(20, 20);
    const ran = await tab.evaluate("globalThis.ran === true");
    assert.deepEqual([proxy.requests.slice(seen), ran], [[], false]);
  } finally {
    await tab.close();
  }
}
