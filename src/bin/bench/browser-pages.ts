// `bento bench browser-pages`: how long a page takes through the Browser function, against Chromium fetching it with all
// of its parts over the same Tor network, in turn. Both begin with circuits ready and nothing cached, neither runs
// scripts; Browser's time ends with the written page, Chromium's with its load event.

import { systemClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { BrowseSession } from "../../client/browse/browse-session.ts";
import { loadBrowser } from "../../client/browse/browser-package.ts";
import type { BoxClient } from "../../client/client.ts";
import { BROWSE_DEFAULTS } from "../../wire/browse.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { launchChromium, withPage } from "./support/chromium.ts";
import { type BenchPage, BenchPages } from "./support/pages.ts";
import { startTorNetwork } from "./support/tor-network.ts";

const LATENCY_MS = 25;
const WARM_UP = 1;
const SAMPLES = 5;
const TRIES_MAX = 5;
const SETTLE_MS = 500;
const RETRY_MS = 2000;

export const benchmark: Benchmark = {
  name: "browser-pages",
  description: "pages by the Browser function, against Chromium fetching them with all parts through Tor",
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  await using tor = await startTorNetwork(context, { latencyMs: LATENCY_MS });
  await using web = await BenchPages.start(tor.net.testnet.plan.webAddress);
  const chromium = await launchChromium(`socks5://${tor.net.socks}`);
  try {
    using client = tor.onionClient();
    const figures: Figure[] = [];
    for (const page of web.pages) {
      const { name, url, parts, bytes } = page;
      const taken = { browser: [] as number[], plain: [] as number[] };
      for (let round = 0; round < WARM_UP + SAMPLES; round++) {
        context.phase(`${name}: round ${round} of ${WARM_UP + SAMPLES}`);
        const browserMs = await succeeded(() => browse(client, page), context.signal);
        const plainMs = await succeeded(() => withPage(chromium, url, (_, ms) => ms), context.signal);
        if (round < WARM_UP) continue;
        taken.browser.push(browserMs);
        taken.plain.push(plainMs);
      }
      const [browserMs, plainMs] = [median(taken.browser), median(taken.plain)];
      const note = `${parts} parts, ${Math.round(bytes / 1024)} KiB in all, ${LATENCY_MS} ms a link, n ${SAMPLES}, median`;
      figures.push(
        { name: `${name}: browser`, value: browserMs, unit: "ms", note },
        { name: `${name}: plain fetch`, value: plainMs, unit: "ms" },
        {
          name: `${name}: browser / plain fetch`,
          value: (100 * browserMs) / plainMs,
          unit: "%",
          target: { most: 100 },
        },
      );
    }
    return figures;
  } finally {
    await chromium.close();
  }
}

/** Milliseconds, as `bento browse --shape none` does it: an instance for the page, whose code goes along. */
async function browse(client: BoxClient, { url, parts }: BenchPage): Promise<number> {
  const loaded = await loadedFor(url);
  const settings = { ...BROWSE_DEFAULTS, shape: { kind: "none", pad: 0 }, scripts: false } as const;
  // As Chromium has its tab before its time begins.
  const session = new BrowseSession({ client, package: loaded.package, settings });
  await systemClock.sleep(SETTLE_MS);
  const startMs = performance.now();
  const page = await session.visit({ url }, { last: true });
  const tookMs = performance.now() - startMs;
  // What ends, and the next warm guest that starts, is nobody's sample.
  await session.close();
  await systemClock.sleep(SETTLE_MS);
  // The page itself is the first.
  if (page.verified && page.resources.length === parts + 1) return tookMs;
  throw new BentoError(
    "benchmark-failed",
    `Cannot measure: found ${page.resources.length} files of ${url}, expected ${parts + 1}`,
  );
}

const loadedPackages = new Map<string, ReturnType<typeof loadBrowser>>();

/** Bundled once: a program that browses does that before there is a page to fetch. */
function loadedFor(url: string): ReturnType<typeof loadBrowser> {
  const { port } = new URL(url);
  const loaded = loadedPackages.get(port) ?? loadBrowser({ urls: [new URL(url)] });
  loadedPackages.set(port, loaded);
  return loaded;
}

/** The first try that succeeds: on a new network a stream may fail, to Chromium as to anybody. */
async function succeeded(load: () => Promise<number>, signal: AbortSignal): Promise<number> {
  for (let tries = 1; ; tries++) {
    signal.throwIfAborted();
    try {
      return await load();
    } catch (error) {
      if (tries === TRIES_MAX) throw error;
      // Tor gives a circuit up after a failure and needs another.
      await systemClock.sleep(RETRY_MS, signal);
    }
  }
}
