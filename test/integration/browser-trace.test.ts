// What an observer of the client's link sees of Browser: one session over a circuit of a private network, many pages,
// the link to the guard traced. With a shape, the pages make at most K pairs of size and duration, whatever they and their
// servers do; without one, the same pages make more. Times are floored to seconds, sizes rounded to 64 KiB, which is
// far below the distance of the sizes and above what Tor's own cells on the same link add.

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { after, before, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { Box } from "../../src/box/box.ts";
import { parseBoxConfig } from "../../src/box/config.ts";
import { BrowseSession, type Visited } from "../../src/client/browse/browse-session.ts";
import { loadBrowser } from "../../src/client/browse/browser-package.ts";
import { BoxClient } from "../../src/client/client.ts";
import { torDial } from "../../src/client/tor-dial.ts";
import { ObservedLink } from "../../src/testnet/observed-link.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import { BROWSE_DEFAULTS, type Shape } from "../../src/wire/browse.ts";
import { noise } from "../sites/png.ts";
import { type Route, type Routes, WebServer } from "../sites/web-server.ts";

const EXIT_PORT = 5578;
const KIB = 1024;
/** 0.5, 1.5 and 3.5 s. */
const SIZES = [64, 192, 448].map((size) => size * KIB);
const BUCKETS: Shape = { kind: "bucket", bytes: SIZES, rate: 128 * KIB };
const PLAIN: Shape = { kind: "none", pad: 0 };

/** Between two sizes on the link, framing included, lie more than two of these; none lies near the middle of one. */
const SIZE_STEP = 100 * KIB;
const TIME_STEP_MS = 1000;
/** A machine on which a timer is so late is no observer: the page is visited again. */
const LATE_MS_MAX = 250;
const TRIES_MAX = 4;

let temp: string;
let net: Testnet;
let box: Box;
let site: WebServer;
let link: ObservedLink;

const html = (body: string): Route => ({ type: "text/html", body: `<!DOCTYPE html>${body}` });
const picture = (bytes: number, seed: number): Route => {
  const side = Math.round(Math.sqrt(bytes / 3));
  return { type: "image/png", body: noise(side, side, seed) };
};
const slow =
  (delayMs: number, body: string): Route =>
  (_request, response) => {
    setTimeout(() => response.writeHead(200, { "content-type": "text/html" }).end(body), delayMs);
  };

const ROUTES: Routes = {
  "/small": html("small"),
  "/middle": html("<img src=a.png>"),
  "/large": html("<img src=a.png><img src=b.png>"),
  "/huge": html("<img src=a.png><img src=b.png><img src=c.png><img src=d.png>"),
  "/slow": slow(700, "slow"),
  "/slow-part": html("<img src=never.png>"),
  "/silent": () => undefined,
  "/reset": (request) => {
    request.socket.destroy();
  },
  "/never.png": () => undefined,
  "/a.png": picture(120 * KIB, 1),
  "/b.png": picture(200 * KIB, 2),
  "/c.png": picture(200 * KIB, 3),
  "/d.png": picture(400 * KIB, 4),
};

before(async () => {
  temp = await mkdtemp(join(tmpdir(), "bento-browser-trace-"));
  link = await ObservedLink.start();
  net = await Testnet.up({
    dir: join(temp, "net"),
    relays: 0,
    exits: 2,
    latencyMs: 10,
    extraTorrc: ({ kind }) => (kind === "client" ? [link.torrc] : undefined),
  });
  site = await WebServer.start(ROUTES, net.plan.webAddress);
  const torrc = join(temp, "join.torrc");
  await writeFile(torrc, `${net.joinTorrc.join("\n")}\n`);
  const control = await net.controlAddress("e1");
  const config = parseBoxConfig(`
[box]
data_dir = "${join(temp, "box")}"
[relay]
control = "${control.host}:${control.port}"
[tor]
torrc = "${torrc}"
[onion]
mode = "none"
[exit_port]
listen = "${net.node("e1").address}:${EXIT_PORT}"
[policy.net]
private_networks_allowed = ["127.${net.plan.block}.8.0/24"]
[sandbox]
uids = "25100-25199"
`);
  const log = createLog((line) => process.stderr.write(line), "error");
  const listen = [{ kind: "tcp", host: "127.0.0.1", port: 0 }] as const;
  box = await Box.start({ ...config, listen }, { clock: systemClock, log });
});

after(async () => {
  await box?.[Symbol.asyncDispose]();
  await site?.[Symbol.asyncDispose]();
  await net?.down();
  await link?.[Symbol.asyncDispose]();
  await rm(temp, { recursive: true, force: true });
});

/** One page on the link, between the request and the last byte of its answer: Unix milliseconds. */
interface Window {
  readonly path: string;
  readonly fromMs: number;
  readonly toMs: number;
  readonly page: Visited;
}

async function visitAll(shape: Shape, urls: readonly string[]): Promise<Window[]> {
  const { package: pack } = await loadBrowser({ urls: [new URL(site.origin)] });
  const exit = `${net.node("e1").address}:${EXIT_PORT}`;
  using client = new BoxClient({ address: exit, dial: torDial(net.socks()) });
  const settings = { ...BROWSE_DEFAULTS, shape, deadlineMs: 1000 };
  await using session = new BrowseSession({ client, package: pack, settings });
  // The first carries the function up and builds the circuit.
  await session.visit({ url: `${site.origin}/small` });
  const windows: Window[] = [];
  using delay = lateness();
  for (const url of urls) {
    for (let tries = 1; ; tries++) {
      delay.reset();
      const fromMs = Date.now();
      const page = await session.visit({ url });
      const window = { path: url, fromMs, toMs: Date.now(), page };
      // Tor's last cells of this answer are not to be taken for the first of the next.
      await systemClock.sleep(50);
      if (delay.maxMs > LATE_MS_MAX && tries < TRIES_MAX) continue;
      windows.push(window);
      break;
    }
  }
  return windows;
}

/** How late timers of this process have been since the last reset. */
function lateness(): Disposable & { reset(): void; readonly maxMs: number } {
  const histogram = monitorEventLoopDelay({ resolution: 20 });
  histogram.enable();
  return {
    reset: () => {
      histogram.reset();
    },
    get maxMs() {
      return histogram.max / 1e6;
    },
    [Symbol.dispose]: () => {
      histogram.disable();
    },
  };
}

interface Observed {
  readonly bytes: number;
  readonly pauseMs: number;
  readonly lastMs: number;
}

/** What went down the client's link in each window: bytes, and when the first and the last came. */
async function observed(windows: readonly Window[]): Promise<Observed[]> {
  const passed = await link.passed();
  return windows.map(({ fromMs, toMs }) => {
    const own = passed.filter(
      ({ atMs, direction }) => direction === "down" && atMs >= fromMs && atMs <= toMs,
    );
    return {
      bytes: own.reduce((sum, one) => sum + one.bytes, 0),
      pauseMs: (own[0]?.atMs ?? toMs) - fromMs,
      lastMs: (own.at(-1)?.atMs ?? toMs) - fromMs,
    };
  });
}

function pairs(all: readonly Observed[]): Set<string> {
  return new Set(
    all.map(({ bytes, lastMs }) => `${Math.round(bytes / SIZE_STEP)} x ${Math.floor(lastMs / TIME_STEP_MS)}`),
  );
}

test("the link shows at most K pairs of size and duration, errors included; without a shape it shows more", async (t) => {
  const shown = Object.keys(ROUTES).filter((path) => !path.includes(".png"));
  const urls = [...shown, "/404"].map((path) => site.origin + path);
  // A port that nobody listens at, and an address that the box's policy refuses.
  const all = [...urls, site.origin.replace(/:\d+$/, ":1/"), "http://127.0.0.1/"];
  const shaped = await visitAll(BUCKETS, all);
  const plain = await visitAll(
    PLAIN,
    urls.filter((url) => !/silent|slow-part/.test(url)),
  );
  const seen = await observed(shaped);
  for (const [at, { path, page }] of shaped.entries()) {
    t.diagnostic(`${path} ${JSON.stringify(seen[at])}`);
    assert.ok(page.verified && page.isShaped, path);
    // Cells begin at once: no page makes the box wait before the first.
    assert.ok((seen[at]?.pauseMs ?? 1e9) < TIME_STEP_MS, `${path} began after ${seen[at]?.pauseMs} ms`);
  }
  const withShape = pairs(seen);
  const without = pairs(await observed(plain));
  t.diagnostic(`shaped: ${[...withShape].join(", ")}; plain: ${[...without].join(", ")}`);
  assert.ok(withShape.size <= SIZES.length, [...withShape].join(", "));
  assert.ok(withShape.size > 1, "pages of one size show nothing either way");
  assert.ok(without.size > SIZES.length, [...without].join(", "));
});
