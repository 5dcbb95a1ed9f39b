// Browser on real pages with several files each, over a private Tor network with delay on its links: does the page look
// as it does without scripts, does it ask for anything when opened, and is it there sooner than when a browser fetches it
// with all its parts through the same Tor network? `experiments/real-pages/run` starts it; README.md says what came out.

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { cpus, loadavg, tmpdir } from "node:os";
import path from "node:path";
import { messageOf } from "../../src/base/errors.ts";
import { percentile } from "../../src/bin/bench/benchmark.ts";
import { launchChromium, withPage } from "../../src/bin/bench/support/chromium.ts";
import { startNetwork, stopNetwork } from "../../src/bin/local-network.ts";
import { BoxClient, newIsolation, torDial } from "../../src/client/client.ts";
import { CountingProxy } from "../../test/support/page-pictures.ts";
import { type ChosenPage, choosePages } from "./choose-pages.ts";
import { DocServer } from "./doc-server.ts";
import { type Bench, measurePage, type PageResult, ROUNDS, SHAPED, visit } from "./measure-page.ts";

const LATENCY_MS = 25;
const PER_PACKAGE = 2;
const RESOURCES_MIN = 2;
/** Circuits to the exit may not be there at once. */
const WARM_UP_TRIES = 5;

const pages = await choosePages(process.argv.slice(2), {
  perPackage: PER_PACKAGE,
  resourcesMin: RESOURCES_MIN,
});
const loadBefore = loadavg();
await report(await measureAll(pages));

async function measureAll(chosen: readonly ChosenPage[]): Promise<PageResult[]> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-real-pages-"));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(dir, { recursive: true, force: true }));
  undo.defer(() => stopNetwork(dir));
  const net = await startNetwork({ dir, boxes: 1, latencyMs: LATENCY_MS, detached: false });
  const [box] = net.boxes;
  if (!box) throw new Error("no box");
  const { origin } = undo.use(await DocServer.start(net.testnet.plan.webAddress));
  const counting = undo.use(await CountingProxy.start({ host: "127.0.0.1", prefix: `${origin}/` }));
  const quiet = await launchChromium(counting.url);
  undo.defer(() => quiet.close());
  const throughTor = await launchChromium(`socks5://${net.socks}`);
  undo.defer(() => throughTor.close());
  using client = new BoxClient({
    address: box.address,
    dial: torDial(net.testnet.socksTcp()),
    isolation: newIsolation(),
  });
  const bench = { client, origin, throughTor, quiet, counting, dir };
  await warmUp(bench, chosen[0]);
  const keepDir = process.env["BENTO_SCREENSHOTS"];
  if (keepDir !== undefined) await mkdir(keepDir, { recursive: true });
  const results: PageResult[] = [];
  for (const [index, page] of chosen.entries()) {
    const keep = keepDir === undefined ? undefined : { dir: keepDir, name: String(index) };
    const result = await measurePage({ ...bench, keep }, page);
    results.push(result);
    process.stderr.write(`${index + 1}/${chosen.length} ${line(result)}\n`);
  }
  return results;
}

/** Circuits of both ways are there before anything is measured. */
async function warmUp({ client, origin, throughTor }: Omit<Bench, "keep">, page?: ChosenPage): Promise<void> {
  if (!page) throw new Error("none of the packages has a page with parts");
  const url = `${origin}${page.path}`;
  await visit(client, url, { kind: "none", pad: 0 });
  for (let tries = 1; ; tries++) {
    try {
      await withPage(throughTor, url, () => undefined);
      return;
    } catch (error) {
      process.stderr.write(`not yet: ${messageOf(error).split("\n")[0]}\n`);
      if (tries === WARM_UP_TRIES) throw error;
    }
  }
}

function line({ path: page, differingShare, browserMs, plainMs, shaped, errors }: PageResult): string {
  const ms = (value: number | undefined) => (value === undefined ? "-" : String(Math.round(value)));
  const share = differingShare === undefined ? "-" : (100 * differingShare).toFixed(2);
  return `${page}: ${share} % differ, ${ms(browserMs)} ms against ${ms(plainMs)} ms, shaped ${ms(shaped?.completeMs)} of ${ms(shaped?.endMs)} ms ${errors.join("; ")}`;
}

async function report(results: readonly PageResult[]): Promise<void> {
  const shares = results.flatMap(({ differingShare: share }) => (share === undefined ? [] : [share]));
  const ratios = results.flatMap(({ browserMs, plainMs }) =>
    browserMs === undefined || plainMs === undefined ? [] : [browserMs / plainMs],
  );
  const opened = results.flatMap(({ requestsWhenOpened: count }) => (count === undefined ? [] : [count]));
  const spread = (of: readonly number[]) => ({
    median: percentile(of, 0.5),
    p90: percentile(of, 0.9),
    most: percentile(of, 1),
  });
  const load = (of: readonly number[]) => of.map((value) => Number(value.toFixed(1)));
  const summary = {
    date: new Date().toISOString().slice(0, 10),
    machine: `${cpus().length} cores of ${cpus()[0]?.model.trim()}`,
    loadAverage: { before: load(loadBefore), after: load(loadavg()) },
    latencyMsPerLink: LATENCY_MS,
    rounds: ROUNDS,
    packages: new Set(results.map((result) => result.package)).size,
    pages: results.length,
    pagesWithErrors: results.filter(({ errors }) => errors.length > 0).length,
    differingShare: { pages: shares.length, ...spread(shares) },
    below1Percent: shares.filter((share) => share < 0.01).length,
    requestsWhenOpened: { pages: opened.length, all: opened.reduce((sum, count) => sum + count, 0) },
    timeRatio: { pages: ratios.length, ...spread(ratios) },
    faster: ratios.filter((ratio) => ratio < 1).length,
    shaped: shapedBySize(results),
  };
  const file = new URL("results.json", import.meta.url);
  await writeFile(file, `${JSON.stringify({ summary, results }, null, 2)}\n`);
  process.stdout.write(`${JSON.stringify(summary, null, 2)}\n`);
}

/** What the default schedule costs, by the size of the answer. */
function shapedBySize(results: readonly PageResult[]) {
  return SHAPED.bytes.flatMap((size) => {
    const of = results.flatMap(({ shaped, browserMs }) =>
      shaped?.bytes === size && browserMs !== undefined ? [{ ...shaped, browserMs }] : [],
    );
    if (of.length === 0) return [];
    const middle = (numbers: readonly number[]) => Math.round(percentile(numbers, 0.5));
    return [
      {
        bytes: size,
        scheduleMs: Math.round((1000 * size) / SHAPED.rate),
        pages: of.length,
        endMs: middle(of.map(({ endMs }) => endMs)),
        completeMs: middle(of.map(({ completeMs }) => completeMs)),
        unshapedMs: middle(of.map(({ browserMs }) => browserMs)),
      },
    ];
  });
}
