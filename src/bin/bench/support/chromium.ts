// Chromium as a reader without scripts has it: what Browser is compared with. It gets one proxy for everything, so that
// nothing of a page reaches a server by another way. Only benchmarks, experiments and tests start it.

import { existsSync } from "node:fs";
import type { Browser, Page as Tab } from "playwright-core";
import { BentoError } from "../../../base/errors.ts";

export const CHROMIUM = "/usr/bin/chromium";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--hide-scrollbars",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-features=OptimizationHints,MediaRouter",
];
/** A page that is not here by then failed. */
const PAGE_MS = 60_000;

/** Starts Chromium behind `proxy`, such as `socks5://127.0.0.1:9050`; close it. Throws BentoError "benchmark-failed". */
export async function launchChromium(proxy: string): Promise<Browser> {
  if (!existsSync(CHROMIUM)) {
    throw new BentoError("benchmark-failed", `Cannot start Chromium: there is no ${CHROMIUM}`, {
      advice: "Install it: apt-get install chromium",
    });
  }
  // Loaded only here: it takes longer than the list of benchmarks may.
  const { chromium } = await import("playwright-core");
  return await chromium.launch({
    executablePath: CHROMIUM,
    args: FLAGS,
    // Without "<-loopback>" Chromium goes to 127.0.0.0/8 by itself.
    proxy: { server: proxy, bypass: "<-loopback>" },
  });
}

/**
 * Opens `url` with nothing cached and scripts off, and passes the tab on when everything of it has loaded, with the
 * milliseconds that took. Throws what Chromium says of a page that cannot be had.
 */
export async function withPage<T>(
  browser: Browser,
  url: string,
  use: (tab: Tab, loadMs: number) => Promise<T> | T,
): Promise<T> {
  // A context of its own has a cache of its own.
  const context = await browser.newContext({
    javaScriptEnabled: false,
    viewport: { width: 1280, height: 800 },
  });
  try {
    const tab = await context.newPage();
    const startMs = performance.now();
    await tab.goto(url, { waitUntil: "load", timeout: PAGE_MS });
    return await use(tab, performance.now() - startMs);
  } finally {
    await context.close();
  }
}
