// `bento lb` as its owner types it. First against the fake load balancer in a real box, without Tor; then the real thing over
// a private Tor network: a site on two boxes, fetched by an unmodified client, taken over by its standby. Needs root.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Browser, chromium } from "playwright-core";
import { LocalBox } from "../../src/bin/local-box.ts";
import { generateX25519 } from "../../src/onion/crypto/primitives.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import { base32, startAuthorizedClient } from "../support/authorized-client.ts";

const BENTO = fileURLToPath(new URL("../../bento", import.meta.url));
const FAKE = fileURLToPath(new URL("../support/fake-balancer", import.meta.url));
const CHROMIUM = "/usr/bin/chromium";
const COMMAND_MS = 240_000;

interface Finished {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function start(home: string, args: readonly string[]): ChildProcess {
  const env = { PATH: process.env["PATH"], HOME: home, TMPDIR: home };
  return spawn(BENTO, args, { cwd: home, env, timeout: COMMAND_MS, stdio: ["ignore", "pipe", "pipe"] });
}

async function finished(child: ChildProcess): Promise<Finished> {
  const parts = { out: "", err: "" };
  child.stdout?.setEncoding("utf8").on("data", (text: string) => (parts.out += text));
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (parts.err += text));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once("close", resolve);
    child.once("error", reject);
  });
  return { code, ...parts };
}

const bento = (home: string, ...args: string[]) => finished(start(home, args));
const lastJson = ({ out }: Finished) =>
  JSON.parse(out.trimEnd().split("\n").at(-1) ?? "") as Record<string, unknown>;

async function newHome(t: TestContext, hasNetwork = false): Promise<string> {
  const home = await mkdtemp(path.join(tmpdir(), "bento-lb-commands-"));
  t.after(async () => {
    if (hasNetwork) await bento(home, "net", "down");
    await rm(home, { recursive: true, force: true });
  });
  await mkdir(path.join(home, "web/big"), { recursive: true });
  await writeFile(path.join(home, "web/index.html"), "<h1>hello</h1>");
  await writeFile(path.join(home, "web/big/file.bin"), randomBytes(700_000));
  return home;
}

test("bento lb: start, watch, scale, page and stop, in a real box without Tor", async (t) => {
  const home = await newHome(t);
  await using box = await LocalBox.start();
  const fake = ["--balancer-fn", FAKE, "--replica-fn", "hello"];
  const what = ["--site", "web", "--boxes", "self", "--replicas", "2..4", "--box", box.address, "--direct"];
  const started = await bento(home, "lb", "start", ...what, ...fake);
  assert.equal(started.code, 0, started.err);
  assert.match(started.out, /^[a-z2-7]{56}\.onion\n$/);
  assert.match(started.err, /replica 1 serves at/);
  assert.match((await bento(home, "ls")).out, /load balancer {2}web/);

  const watching = start(home, ["lb", "status", "--watch", "--interval", "0.2", "--json"]);
  const watched = finished(watching);
  let reports = 0;
  const seen = Promise.withResolvers<void>();
  watching.stdout?.on("data", (chunk: Buffer) => {
    reports += chunk.toString().split('{"event":"report"').length - 1;
    if (reports >= 3) seen.resolve();
  });
  await seen.promise;
  watching.kill("SIGINT");
  assert.equal((await watched).code, 130);

  const scaled = await bento(home, "lb", "scale", "web", "--replicas", "3", "--high", "cpu=50%", "--json");
  assert.equal(scaled.code, 0, scaled.err);
  const scale = { replicasMin: 3, replicasMax: 3, high: { cpuPercent: 50 }, low: { cpuPercent: 20 } };
  assert.deepEqual(lastJson(scaled)["scale"], { ...scale, choice: "least-loaded" });
  const status = await bento(home, "lb", "status", "web");
  assert.match(status.out, /3 to 3, least-loaded; one more at 50 % cpu/);

  await lookedAt(home);

  const stopped = await bento(home, "lb", "stop", "web");
  assert.equal(stopped.code, 0, stopped.err);
  assert.match(stopped.err, /3 replicas were ended/);
  assert.match(stopped.err, /says that the load balancer is gone/);
  assert.equal((await bento(home, "lb", "status")).code, 2);
  assert.equal((await readFile(path.join(home, keyFileOf(started.err)))).length, 96);
});

function keyFileOf(text: string): string {
  return path.relative("/", /Key: (\S+?),/.exec(text)?.[1] ?? "").replace(/^.*?\.local/, ".local");
}

/** The page in a real browser: it draws, and nothing in it breaks its own rules. */
async function lookedAt(home: string): Promise<void> {
  const serving = start(home, ["lb", "status", "--page", "--interval", "0.2"]);
  const served = finished(serving);
  const address = await new Promise<string>((resolve) => {
    serving.stdout?.once("data", (chunk: Buffer) => resolve(chunk.toString().trim()));
  });
  assert.equal((await fetch(address.replace(/\?.*/, ""))).status, 403);
  if (existsSync(CHROMIUM)) {
    const browser: Browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
    try {
      const tab = await browser.newPage();
      const complaints: string[] = [];
      tab.on("console", (message) => complaints.push(message.text()));
      tab.on("pageerror", (error) => complaints.push(error.message));
      await tab.goto(address);
      // Drawn by what the server sent since: a line needs two reports.
      await tab
        .locator("section:first-of-type g path[d*=L]:first-of-type")
        .nth(5)
        .waitFor({ state: "attached" });
      assert.equal(await tab.locator("table tr").count(), 4);
      assert.equal(new URL(tab.url()).search, "", "the key leaves the address bar");
      assert.deepEqual(
        complaints.filter((text) => !text.includes("favicon")),
        [],
      );
    } finally {
      await browser.close();
    }
  }
  serving.kill("SIGINT");
  assert.equal((await served).code, 0);
}

