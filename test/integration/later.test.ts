// Functions that run while the client is away: one box runs, another keeps the answer, over a private Tor network, with
// a box that dies, functions that fail, and answers that are used up. Needs root.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { BoxClient, directDial } from "../../src/client/client.ts";
import type { ContextData } from "../../src/client/context.ts";
import { Download } from "../../src/client/dropbox/get.ts";
import { WebServer } from "../../src/testnet/web-server.ts";
import { readPidFile } from "../../src/tor/process.ts";
import { openFile } from "../../src/wire/sealed-file.ts";
import { parseInvocationToken } from "../../src/wire/token.ts";
import { bento as bentoIn, COMMAND_MS, type Finished } from "../support/bento-command.ts";

const COLLECT_MS = 180_000;

let home: string;
let boxes: { direct: string }[];
before(async () => {
  home = await mkdtemp(path.join(tmpdir(), "bento-later-"));
  const up = await bento("net", "up", "--boxes", "2", "--json");
  assert.equal(up.code, 0, up.err);
  boxes = (JSON.parse(up.out.trimEnd().split("\n").at(-1) ?? "") as { boxes: typeof boxes }).boxes;
});
after(async () => {
  await bento("net", "down");
  await rm(home, { recursive: true, force: true });
});

const bento = (...args: readonly string[]) => bentoIn(home, ...args);

/** Asks until the answer is there. */
async function collected(...args: string[]): Promise<Finished> {
  const deadline = AbortSignal.timeout(COLLECT_MS);
  for (;;) {
    const got = await bento(...args);
    if (got.code !== 9) return got;
    assert.match(got.err, /Not there yet: \S+ runs at box0/);
    deadline.throwIfAborted();
  }
}

async function left(name: string, source: string, ...options: string[]): Promise<Finished> {
  await writeFile(
    path.join(home, `${name}.ts`),
    `export default { async invoke(session, env, ...args) { ${source} } };`,
  );
  const started = await bento("run", `${name}.ts`, "--later", "--as", name, "--direct", ...options);
  assert.equal(started.code, 0, started.err);
  return started;
}

async function context(): Promise<ContextData> {
  return JSON.parse(
    await readFile(path.join(home, ".local/state/bento/context.json"), "utf8"),
  ) as ContextData;
}

test("later: a page, fetched by one box and kept by another while nobody is there", async () => {
  await writeFile(path.join(home, "index.html"), "<!doctype html><title>t</title><img src=a.svg>");
  await writeFile(path.join(home, "a.svg"), '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>');
  const block = /^127\.\d+/.exec(boxes[0]?.direct ?? "")?.[0] ?? "";
  await using web = await WebServer.start({ folder: home, address: `${block}.8.1` });
  const url = `http://${web.address}:${web.port}/`;
  const shape = ["--sizes", "128KiB,2MiB", "--rate", "1024KiB"];
  const started = await bento("browse", url, "--later", "--box", "box0", "--as", "news", ...shape);
  assert.equal(started.code, 0, started.err);
  assert.match(started.out, /^bento:dropbox\?box=[a-z2-7]{56}\.onion:80&token=\S+&key=\S+&later=1\n$/);
  assert.match(started.err, /runs at box0 now; box1 keeps its answer/);
  assert.match((await bento("ls")).out, /answer of browser\s+news\s+box1/);
  const page = path.join(home, "page.html");
  const got = await collected("browse", "--collect", "news", "-o", page);
  assert.equal(got.code, 0, got.err);
  assert.match(got.err, /hash is right/);
  assert.match(await readFile(page, "utf8"), /data:image\/svg/);
  await writeFile(path.join(home, "link"), started.out);
  assert.equal((await bento("get", "@link")).code, 7, "used up");
  assert.equal((await bento("ls")).out, "", "neither box has anything left to be named");
});

test("later: how it ended comes with what it said; too much ends it; the keeper cannot read", async () => {
  const same = ["--box", "box0", "--dropbox-box", "box0"];
  await left("fails", 'await session.send("so far " + args); throw new Error("boom");', ...same, "good");
  const failed = await collected("get", "fails", "-o", "failed");
  assert.equal(failed.code, 1, failed.err);
  assert.match(failed.err, /Error: boom/);
  assert.equal(await readFile(path.join(home, "failed"), "utf8"), "so far good");

  await left("floods", 'for (;;) await session.send("x".repeat(1000));', ...same, "--max", "10KiB");
  const flooded = await collected("get", "floods", "-o", "flood");
  assert.equal(flooded.code, 1, flooded.err);
  assert.match(flooded.err, /longer than the 10240 bytes/);
  assert.equal((await stat(path.join(home, "flood"))).size, 10_000);

  await writeFile(path.join(home, "input"), "handed over");
  await left("echoes", "for await (const m of session) await session.send(m);", ...same, "-i", "input");
  const deadline = AbortSignal.timeout(COLLECT_MS);
  while ((await rawAnswer("echoes")) === undefined) deadline.throwIfAborted();
  const { sealed, opened } = (await rawAnswer("echoes")) ?? assert.fail();
  assert.ok(opened.includes("handed over"), "the key opens it");
  assert.ok(!sealed.includes("handed over"), "the box that keeps it has no text");
  assert.equal((await bento("get", "echoes")).out, "handed over");
});

