// `bento browse URL`: the page with everything in it, fetched by the Browser function at a box, as one HTML file that
// makes no request when opened. Shown as soon as it is complete, while padding still flows. Ctrl-C stops waiting; the
// answer is read to its end all the same, so that leaving does not show on the link.

import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import type { Outcome } from "../../wire/api.ts";
import { BROWSE_DEFAULTS, type BrowseSettings, type Shape } from "../../wire/browse.ts";
import { BrowseSession, type Visited, type VisitProgress } from "../browse/browse-session.ts";
import { loadBrowser } from "../browse/browser-package.ts";
import { BoxClient, newIsolation } from "../client.ts";
import type { Page } from "../digest/receive-page.ts";
import { warcOf } from "../digest/warc.ts";
import { reportOutcome } from "./attached.ts";
import { explain, readPopulation, type ShapeOptions, shapeOf, webPopulation } from "./browse-shape.ts";
import { boxLabel, type Cli, chooseBox, manifestOf, type ReachOptions, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable } from "./io.ts";
import type { LaterOptions } from "./later.ts";
import { openAddress } from "./open-address.ts";
import { OutputFile } from "./output-file.ts";
import { formatSeconds, Progress } from "./progress.ts";

export interface BrowseOptions extends LaterOptions, ShapeOptions {
  readonly explain?: boolean | undefined;
  readonly scripts?: boolean | undefined;
  readonly output?: string | undefined;
  readonly open?: boolean | undefined;
  /** A page that was fetched meanwhile: its name, or a link. */
  readonly collect?: string | undefined;
  /** A web archive of the page. */
  readonly warc?: string | undefined;
  /** Serve a local page to browse with. */
  readonly serve?: boolean | undefined;
  readonly port?: number | undefined;
  readonly engine?: BrowseSettings["engine"] | undefined;
}

/** Names the program in archives. */
const SOFTWARE = "bento-tor";
/** Failed parts that are named; the rest is counted. */
const FAILURES_SHOWN = 5;

export async function browse(
  cli: Cli,
  address: string | undefined,
  options: BrowseOptions,
): Promise<ExitCode> {
  if (options.collect !== undefined) {
    if (address !== undefined || options.later)
      throw usage(
        "Cannot browse: --collect is for a page that was left earlier",
        "Leave out URL and --later.",
      );
    return (await import("./collect.ts")).collectPage(cli, options.collect, options);
  }
  const population =
    options.population === undefined ? webPopulation() : await readPopulation(cli, options.population);
  const shape = shapeOf(options, population);
  if (options.serve) {
    const { servePages } = await import("./serve-pages.ts");
    return await servePages(cli, address === undefined ? undefined : parseUrl(address), shape, options);
  }
  if (address === undefined) {
    if (!options.explain) throw usage("Cannot browse: no address", "bento browse https://…");
    const { lines, json } = explain(shape, population);
    cli.io.result(json, () => lines.join("\n"));
    return EXIT.ok;
  }
  const url = parseUrl(address);
  if (options.later) {
    if (options.output !== undefined || options.open)
      throw usage("Cannot write a page that is fetched later", "Give -o or --open to --collect.");
    return (await import("./later.ts")).browseLater(cli, url, shape, options);
  }
  await using warc = options.warc === undefined ? undefined : await OutputFile.open(options.warc);
  await using output = options.output === undefined ? undefined : await OutputFile.open(options.output);
  const deliveries: Promise<string | undefined>[] = [];
  const { page, outcome } = await fetchPage(cli, url, shape, {
    ...options,
    // An archive is as the page came.
    scripts: options.scripts ?? warc !== undefined,
    // As soon as it is whole; padding follows.
    onComplete: (html) => {
      const delivery = deliverEarly(cli, html, output, options);
      // Awaited below, when the answer has ended: until then a failure waits.
      delivery.catch(() => undefined);
      deliveries.push(delivery);
    },
  });
  if (!page) return outcome ? reportOutcome(cli, outcome) : EXIT.functionFailed;
  const file = (await deliveries[0]) ?? (await deliverRest(cli, page, output, options));
  if (warc && page.url !== undefined) {
    for await (const part of warcOf(page.resources, { receivedAtMs: Date.now(), software: SOFTWARE }))
      await warc.write(part);
  }
  report(cli, page, file);
  if (options.explain) {
    const { lines, json } = explain(shape, population, page.contentBytes);
    cli.io.event({ event: "explained", ...json });
    if (!cli.io.json) for (const line of lines) cli.io.note(line);
  }
  if (page.url === undefined) return EXIT.functionFailed;
  if (!page.isShaped) return EXIT.integrity;
  return page.verified ? EXIT.ok : EXIT.partial;
}

export interface FetchOptions extends ReachOptions {
  readonly scripts?: boolean | undefined;
  readonly engine?: BrowseSettings["engine"] | undefined;
  readonly onComplete?: ((html: Uint8Array) => void) | undefined;
}

