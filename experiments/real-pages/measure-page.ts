// One page: how it looks as the Browser function's digest, what that asks for when opened, and how long it takes next to
// a plain load. What fails is a result with its reason; the other measurements of the page go on.

import { writeFile } from "node:fs/promises";
import path from "node:path";
import type { Browser } from "playwright-core";
import { systemClock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import { median } from "../../src/bin/bench/benchmark.ts";
import { withPage } from "../../src/bin/bench/support/chromium.ts";
import { BrowseSession, type Visited } from "../../src/client/browse/browse-session.ts";
import { loadBrowser } from "../../src/client/browse/browser-package.ts";
import type { BoxClient } from "../../src/client/client.ts";
import { BROWSE_DEFAULTS, type Shape } from "../../src/wire/browse.ts";
import { bucketSet } from "../../src/wire/bucket-sets.ts";
import { type CountingProxy, pictureOf } from "../../test/support/page-pictures.ts";
import { differingShare } from "../../test/support/pictures.ts";
import type { ChosenPage } from "./choose-pages.ts";

export const ROUNDS = 3;
/** As in `bento bench browser-pages`. */
const SETTLE_MS = 500;
const PLAIN: Shape = { kind: "none", pad: 0 };
/** What `bento browse` does when it is told nothing. */
export const SHAPED = { kind: "bucket", bytes: bucketSet("standard"), rate: 524_288 } as const;

export interface Bench {
  readonly client: BoxClient;
  /** Of the pages' web server. */
  readonly origin: string;
  readonly throughTor: Browser;
  /** Behind `counting`, without Tor. */
  readonly quiet: Browser;
  readonly counting: CountingProxy;
  /** For files while a page is looked at. */
  readonly dir: string;
  /** Where pictures are kept, if anywhere. */
  readonly keep: { readonly dir: string; readonly name: string } | undefined;
}

/** Absent figures could not be measured; `errors` says why. Times are milliseconds. */
export interface PageResult extends ChosenPage {
  /** 0 to 1. */
  differingShare?: number;
  requestsWhenOpened?: number;
  /** Until the page with all its parts is a file here, without a schedule: median of ROUNDS. */
  browserMs?: number;
  /** Until Chromium's load event through the same Tor client, scripts off: median of ROUNDS. */
  plainMs?: number;
  contentBytes?: number;
  /** Parts that the box could not get, or that were too many. */
  failedParts?: number;
  /** The same page on the default schedule: until it is whole here, until its answer has ended, and at which size. */
  shaped?: { completeMs: number; endMs: number; bytes: number };
  errors: string[];
}

export async function measurePage(bench: Bench, page: ChosenPage): Promise<PageResult> {
  const url = `${bench.origin}${page.path}`;
  const result: PageResult = { ...page, errors: [] };
  const attempt = async (what: string, act: () => Promise<void>) => {
    try {
      await act();
    } catch (error) {
      // Chromium's messages go on with a log.
      result.errors.push(`${what}: ${messageOf(error).split("\n")[0]?.replace(bench.origin, "")}`);
    }
  };
  const times = { browser: [] as number[], plain: [] as number[] };
  let digest: Visited | undefined;
  for (let round = 0; round < ROUNDS; round++) {
    const ways = [
      () =>
        attempt("digest", async () => {
          const { visited, completeMs } = await visit(bench.client, url, PLAIN);
          times.browser.push(completeMs);
          digest = visited;
        }),
      () =>
        attempt("plain load", async () => {
          times.plain.push(await withPage(bench.throughTor, url, (_, loadMs) => loadMs));
        }),
    ];
    // Each goes first as often as the other.
    for (const way of round % 2 === 0 ? ways : ways.reverse()) await way();
  }
  if (times.browser.length > 0) result.browserMs = median(times.browser);
  if (times.plain.length > 0) result.plainMs = median(times.plain);
  if (digest) {
    const { html, contentBytes, failures } = digest;
    Object.assign(result, { contentBytes, failedParts: failures.length });
    await attempt("pictures", () => compareLooks(bench, url, html, result));
  }
  await attempt("shaped", async () => {
    const { visited, completeMs, endMs } = await visit(bench.client, url, SHAPED);
    if (!visited.isShaped) throw new Error("the answer has none of the sizes");
    result.shaped = { completeMs, endMs, bytes: visited.contentBytes + visited.paddingBytes };
  });
  return result;
}

/** One page through an instance of its own, as `bento browse` does it: the function goes along. */
export async function visit(client: BoxClient, url: string, shape: Shape) {
  const loaded = await loadBrowser({ urls: [new URL(url)] });
  let completeMs = Number.NaN;
  // As Chromium has its tab before its time begins.
  const session = new BrowseSession({
    client,
    package: loaded.package,
    settings: { ...BROWSE_DEFAULTS, shape, scripts: false },
  });
  // What still starts or ends, on both sides, is nobody's sample.
  await systemClock.sleep(SETTLE_MS);
  const startMs = performance.now();
  try {
    const visited = await session.visit(
      { url },
      {
        last: true,
        showsStyled: false,
        onShowable: () => {
          completeMs = performance.now() - startMs;
        },
      },
    );
    const endMs = performance.now() - startMs;
    if (!visited.verified || visited.url === undefined) {
      throw new Error(visited.failures[0]?.detail ?? "the digest is not whole");
    }
    return { visited, completeMs, endMs };
  } finally {
    await session.close();
  }
}

async function compareLooks(bench: Bench, url: string, html: Uint8Array, result: PageResult): Promise<void> {
  const { quiet, counting, keep } = bench;
  const file = path.join(bench.dir, "page.html");
  await writeFile(file, html);
  const before = counting.requests.length;
  const original = await pictureOf(quiet, url);
  if (counting.requests.length === before) throw new Error("the counting proxy does not count");
  const seen = counting.requests.length;
  const written = await pictureOf(quiet, `file://${file}`);
  result.requestsWhenOpened = counting.requests.length - seen;
  result.differingShare = differingShare(original, written);
  if (!keep) return;
  await writeFile(path.join(keep.dir, `${keep.name}-original.png`), original);
  await writeFile(path.join(keep.dir, `${keep.name}-digest.png`), written);
}