/** What the Dropbox of an answer holds, as it is and opened; undefined while it is not there. */
async function rawAnswer(name: string): Promise<{ sealed: Buffer; opened: Buffer } | undefined> {
  const { functions, laters } = await context();
  const [entry, later] = [functions[name], laters[name]];
  assert.ok(entry && later);
  using client = new BoxClient({ address: boxes[0]?.direct ?? "", dial: directDial });
  const { writer } = later;
  const signal = AbortSignal.timeout(COMMAND_MS);
  await using download = new Download(client, parseInvocationToken(entry.invocationToken), {
    signal,
    writer,
  });
  try {
    const sealed = Buffer.concat(await Array.fromAsync(download.content()));
    const one = async function* () {
      yield sealed;
    };
    const opened = await Array.fromAsync(openFile(one(), Buffer.from(later.key, "base64url")));
    return { sealed, opened: Buffer.concat(opened) };
  } catch (error) {
    if (Reflect.get(error as object, "code") === "dropbox-empty") return undefined;
    throw error;
  }
}

test("bento cover --circuits: the box sends, and the command says how much", async () => {
  const cover = ["cover", "--box", "box0", "--direct", "--rate", "16KiB/s", "--for", "2s", "--json"];
  const done = await bento(...cover, "--circuits", "2");
  assert.equal(done.code, 0, done.err);
  const last = JSON.parse(done.out.trimEnd().split("\n").at(-1) ?? "") as Record<string, unknown>;
  const cells = 2 * 69;
  const { event, cellsSent, sinkCellsSent, bytesReceived } = last;
  assert.deepEqual(
    { event, cellsSent, sinkCellsSent, bytesReceived },
    { event: "covered", cellsSent: cells, sinkCellsSent: cells, bytesReceived: cells * 470 },
  );
  const refused = await bento(...cover, "--circuits", "64");
  assert.equal(refused.code, 4, refused.err);
  assert.equal((await bento(...cover, "--sink", "127.0.0.1:9")).code, 2, "a sink is for circuits");
});

test("later: what cannot be started leaves nothing; a box that dies is named", async () => {
  await writeFile(path.join(home, "big.ts"), "export default { async invoke() {} };");
  await writeFile(path.join(home, "big.json"), '{"name":"big","image":"deno","memory":"900GiB"}');
  const where = ["--later", "--direct", "--box", "box0", "--dropbox-box", "box1"];
  const refused = await bento("run", "big.ts", "--manifest", "big.json", ...where);
  assert.equal(refused.code, 1, refused.err);
  assert.match(refused.err, /Cannot start it at the box: .*memory/i);
  assert.equal((await bento("ls")).out, "");

  await left("waits", "await new Promise(() => setTimeout(() => {}, 1e6));", "--box", "box0");
  const early = await bento("get", "waits");
  assert.equal(early.code, 9, early.err);
  assert.match(early.err, /Not there yet: waits runs at box0/);

  await left("unwanted", "await new Promise(() => setTimeout(() => {}, 1e6));", "--box", "box0");
  const unwanted = (await context()).laters["unwanted"]?.runner;
  await writeFile(path.join(home, "unwanted"), unwanted?.shutdownToken ?? "");
  assert.equal((await bento("ls", "@unwanted", "--box", "box0", "--direct")).code, 0);
  assert.equal((await bento("shutdown", "unwanted")).code, 0);
  assert.equal((await bento("ls", "@unwanted", "--box", "box0", "--direct")).code, 7, "ended at both boxes");

  await left("stopped", "await new Promise(() => setTimeout(() => {}, 1e6));", "--box", "box0");
  const runner = (await context()).laters["stopped"]?.runner;
  assert.ok(runner);
  await writeFile(path.join(home, "token"), runner.shutdownToken);
  assert.equal((await bento("shutdown", "@token", "--box", "box0", "--direct")).code, 0);
  const stopped = await collected("get", "stopped");
  assert.equal(stopped.code, 1, stopped.err);

  await kill("box0");
  const lost = await bento("get", "waits");
  assert.equal(lost.code, 6, lost.err);
  assert.match(lost.err, /no answer has come yet, and box0, which runs waits, does not answer/);

  await kill("box1");
  const alone = await bento("get", "waits");
  assert.equal(alone.code, 6, alone.err);
  assert.doesNotMatch(alone.err, /box0/, "what is wrong is the box that keeps it");
});

async function kill(box: string): Promise<void> {
  const identity = await readPidFile(path.join(home, `.local/state/bento/net/boxes/${box}/pid`));
  assert.ok(identity);
  process.kill(identity.pid, "SIGKILL");
}