/** One page through one instance of the Browser function, which is removed from the box afterwards. */
export async function fetchPage(
  cli: Cli,
  url: URL,
  shape: Shape,
  options: FetchOptions,
): Promise<{ page: Visited | undefined; outcome: Outcome | undefined }> {
  const loaded = await loadBrowser({ urls: [url], engine: options.engine });
  const reach = await chooseBox(cli, options, manifestOf(loaded));
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: newIsolation() });
  using progress = new Progress(cli.io, `Connecting to ${boxLabel(reach)}`);
  const { engine = BROWSE_DEFAULTS.engine, scripts = BROWSE_DEFAULTS.scripts } = options;
  const settings = { ...BROWSE_DEFAULTS, shape, engine, scripts };
  const session = new BrowseSession({ client, package: loaded.package, settings });
  let last: VisitProgress | undefined;
  try {
    const page = await session.visit(
      { url: url.href },
      {
        last: true,
        signal: cli.signal,
        onProgress: (now) => {
          last = now;
          showProgress(progress, now);
        },
        showsStyled: false,
        onShowable: (html, stage, isPage) => {
          if (stage === "complete" && isPage) options.onComplete?.(html);
        },
      },
    );
    return { page, outcome: await session.outcome() };
  } catch (error) {
    if (cli.signal.aborted) await leave(cli, session, shape, last);
    cli.signal.throwIfAborted();
    if (!(error instanceof BentoError) || error.code !== "session-ended") throw error;
    return { page: undefined, outcome: await session.outcome() };
  } finally {
    await session.close();
  }
}

/** After Ctrl-C: a shaped answer is read to its end, since breaking it off would show. */
async function leave(
  cli: Cli,
  session: BrowseSession,
  shape: Shape,
  last: VisitProgress | undefined,
): Promise<void> {
  if (shape.kind === "none") {
    await session.abandon();
    return;
  }
  const leftBytes = (last?.size ?? shape.bytes.at(-1) ?? 0) - (last?.bytes ?? 0);
  cli.io.note(
    `Stopped. The answer is still received, ${formatSeconds(leftBytes / shape.rate)} or a little more, so that leaving does not show on your link.`,
  );
  cli.io.note("  Ctrl-C again leaves at once.");
  await session.close();
}

function showProgress(progress: Progress, now: VisitProgress): void {
  const of = now.resourcesExpected === undefined ? "" : ` of ${now.resourcesExpected}`;
  progress.phase(now.isComplete ? "Page complete; padding:" : `Page and ${now.resources}${of} parts:`);
  if (now.size !== undefined) progress.update(now.bytes, now.size);
  else if (now.isComplete) progress.update(now.paddingBytes, now.paddingTotal);
  else progress.update(now.contentBytes);
}

/** A file or a window, as soon as the page is whole. */
async function deliverEarly(
  cli: Cli,
  html: Uint8Array,
  output: OutputFile | undefined,
  options: Pick<BrowseOptions, "output" | "open">,
): Promise<string | undefined> {
  if (output) {
    await output.write(html);
    return options.output;
  }
  return options.open ? openInBrowser(cli, html) : undefined;
}

/** What only the end of the answer decides: a page that stayed incomplete, and standard output. No page, no file. */
async function deliverRest(
  cli: Cli,
  page: Visited,
  output: OutputFile | undefined,
  options: BrowseOptions,
): Promise<string | undefined> {
  if (page.url === undefined) return undefined;
  if (!page.verified && (output || options.open)) return deliverEarly(cli, page.html, output, options);
  if (!output && !options.open && !cli.io.json) await cli.io.write(page.html);
  return undefined;
}

/** A page that is all there. */
export async function deliverPage(
  cli: Cli,
  page: Page,
  output: OutputFile | undefined,
  options: Pick<BrowseOptions, "output" | "open">,
): Promise<string | undefined> {
  if (page.url === undefined) return undefined;
  if (output || options.open) return deliverEarly(cli, page.html, output, options);
  if (!cli.io.json) await cli.io.write(page.html);
  return undefined;
}

export function report(cli: Cli, page: Visited, file: string | undefined): void {
  const { io } = cli;
  const { url, status, resources, failures, verified, contentBytes, paddingBytes, isShaped } = page;
  io.event({
    event: "page",
    url,
    status,
    file,
    verified,
    isShaped,
    resources: resources.length,
    failures: failures.map((failure) => ({ ...failure })),
    htmlBytes: url === undefined ? 0 : page.html.length,
    contentBytes,
    paddingBytes,
  });
  if (io.json) return;
  const sizes = `${formatBytes(contentBytes)} received${paddingBytes > 0 ? `, ${formatBytes(paddingBytes)} padding` : ""}`;
  io.note(url === undefined ? sizes : `${status} ${printable(url)}: ${resources.length} files, ${sizes}`);
  if (!isShaped) {
    io.note(
      io.red("The answer has none of the sizes that were asked for: the box let more show than it should."),
    );
  }
  if (!verified) io.note(io.red("Incomplete: this is what came."));
  if (url === undefined) io.note(io.red("There was no page; nothing was written."));
  else if (verified) io.note(io.green("The digest is whole and its hash is right."));
  for (const failure of failures.slice(0, FAILURES_SHOWN)) {
    const why = failure.detail === "" ? "" : `: ${printable(failure.detail)}`;
    io.note(`  not fetched: ${printable(failure.url)}: ${printable(failure.reason)}${why}`);
  }
  if (failures.length > FAILURES_SHOWN) io.note(`  and ${failures.length - FAILURES_SHOWN} more`);
  if (file !== undefined) io.note(`Written to ${file}`);
}

async function openInBrowser(cli: Cli, html: Uint8Array): Promise<string> {
  const dir = path.join(cli.context.dir, "pages");
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const file = path.join(dir, `page-${process.pid}.html`);
  await writeFile(file, html, { mode: 0o600 });
  openAddress(cli, file);
  return file;
}

function parseUrl(text: string): URL {
  const url = URL.parse(text) ?? URL.parse(`https://${text}`);
  if (
    url &&
    (url.protocol === "http:" || url.protocol === "https:") &&
    url.hostname !== "" &&
    url.username === ""
  ) {
    return url;
  }
  throw usage(`Cannot browse "${text}": wanted an http:// or https:// address without user and password`);
}
