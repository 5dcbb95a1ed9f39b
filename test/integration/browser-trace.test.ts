// What an observer of the client's link sees of Browser: sessions of both engines over circuits of a private network, many
// pages, the link to the guard traced. With a shape, the pages make at most K pairs of size and duration, whatever they,
// their servers and the engine do; without one, the same pages make more. Times are floored to seconds and sizes to 128 KiB:
// answers end in the middle of both, with room for what Tor and a busy machine add.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import type { Box } from "../../src/box/box.ts";
import { BrowseSession, type Visited } from "../../src/client/browse/browse-session.ts";
import { loadBrowser } from "../../src/client/browse/browser-package.ts";
import { BoxClient } from "../../src/client/client.ts";
import { torDial } from "../../src/client/tor-dial.ts";
import { ObservedLink } from "../../src/testnet/observed-link.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import { BROWSE_DEFAULTS, type BrowseSettings, CELL_BYTES, type Shape } from "../../src/wire/browse.ts";
import { noise } from "../sites/png.ts";
import { type Route, type Routes, WebServer } from "../sites/web-server.ts";
import { skipRendered } from "../support/rendered-session.ts";
import { startTestnetBox } from "../support/testnet-box.ts";

const EXIT_PORT = 5578;
const KIB = 1024;
/** 0.5, 1.5 and 2.5 s. */
const SIZES = [64, 192, 320].map((size) => size * KIB);
const RATE = 128 * KIB;
const BUCKETS: Shape = { kind: "bucket", bytes: SIZES, rate: RATE };
const PLAIN: Shape = { kind: "none", pad: 0 };
/** A browser needs longer than a parser, and on a busy machine longer than the longest answer. */
const DEADLINE_MS = { static: 1000, rendered: 2500 };
const PLAIN_DEADLINE_MS = { static: 1000, rendered: 20_000 };
type Engine = BrowseSettings["engine"];

/** On the link, sizes are 4 to 16 % more, framing included. */
const SIZE_STEP = 128 * KIB;
const TIME_STEP_MS = 1000;
/** Tor builds a circuit now and then, whose few cells come alone: an answer is over when all but so many bytes have come. */
const REST_BYTES = CELL_BYTES;

const RENDERED_TOML = `[policy]
images = ["deno", "python", "chromium"]
function = { memory = "512MiB", pids = 200, tmp = "128MiB" }`;

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
  "/script": html("<p id=p>empty</p><script>p.textContent='made by '+'script'</script><img src=b.png>"),
  // Every processor that the browser may have, for as long as it may.
  "/burn": html(`<script>
    const loop = new Blob(["for (;;);"], { type: "text/javascript" });
    for (let at = 0; at < 8; at++) new Worker(URL.createObjectURL(loop));
    setTimeout(() => { for (;;); }, 200);
  </script><img src=a.png>`),
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
  box = await startTestnetBox(net, {
    dir: temp,
    companion: { relay: "e1", exitPort: EXIT_PORT },
    toml: `[policy.net]
private_networks_allowed = ["127.${net.plan.block}.8.0/24"]
${skipRendered ? "" : RENDERED_TOML}
[sandbox]
uids = "25100-25199"`,
  });
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

async function visitAll(shape: Shape, urls: readonly string[], engine: Engine = "static"): Promise<Window[]> {
  const { package: pack } = await loadBrowser({ engine, urls: [new URL(site.origin)] });
  const exit = `${net.node("e1").address}:${EXIT_PORT}`;
  using client = new BoxClient({ address: exit, dial: torDial(net.socks()) });
  const deadlineMs = (shape.kind === "none" ? PLAIN_DEADLINE_MS : DEADLINE_MS)[engine];
  const settings = { ...BROWSE_DEFAULTS, shape, engine, deadlineMs };
  await using session = new BrowseSession({ client, package: pack, settings });
  // The first carries the function up and builds the circuit.
  await session.visit({ url: `${site.origin}/small` });
  const windows: Window[] = [];
  for (const url of urls) {
    const fromMs = Date.now();
    const page = await session.visit({ url });
    windows.push({ path: url, fromMs, toMs: Date.now(), page });
    // Tor's last cells of this answer are not to be taken for the first of the next.
    await systemClock.sleep(50);
  }
  return windows;
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
    const bytes = own.reduce((sum, one) => sum + one.bytes, 0);
    let left = bytes;
    const last = own.find((one) => {
      left -= one.bytes;
      return left <= REST_BYTES;
    });
    return {
      bytes,
      pauseMs: (own[0]?.atMs ?? toMs) - fromMs,
      lastMs: (last?.atMs ?? toMs) - fromMs,
    };
  });
}

function pairs(all: readonly Observed[]): Set<string> {
  return new Set(
    all.map(({ bytes, lastMs }) => `${Math.floor(bytes / SIZE_STEP)} x ${Math.floor(lastMs / TIME_STEP_MS)}`),
  );
}

/** Of as many sizes as there are pages, which is more than K. */
const PLAIN_PAGES = ["/small", "/script", "/large", "/huge"];
const urlOf = (path: string) => site.origin + path;
/** A port that nobody listens at, and an address that the box's policy refuses. */
const dead = () => [site.origin.replace(/:\d+$/, ":1/"), "http://127.0.0.1/"];
/** Each test adds what it saw: both engines are to show the same. */
const shapedSoFar: Observed[] = [];

async function check(t: TestContext, shaped: readonly Window[], plain: readonly Window[]): Promise<void> {
  const seen = await observed(shaped);
  for (const [at, { path, page }] of shaped.entries()) {
    t.diagnostic(`${path} ${JSON.stringify(seen[at])}`);
    assert.ok(page.isShaped, path);
    // Cells begin at once: no page makes the box wait before the first.
    assert.ok((seen[at]?.pauseMs ?? 1e9) < TIME_STEP_MS, `${path} began after ${seen[at]?.pauseMs} ms`);
  }
  shapedSoFar.push(...seen);
  const without = pairs(await observed(plain));
  const withShape = pairs(shapedSoFar);
  t.diagnostic(`shaped: ${[...withShape].join(", ")}; plain: ${[...without].join(", ")}`);
  assert.ok(withShape.size <= SIZES.length, [...withShape].join(", "));
  assert.ok(withShape.size > 1, "pages of one size show nothing either way");
  assert.ok(without.size > SIZES.length, [...without].join(", "));
}

test("static: the link shows at most K pairs of size and duration, errors included; without a shape it shows more", async (t) => {
  const some = ["/small", "/middle", "/large", "/slow", "/slow-part", "/silent", "/reset", "/404"];
  const shaped = await visitAll(BUCKETS, [...some.map(urlOf), ...dead()]);
  const plain = await visitAll(PLAIN, PLAIN_PAGES.map(urlOf));
  await check(t, shaped, plain);
  assert.ok(shaped.every(({ page }) => page.verified));
});

test("rendered: a browser at the box, even one that computes all the time, shows the same pairs; without a shape more", {
  skip: skipRendered,
}, async (t) => {
  const some = ["/small", "/burn", "/404", "/large", "/slow-part"];
  const shaped = await visitAll(BUCKETS, [...some.map(urlOf), ...dead()], "rendered");
  const plain = await visitAll(PLAIN, PLAIN_PAGES.map(urlOf), "rendered");
  await check(t, shaped, plain);
  assert.ok(plain.every(({ page }) => page.verified));
  const script = plain.find(({ path }) => path.endsWith("/script"))?.page;
  assert.match(Buffer.from(script?.html ?? []).toString(), /made by script/);
});
