// Dropbox, Cover and a rendered page over a private Tor network: boxes that die in the middle, links that stall, tokens that
// are worth nothing, quotas. Each case is what a user meets: a command's exit code and text, or the library's error.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { StoredFunction } from "../../src/client/client.ts";
import { Download } from "../../src/client/dropbox/get.ts";
import {
  dropboxPackage,
  newWriter,
  type PutOptions,
  putContent,
  putRequest,
} from "../../src/client/dropbox/put.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { WebServer } from "../../src/testnet/web-server.ts";
import { socksConnect } from "../../src/tor/socks.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import { contentOf } from "../support/content.ts";
import { skipRendered } from "../support/rendered-session.ts";
import { TorBoxes } from "../support/tor-boxes.ts";

const MIB = 2 ** 20;
/** Box 0 lives through all tests; box 1 dies. */
const [STEADY, DYING] = [0, 1];

let net: TorBoxes;
let pack: PackageInput;
before(async () => {
  net = await TorBoxes.start({ boxes: 2, boxToml: '[policy.storage]\nbytes = "24MiB"\n' });
  pack = (await loadPackage("dropbox")).package;
});
after(() => net?.[Symbol.asyncDispose]());

const signal = () => AbortSignal.timeout(120_000);
const path = (name: string) => join(net.home, name);

async function file(name: string, bytes: number): Promise<Buffer> {
  const content = randomBytes(bytes);
  await writeFile(path(name), content);
  return content;
}

async function deposit(
  box: number,
  bytes: Uint8Array,
  options: Partial<PutOptions> & { lifetimeMs?: number; grantedBytes?: number } = {},
): Promise<StoredFunction> {
  const { lifetimeMs, grantedBytes = bytes.length, ...rest } = options;
  const request = putRequest(newWriter(), bytes.length, { gets: 1 });
  const packed = dropboxPackage(pack, request, { size: grantedBytes, lifetimeMs });
  using client = net.client(box);
  let stored: StoredFunction | undefined;
  const size = await putContent(client, { package: packed }, request, contentOf(bytes), {
    signal: signal(),
    onStored: (given) => {
      stored = given;
    },
    ...rest,
  });
  assert.equal(size, bytes.length);
  return stored ?? assert.fail("nothing was stored");
}

test("rendered: boxes of a private network offer the browser where it is installed, and nothing of it elsewhere", async () => {
  using client = net.client(STEADY);
  const { images } = await client.policy();
  assert.equal(images.includes("chromium"), !skipRendered, String(skipRendered));
});

test("rendered: a page that its script makes, through Tor", { skip: skipRendered }, async () => {
  await writeFile(
    path("index.html"),
    "<!doctype html><p id=p>empty</p><script>p.textContent = 'made by ' + 'script'</script>",
  );
  await using web = await WebServer.start({ folder: net.home, address: net.testnet.plan.webAddress });
  const url = `http://${web.address}:${web.port}/`;
  const page = async (engine: string) => {
    const done = await net.bento(
      "browse",
      url,
      "--engine",
      engine,
      "--shape",
      "none",
      "-o",
      `${engine}.html`,
      ...net.at(STEADY),
    ).finished;
    assert.equal(done.code, 0, done.err);
    return readFile(path(`${engine}.html`), "utf8");
  };
  assert.match(await page("rendered"), /made by script/);
  assert.match(await page("static"), /<p id="?p"?>empty/, "control: without a browser no script runs");
});

test("dropbox: a box that is killed in the middle of a put and started again has the file in the end", async () => {
  const content = await file("killed", 8 * MIB);
  const put = net.bento("put", "killed", "--as", "killed", "--json", ...net.at(DYING));
  await put.says(/"kept","bytes":[1-9]/);
  await net.kill(DYING);
  await net.restart(DYING);
  const { code, out, err } = await put.finished;
  assert.equal(code, 0, err);
  // What a box stores is under a key that it held in memory alone: the client starts over, and says so.
  assert.equal(out.split('"kept","bytes":0}').length, 3, out);
  const got = await net.bento("get", "killed", "-o", "killed.back").finished;
  assert.equal(got.code, 0, got.err);
  assert.ok((await readFile(path("killed.back"))).equals(content));
});

test("dropbox: a link that stalls and never moves again is one clear error, within the client's patience", async () => {
  await using _held = await net.stall(DYING);
  const startMs = performance.now();
  const [stallMs, attemptsMax] = [1500, 2];
  await assert.rejects(deposit(DYING, randomBytes(MIB), { stallMs, attemptsMax }), (error) => {
    assert.deepEqual(
      [Reflect.get(error as object, "code"), String(error)],
      ["stalled", "BentoError: No answer within 1.5 s"],
    );
    return true;
  });
  // Two attempts and the pause between them; the rest is for a busy machine.
  assert.ok(performance.now() - startMs < 10 * stallMs * attemptsMax);
});

test("cover: a box that dies in the middle ends it, with what goes on inside; the client says so at once", async () => {
  await writeFile(
    path("waits.ts"),
    "export default { invoke: () => new Promise(() => setTimeout(() => {}, 1e6)) };",
  );
  const reach = ["--json", ...net.at(DYING)];
  const idle = net.bento("cover", "--rate", "64KiB/s", "--for", "10m", ...reach);
  const busy = net.bento("run", "waits.ts", "--cover", "64KiB/s", ...reach);
  await Promise.all([idle.says(/"covering"/), busy.says(/"attached"/)]);
  await net.kill(DYING);
  const startMs = performance.now();
  const ends = await Promise.all([idle.finished, busy.finished]);
  const tookMs = performance.now() - startMs;
  await net.restart(DYING);
  for (const { code, out, err } of ends) {
    assert.equal(code, 6, out + err);
    assert.match(err, /Connection lost: the cover has ended/);
  }
  // Attaching again would be tried for half a minute, and the command took ten seconds more to clean up.
  assert.ok(tookMs < 25_000, `${tookMs} ms`);
});