test("bento lb over Tor: clients with the key fetch, others get nothing; standbys take over, there and back; stop leaves nothing", async (t) => {
  const home = await newHome(t, true);
  const up = await bento(home, "net", "up", "--boxes", "2", "--json");
  assert.equal(up.code, 0, up.err);
  const { socks: unauthorized } = lastJson(up) as { socks: string };
  const what = ["--site", "web", "--replicas", "2", "--boxes", "self,box1"];
  const where = ["--box", "box0", "--standby", "box1"];
  const key = generateX25519();
  const who = ["--client-key", `descriptor:x25519:${base32(key.publicKey)}`];
  const started = await bento(home, "lb", "start", ...what, ...where, ...who, "--json");
  assert.equal(started.code, 0, started.err + started.out);
  const { address, standby } = lastJson(started) as { address: string; standby: { isReady: boolean } };
  assert.equal(standby.isReady, true);
  const wanted = await readFile(path.join(home, "web/big/file.bin"));
  const { network } = await contextOf(home);
  const net = await Testnet.attach(path.join(network.dir, "tor"));
  await using client = await startAuthorizedClient(net, path.join(home, "client"), { address, key });
  const { socks } = client;
  await refused(home, unauthorized, `http://${address}/`);
  assert.ok((await fetched(home, socks, `http://${address}/big/file.bin`)).equals(wanted));
  const status = lastJson(await bento(home, "lb", "status", "--json"));
  assert.equal(status["at"], "primary");
  assert.equal(status["role"], "primary");
  assert.ok((status["introductions"] as { total: number }).total >= 1);

  const { instance } = (await contextOf(home)).balancers["web"] ?? assert.fail();
  assert.equal((await bento(home, "close", instance, "--kill", "--box", "box0")).code, 0);
  // It takes over, and has a standby of its own where the load balancer was.
  const after = await reported(home, ({ standby: next }) => next?.isReady === true);
  assert.equal(after.at, "standby");
  assert.equal(after.address, address);
  assert.ok((await fetched(home, socks, `http://${address}/big/file.bin`)).equals(wanted));
  await refused(home, unauthorized, `http://${address}/`);

  const second = (await contextOf(home)).balancers["web"]?.standby.instance ?? assert.fail();
  assert.equal((await bento(home, "close", second, "--kill", "--box", "box1")).code, 0);
  const last = await reported(home, ({ at }) => at === "primary");
  assert.equal(last.address, address);
  assert.ok((await fetched(home, socks, `http://${address}/big/file.bin`)).equals(wanted));

  const stopped = await bento(home, "lb", "stop", "--json");
  assert.equal(stopped.code, 0, stopped.err);
  const { boxes } = lastJson(stopped) as { boxes: { ended: boolean }[] };
  assert.deepEqual(
    boxes.map(({ ended }) => ended),
    [true, true],
  );
});

interface SavedContext {
  readonly network: { readonly dir: string };
  readonly balancers: Record<string, { instance: string; standby: { instance: string } }>;
}

async function contextOf(home: string): Promise<SavedContext> {
  return JSON.parse(
    await readFile(path.join(home, ".local/state/bento/context.json"), "utf8"),
  ) as SavedContext;
}

interface Reported {
  readonly at: string;
  readonly address: string;
  readonly standby: { readonly isReady: boolean } | null;
}

/** The first report of `bento lb status` that is as wanted. */
async function reported(home: string, isWanted: (report: Reported) => boolean): Promise<Reported> {
  return until(async () => {
    const asked = await bento(home, "lb", "status", "--json");
    if (asked.code !== 0) return asked.err;
    const report = lastJson(asked) as unknown as Reported;
    return isWanted(report) ? { value: report } : asked.out;
  });
}

/** Tor finds the service, and cannot read its descriptor: extended SOCKS error F4, missing client authorization. */
async function refused(home: string, socks: string, url: string): Promise<void> {
  await until(async () => {
    const curl = spawn("curl", ["-sS", "-m", "30", "--socks5-hostname", socks, url], { cwd: home });
    const { code, out, err } = await finished(curl);
    assert.notEqual(code, 0, out);
    return err.includes("(244)") ? { value: undefined } : err;
  });
}

/** By curl, through tor's SOCKS port: again until it comes, as a person would. */
async function fetched(home: string, socks: string, url: string): Promise<Buffer> {
  let count = 0;
  return until(async () => {
    // Another password, other circuits.
    const args = ["--proxy-user", `client:${count++}`, "--socks5-hostname", socks, "-o", "fetched", url];
    const curl = spawn("curl", ["-sSf", "-m", "30", ...args], { cwd: home });
    const { code, err } = await finished(curl);
    return code === 0 ? { value: await readFile(path.join(home, "fetched")) } : err;
  });
}

/** @param attempt a value, or what was in the way */
async function until<T>(attempt: () => Promise<{ readonly value: T } | string>): Promise<T> {
  for (const endMs = Date.now() + 120_000; ; ) {
    const result = await attempt();
    if (typeof result !== "string") return result.value;
    if (Date.now() > endMs) throw new Error(`not in time: ${result}`);
    await sleep(500);
  }
}
