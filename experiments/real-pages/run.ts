// Browser on real pages with several files each, over a private Tor network with delay on its links: does the page look
// as it does without scripts, does it ask for anything when opened, and is it there sooner than when a
// browser fetches it with all its parts through the same Tor network? `experiments/real-pages/run` starts it.

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { startNetwork, stopNetwork } from "../../src/bin/local-network.ts";
import { BoxClient, newIsolation, torDial } from "../../src/client/client.ts";
import { type Page, receivePage } from "../../src/client/digest/receive-page.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { type ChosenPage, choosePages } from "./choose-pages.ts";
import { DocServer } from "./doc-server.ts";
import { CountingProxy, differingShare, launch, load } from "./screenshots.ts";

const LATENCY_MS = 20;
const PER_PACKAGE = 3;
const RESOURCES_MIN = 2;

interface Result extends ChosenPage {
  readonly differingShare: number;
  readonly requestsWhenOpened: number;
  /** Until everything of the page is here: milliseconds. */
  readonly browserMs: number;
  /** Until Chromium's load event through Tor, scripts off: milliseconds. */
  readonly plainMs: number;
  readonly contentBytes: number;
  readonly failures: number;
}

const packages = process.argv.slice(2);
const results = await measure(
  await choosePages(packages, { perPackage: PER_PACKAGE, resourcesMin: RESOURCES_MIN }),
);
await report(results);

async function measure(pages: readonly ChosenPage[]): Promise<Result[]> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-real-pages-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(dir, { recursive: true, force: true }));
  undo.defer(() => stopNetwork(dir));
  const net = await startNetwork({ dir, boxes: 1, latencyMs: LATENCY_MS, detached: false });
  const [box] = net.boxes;
  if (!box) throw new Error("no box");
  const server = undo.use(await DocServer.start(net.testnet.plan.webAddress));
  const counting = undo.use(await CountingProxy.start(server.origin));
  const quiet = await launch(counting.url);
  undo.defer(() => quiet.close());
  const throughTor = await launch(`socks5://${net.socks}`);
  undo.defer(() => throughTor.close());
  using client = new BoxClient({
    address: box.address,
    dial: torDial(net.testnet.socksTcp()),
    isolation: newIsolation(),
  });
  const visit = await visitor(client, server.origin);
  // Circuits of both ways are there before anything is measured.
  const [first] = pages;
  if (first) {
    await visit(`${server.origin}${first.path}`);
    await load(throughTor, `${server.origin}${first.path}`);
  }
  const results: Result[] = [];
  for (const [index, page] of pages.entries()) {
    const url = `${server.origin}${page.path}`;
    // In turn, and in turn first.
    const plainFirst = index % 2 === 0 ? await load(throughTor, url) : undefined;
    const startMs = performance.now();
    const { received, completeMs } = await visit(url);
    const plain = plainFirst ?? (await load(throughTor, url));
    const file = path.join(dir, "page.html");
    await writeFile(file, received.html);
    const original = await load(quiet, url);
    const seen = counting.requests.length;
    const written = await load(quiet, `file://${file}`);
    const share = await differingShare(quiet, original.png, written.png);
    results.push({
      ...page,
      differingShare: share,
      requestsWhenOpened: counting.requests.length - seen,
      browserMs: completeMs - startMs,
      plainMs: plain.loadMs,
      contentBytes: received.contentBytes,
      failures: received.failures.length,
    });
    process.stderr.write(
      `${index + 1}/${pages.length} ${page.path}: ${(100 * share).toFixed(2)} % differ, ` +
        `${Math.round(completeMs - startMs)} ms against ${Math.round(plain.loadMs)} ms\n`,
    );
    const keep = process.env["BENTO_SCREENSHOTS"];
    if (keep) {
      await mkdir(keep, { recursive: true });
      await writeFile(path.join(keep, `${index}-original.png`), original.png);
      await writeFile(path.join(keep, `${index}-digest.png`), written.png);
    }
  }
  return results;
}

/** Visits with the Browser function, installed once. */
async function visitor(client: BoxClient, origin: string) {
  const { package: pack } = await loadPackage("browser");
  const { port } = new URL(origin);
  const net = { ...pack.manifest.net, allow: [`*:${port}`] };
  const { invocationToken } = await client.store({ ...pack, manifest: { ...pack.manifest, net } });
  return async (url: string): Promise<{ received: Page; completeMs: number }> => {
    let completeMs = 0;
    await using session = await client.run(
      { token: invocationToken },
      { args: [url, { pad: 0 }] },
      { endInput: true },
    );
    const output = (async function* () {
      for await (const { bytes } of session.chunks()) yield bytes;
    })();
    const received = await receivePage(output, {
      onShowable: (_html, stage) => {
        if (stage === "complete") completeMs = performance.now();
      },
    });
    return { received, completeMs };
  };
}

async function report(results: readonly Result[]): Promise<void> {
  const shares = results.map((result) => result.differingShare).sort((a, b) => a - b);
  const ratios = results.map((result) => result.browserMs / result.plainMs).sort((a, b) => a - b);
  const at = (sorted: readonly number[], share: number) =>
    sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
  const summary = {
    date: new Date().toISOString().slice(0, 10),
    pages: results.length,
    latencyMs: LATENCY_MS,
    differingShare: { median: at(shares, 0.5), p90: at(shares, 0.9), most: shares.at(-1) },
    below1Percent: shares.filter((share) => share < 0.01).length,
    requestsWhenOpened: results.reduce((sum, result) => sum + result.requestsWhenOpened, 0),
    timeRatio: { median: at(ratios, 0.5), p90: at(ratios, 0.9), most: ratios.at(-1) },
    faster: ratios.filter((ratio) => ratio < 1).length,
  };
  const file = new URL("results.json", import.meta.url);
  await writeFile(file, `${JSON.stringify({ summary, results }, null, 2)}\n`);
  process.stdout.write(`${JSON.stringify(summary, null, 2)}\n`);
}
