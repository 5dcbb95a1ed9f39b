// `bento browse URL`: the page with everything in it, fetched by the Browser function at a box, as one HTML file that
// makes no request when opened. Shown as soon as it is complete, while padding still flows.

import { spawn } from "node:child_process";
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import type { BrowseSettings } from "../../wire/browse.ts";
import { parseBytes } from "../../wire/quantity.ts";
import { BoxClient, newIsolation, type Session, type StoredFunction } from "../client.ts";
import { type Page, type PageProgress, receivePage } from "../digest/receive-page.ts";
import { type LoadedPackage, loadPackage } from "../package-loader.ts";
import { reportOutcome } from "./attached.ts";
import { boxLabel, type Cli, chooseBox, manifestOf, type ReachOptions, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable } from "./io.ts";
import { OutputFile } from "./output-file.ts";
import { Progress } from "./progress.ts";

export interface BrowseOptions extends ReachOptions {
  readonly pad: string;
  readonly output?: string | undefined;
  readonly open?: boolean | undefined;
  readonly engine?: BrowseSettings["engine"] | undefined;
}

/** How long the box has to remove the function once the page is here: milliseconds. */
const CLEAN_UP_MS = 10_000;
/** Failed parts that are named; the rest is counted. */
const FAILURES_SHOWN = 5;

export async function browse(cli: Cli, address: string, options: BrowseOptions): Promise<ExitCode> {
  const url = parseUrl(address);
  const pad = parsePad(options.pad);
  await using output = options.output === undefined ? undefined : await OutputFile.open(options.output);
  const { page, session } = await fetchPage(cli, url, pad, options);
  const outcome = await session.ended;
  if (outcome.kind !== "returned" && page.url === undefined) return reportOutcome(cli, outcome);
  // Where there was no page, nothing is written: only why, and exit code 1.
  if (page.url !== undefined) await deliver(cli, page, output, options);
  report(cli, page, page.url === undefined ? undefined : options.output);
  if (page.url === undefined) return EXIT.functionFailed;
  return page.verified ? EXIT.ok : EXIT.partial;
}

/** Runs the Browser function and reads its digest to the end; the function is removed from the box afterwards. */
export async function fetchPage(
  cli: Cli,
  url: URL,
  pad: number,
  options: ReachOptions & Pick<BrowseOptions, "open" | "engine">,
): Promise<{ page: Page; session: Session }> {
  const name = options.engine === "rendered" ? "browser-rendered" : "browser";
  const loaded = withPort(await loadPackage(name), url);
  const reach = await chooseBox(cli, options, manifestOf(loaded));
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: newIsolation() });
  using progress = new Progress(cli.io, `Connecting to ${boxLabel(reach)}`);
  const session = await client.run(
    { package: loaded.package },
    { args: [url.href, { pad }] },
    { endInput: true, signal: cli.signal },
  );
  await using _session = session;
  const leave = () => void session.detach();
  cli.signal.addEventListener("abort", leave, { once: true });
  progress.phase("The box fetches the page");
  const opened: { html?: Promise<string> } = {};
  try {
    const page = await receivePage(bytesOf(session), {
      signal: cli.signal,
      onProgress: (now) => {
        showProgress(progress, now);
      },
      onShowable: (html, stage) => {
        if (options.open && stage === "complete") opened.html = openInBrowser(cli, html);
      },
    });
    if (options.open && page.url !== undefined) await (opened.html ?? openInBrowser(cli, page.html));
    return { page, session };
  } catch (error) {
    cli.signal.throwIfAborted();
    throw error;
  } finally {
    cli.signal.removeEventListener("abort", leave);
    await removeFunction(client, session.stored as StoredFunction | undefined);
  }
}

async function* bytesOf(session: Session): AsyncGenerator<Uint8Array> {
  for await (const chunk of session.chunks()) yield chunk.bytes;
}

async function removeFunction(client: BoxClient, stored: StoredFunction | undefined): Promise<void> {
  if (!stored) return;
  try {
    await client.shutdown(stored.shutdownToken, { signal: AbortSignal.timeout(CLEAN_UP_MS) });
  } catch {
    // The page is here; what stays behind on the box expires there by itself.
  }
}

function showProgress(progress: Progress, now: PageProgress): void {
  const of = now.resourcesExpected === undefined ? "" : ` of ${now.resourcesExpected}`;
  if (!now.isComplete) {
    progress.phase(`Page and ${now.resources}${of} parts:`);
    progress.update(now.contentBytes);
  } else {
    progress.phase("Page complete; padding:");
    progress.update(now.paddingBytes, now.paddingTotal);
  }
}

async function deliver(
  cli: Cli,
  page: Page,
  output: OutputFile | undefined,
  options: BrowseOptions,
): Promise<void> {
  if (output) await output.write(page.html);
  else if (!options.open && !cli.io.json) await cli.io.write(page.html);
}

function report(cli: Cli, page: Page, file: string | undefined): void {
  const { io } = cli;
  const { url, status, resources, failures, verified, contentBytes, paddingBytes } = page;
  io.event({
    event: "page",
    url,
    status,
    file,
    verified,
    resources: resources.length,
    failures: failures.map((failure) => ({ ...failure })),
    htmlBytes: page.html.length,
    contentBytes,
    paddingBytes,
  });
  if (io.json) return;
  const sizes = `${formatBytes(contentBytes)} received${paddingBytes > 0 ? `, ${formatBytes(paddingBytes)} padding` : ""}`;
  io.note(
    url === undefined
      ? io.red("There was no page; nothing was written.")
      : `${status} ${printable(url)}: ${resources.length} files, ${sizes}`,
  );
  if (url !== undefined || !verified)
    io.note(
      verified
        ? io.green("The digest is whole and its hash is right.")
        : io.red("Incomplete: this is what came."),
    );
  for (const failure of failures.slice(0, FAILURES_SHOWN)) {
    io.note(`  not fetched: ${printable(failure.url)}: ${printable(failure.reason)}`);
  }
  if (failures.length > FAILURES_SHOWN) io.note(`  and ${failures.length - FAILURES_SHOWN} more`);
  if (file !== undefined) io.note(`Written to ${file}`);
}

async function openInBrowser(cli: Cli, html: Uint8Array): Promise<string> {
  const dir = path.join(cli.context.dir, "pages");
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const file = path.join(dir, `page-${process.pid}.html`);
  await writeFile(file, html, { mode: 0o600 });
  const child = spawn("xdg-open", [file], { stdio: "ignore", detached: true });
  child.once("error", () => {
    cli.io.note(`No program to show pages was found; the page is in ${file}`);
  });
  child.unref();
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

function parsePad(text: string): number {
  const bytes = /^\d{1,12}$/.test(text) ? Number(text) : parseBytes(text);
  if (bytes !== undefined) return bytes;
  throw usage(`Cannot pad to "${text}": wanted a size such as 512KiB or 1MiB, or 0`);
}

/** The bundled manifest asks for the web's usual ports; a URL with another one asks for that one too. */
function withPort(loaded: LoadedPackage, url: URL): LoadedPackage {
  const { manifest } = loaded.package;
  if (url.port === "" || !manifest.net) return loaded;
  const net = { ...manifest.net, allow: [...manifest.net.allow, `*:${url.port}`] };
  return { ...loaded, package: { ...loaded.package, manifest: { ...manifest, net } } };
}