test("dropbox: a box that dies in the middle of a download has lost the content, and the client says so", async () => {
  await file("large", 16 * MIB);
  const put = await net.bento("put", "large", "--as", "large", ...net.at(DYING)).finished;
  assert.equal(put.code, 0, put.err);
  const get = net.bento("get", "large", "-o", "back");
  while (((await stat(path("back.part")).catch(() => undefined))?.size ?? 0) < MIB / 4) await settled();
  await net.kill(DYING, "machine");
  assert.ok((await stat(path("back.part"))).size < 16 * MIB, "it was in the middle");
  await net.restart(DYING);
  const { code, err } = await get.finished;
  assert.equal(code, 9, err);
  assert.match(err, /Cannot go on: the box has lost the content/);
  assert.match(err, /are kept in back\.part/);
  await assert.rejects(stat(path("back")), hasCode("ENOENT"));
});

/** The steady box holds still from `begin` on, until its client has tried again twice: both its requests wait there by then. */
class Stall implements AsyncDisposable {
  #held: Promise<AsyncDisposable> | undefined;
  retries = 0;

  begin(): Promise<unknown> {
    this.#held ??= net.stall(STEADY);
    return this.#held;
  }

  readonly onRetry = (): void => {
    if (this.#held && ++this.retries === 2) void this[Symbol.asyncDispose]();
  };

  async [Symbol.asyncDispose](): Promise<void> {
    await (await this.#held)?.[Symbol.asyncDispose]();
  }
}

test("dropbox: a link that stalls is given up, and used again when it moves", async () => {
  const bytes = randomBytes(6 * MIB);
  const patience = { stallMs: 2000, attemptsMax: 12 };
  await using putting = new Stall();
  const stored = await deposit(STEADY, bytes, {
    ...patience,
    onRetry: putting.onRetry,
    onKept: (at) => {
      if (at > 0) putting.begin().catch(assert.ifError);
    },
  });
  assert.ok(putting.retries >= 2);
  await using getting = new Stall();
  using client = net.client(STEADY);
  const { onRetry } = getting;
  const options = { signal: signal(), ...patience, onRetry };
  await using download = new Download(client, stored.invocationToken, options);
  const parts: Uint8Array[] = [];
  for await (const part of download.content()) {
    parts.push(part);
    await getting.begin();
  }
  await download.confirm();
  assert.ok(getting.retries >= 2);
  assert.ok(Buffer.concat(parts).equals(bytes));
});

/** What is on the wire but for the date: the answer to starting it with an operation that changes nothing. */
async function answerTo(token: string): Promise<string> {
  const address = net.address(STEADY);
  const [host = "", port] = address.split(":");
  const body = '{"args":["status",{}]}';
  const head = [
    "POST /v1/exec HTTP/1.1",
    `host: ${address}`,
    `authorization: Bearer ${token}`,
    "content-type: application/json",
    `content-length: ${body.length}`,
    "connection: close",
  ];
  const stream = await socksConnect({
    proxy: net.testnet.socks(),
    host,
    port: Number(port),
    optimisticData: Buffer.from(`${head.join("\r\n")}\r\n\r\n${body}`),
  });
  const parts = await Array.fromAsync(stream as AsyncIterable<Buffer>);
  return Buffer.concat(parts)
    .toString()
    .replace(/^date: .*\r\n/im, "");
}

test("dropbox: a wrong token, one that is used up and one that expired are answered alike, byte for byte", async () => {
  const expiring = await deposit(STEADY, randomBytes(10), { lifetimeMs: 5000 });
  assert.match(await answerTo(expiring.invocationToken), /^HTTP\/1\.1 201 /, "control: it is there");
  const used = await deposit(STEADY, randomBytes(10));
  const link = `${used.invocationToken}@${net.address(STEADY)}`;
  const get = (from: string) => net.bento("get", from, ...net.at()).finished;
  assert.equal((await get(link)).code, 0);
  const made = crypto.randomUUID();
  const wrong = await answerTo(made);
  assert.match(wrong, /^HTTP\/1\.1 403 /);
  assert.equal(await answerTo(used.invocationToken), wrong);
  assert.deepEqual(await get(link), await get(`${made}@${net.address(STEADY)}`));
  assert.equal((await get(link)).code, 7);
  while (Date.now() < expiring.expiresAt + 500) await settled();
  assert.equal(await answerTo(expiring.invocationToken), wrong);
});

test("dropbox: a file that is larger than the box grants, or than it granted, is refused", async () => {
  await file("huge", 25 * MIB);
  const put = await net.bento("put", "huge", ...net.at(STEADY)).finished;
  assert.equal(put.code, 4, put.err);
  assert.match(put.err, /storage/);
  const bytes = randomBytes(2 * MIB);
  await assert.rejects(deposit(STEADY, bytes, { grantedBytes: MIB / 2 }), hasCode("too-large"));
  await deposit(STEADY, bytes);
});

function hasCode(code: string) {
  return (error: unknown) => Reflect.get(error as object, "code") === code;
}

function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 10));
}
