// `bento demo`: everything for real, on this machine and nothing else: a private Tor network, boxes beside its exits,
// a web server, and a page fetched by the Browser function through three relays. Leaves nothing running, also when
// it is interrupted.

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import { BentoError, systemCode } from "../../base/errors.ts";
import { fetchPage } from "../../client/cli/browse.ts";
import type { Cli } from "../../client/cli/cli.ts";
import { EXIT } from "../../client/cli/exit-code.ts";
import { formatSeconds, Progress } from "../../client/cli/progress.ts";
import { Context } from "../../client/context.ts";
import { WebServer } from "../../testnet/web-server.ts";
import { type RunningNetwork, startNetwork, stopNetwork } from "../local-network.ts";
import { PHASES } from "./net.ts";

const BOXES = 2;
const PAD_BYTES = 256 * 1024;
/** The Browser function asks for the web's ports; where 80 is not ours to take, the URL names another. */
const WEB_PORTS = [80, 8080];

export async function demo(cli: Cli): Promise<number> {
  const { io } = cli;
  const startedMs = performance.now();
  const say = (text: string) => {
    io.event({ event: "step", text });
    if (!io.json)
      io.note(`${io.dim(formatSeconds((performance.now() - startedMs) / 1000).padStart(5))}  ${text}`);
  };
  const dir = await mkdtemp(path.join(tmpdir(), "bento-demo-"));
  await using cleanUp = new AsyncDisposableStack();
  cleanUp.defer(async () => {
    await stopNetwork(path.join(dir, "net"));
    await rm(dir, { recursive: true, force: true });
    say("Everything is stopped; nothing is left behind.");
  });
  say(io.bold("A private Tor network, on loopback alone"));
  const network = await bringUp(cli, path.join(dir, "net"), say);
  const relays = network.testnet.nodes.filter(({ kind }) => kind !== "client").length;
  say(`${relays} real relays and ${network.boxes.length} boxes run; circuits work`);
  for (const { name, address } of network.boxes) say(`  ${name}  ${address}`);

  await using web = await startSite(path.join(dir, "site"), network);
  const port = web.port === 80 ? "" : `:${web.port}`;
  const url = new URL(`http://${web.address}${port}/`);
  say(io.bold("A web site"));
  say(`  ${url.href}  a page, a style sheet with an import, two pictures and a script`);

  say(io.bold("Browser: a function that fetches the page at the box, behind three relays"));
  const context = new Context(path.join(dir, "state"));
  await context.update((data) => {
    data.network = { dir, socks: network.socks };
    data.boxes = Object.fromEntries(network.boxes.map(({ name, info: _info, ...entry }) => [name, entry]));
  });
  const browsedMs = performance.now();
  const shape = { kind: "none", pad: PAD_BYTES } as const;
  const { page, outcome } = await fetchPage({ ...cli, context }, url, shape, { scripts: true });
  const tookMs = performance.now() - browsedMs;
  const html = Buffer.from(page?.html ?? []).toString();
  const isRight =
    page?.verified && page.status === 200 && html.includes(SITE_MARK) && outcome?.kind === "returned";
  if (!page || !isRight) {
    throw new BentoError(
      "integrity",
      `Cannot show the page: status ${page?.status ?? "none"}, ${page?.verified ? "wrong content" : "incomplete"}`,
    );
  }
  say(
    `  ${page.resources.length} files in one stream of ${formatBytes(page.contentBytes + page.paddingBytes)}, ${formatBytes(page.paddingBytes)} of it padding, in ${(tookMs / 1000).toFixed(1)} s`,
  );
  say(
    `  the digest is whole and its hash is right; the web server saw ${web.requests.length} requests, all from the box's exit`,
  );
  const out = path.resolve("bento-demo.html");
  const isWritten = await writeFile(out, page.html).then(
    () => true,
    () => false,
  );
  if (isWritten) say(`  one self-contained file that makes no request when opened: ${out}`);
  io.event({
    event: "page",
    url: page.url,
    verified: page.verified,
    resources: page.resources.length,
    file: isWritten ? out : undefined,
    tookMs,
  });
  say(io.green("It works."));
  say("Next: bento net up · bento run hello · bento browse URL · bento shell");
  return EXIT.ok;
}

async function bringUp(cli: Cli, dir: string, say: (text: string) => void): Promise<RunningNetwork> {
  using _progress = new Progress(cli.io, "Starting");
  return await startNetwork({
    dir,
    boxes: BOXES,
    detached: false,
    signal: cli.signal,
    onProgress: (phase) => {
      if (phase !== "up") say(`  ${PHASES[phase]}`);
    },
  });
}

const SITE_MARK = "Fetched through three relays";

async function startSite(folder: string, network: RunningNetwork): Promise<WebServer> {
  const disc = (color: string) =>
    `<svg xmlns="http://www.w3.org/2000/svg" width="96" height="96"><circle cx="48" cy="48" r="40" fill="${color}"/></svg>`;
  const files: Readonly<Record<string, string>> = {
    "index.html": `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Bento demo</title>
<link rel="stylesheet" href="style.css"><script src="script.js"></script></head>
<body><h1>${SITE_MARK}</h1><p>This page, its style sheets and its pictures came as one padded stream.</p>
<img src="pictures/one.svg" alt="a violet disc"><div class="picture"></div></body></html>\n`,
    "style.css":
      '@import "colors.css";\nbody { font: 18px/1.5 sans-serif; max-width: 40em; margin: 3em auto }\n',
    "colors.css":
      "body { background: #faf7ff; color: #222 } .picture { width: 96px; height: 96px; background: url(pictures/two.svg) }\n",
    "script.js": 'document.title = "scripts do not run in what bento shows";\n',
    "pictures/one.svg": disc("#7d4698"),
    "pictures/two.svg": disc("#68b030"),
  };
  for (const [name, text] of Object.entries(files)) {
    const file = path.join(folder, name);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, text);
  }
  for (const port of WEB_PORTS) {
    try {
      return await WebServer.start({ folder, address: network.testnet.plan.webAddress, port });
    } catch (error) {
      if (systemCode(error) !== "EACCES" && systemCode(error) !== "EADDRINUSE") throw error;
    }
  }
  throw new BentoError("demo-failed", `Cannot start web server: ports ${WEB_PORTS.join(" and ")} are taken`);
}
