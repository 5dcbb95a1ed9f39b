// `bento browse --serve`: the local page (local-page-server.ts) over one browser session at a box, until Ctrl-C.

import { systemCode } from "../../base/errors.ts";
import { BROWSE_DEFAULTS, type BrowseSettings, type Shape } from "../../wire/browse.ts";
import { BrowseSession } from "../browse/browse-session.ts";
import { loadBrowser } from "../browse/browser-package.ts";
import { BoxClient, newIsolation } from "../client.ts";
import { LocalPage } from "../local-page/local-page-server.ts";
import { pageVisitor } from "../local-page/page-visitor.ts";
import { boxLabel, type Cli, chooseBox, manifestOf, type ReachOptions, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { openAddress } from "./open-address.ts";

export interface ServeOptions extends ReachOptions {
  readonly port?: number | undefined;
  readonly open?: boolean | undefined;
  readonly scripts?: boolean | undefined;
  readonly engine?: BrowseSettings["engine"] | undefined;
}

/** One session holds cookies for so long, and its pages together take so much at the box. */
const SESSION = { runtime: "4h", bytes: "1GiB" } as const;
/** Names the program in archives. */
const SOFTWARE = "bento-tor";

export async function servePages(
  cli: Cli,
  url: URL | undefined,
  shape: Shape,
  options: ServeOptions,
): Promise<ExitCode> {
  const { io, signal } = cli;
  const loaded = await loadBrowser({ ...SESSION, urls: url ? [url] : [], engine: options.engine });
  const reach = await chooseBox(cli, options, manifestOf(loaded));
  using client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: newIsolation() });
  const { engine = BROWSE_DEFAULTS.engine, scripts = BROWSE_DEFAULTS.scripts } = options;
  const settings = { ...BROWSE_DEFAULTS, shape, engine, scripts };
  const session = new BrowseSession({ client, package: loaded.package, settings });
  try {
    await using page = await startPage(session, boxLabel(reach), options.port ?? 0);
    const address = page.address(url?.href);
    io.result({ address }, () => address);
    if (!io.json) io.note("Whoever has this address may browse as you. Ctrl-C stops.");
    if (options.open) openAddress(cli, address);
    await new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
  } finally {
    if (session.pending > 0 && shape.kind === "bucket") {
      io.note(
        "The last answer is still received, so that leaving does not show. Ctrl-C again leaves at once.",
      );
    }
    await session.close();
  }
  return EXIT.ok;
}

async function startPage(session: BrowseSession, box: string, port: number): Promise<LocalPage> {
  try {
    return await LocalPage.start({
      port,
      box,
      software: SOFTWARE,
      visitor: (linkTo) => pageVisitor(session, linkTo),
    });
  } catch (error) {
    throw usage(`Cannot serve at port ${port}: ${systemCode(error) ?? "failed"}`, "Choose another --port.");
  }
}
