// Shard over a private Tor network, with boxes that die, stall, lie, keep what was replaced, or are full; by the command
// alone and through the `shard` function. One file's shards on four boxes, which fail one after the other.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { copyFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { concat } from "../../src/base/bytes.ts";
import type { StoredFunction } from "../../src/client/client.ts";
import { Download } from "../../src/client/dropbox/get.ts";
import { dropboxPackage, newWriter, putContent, putRequest } from "../../src/client/dropbox/put.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { ShardKeys } from "../../src/client/shard/keys.ts";
import { readReceipt, secretOf, writeReceipt } from "../../src/client/shard/receipt.ts";
import { parseInvocationToken } from "../../src/wire/token.ts";
import type { Finished } from "../support/bento-command.ts";
import { contentOf } from "../support/content.ts";
import { type RunningCommand, TorBoxes } from "../support/tor-boxes.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
/** It has room for little. */
const FULL = 3;
const FULL_BYTES = 3 * MIB;

let net: TorBoxes;
before(async () => {
  net = await TorBoxes.start({
    boxes: 4,
    boxToml: (index) =>
      index === FULL
        ? `[policy.storage]\nbytes = "${FULL_BYTES}B"\n[policy.total]\nstorage = "${FULL_BYTES}B"\n`
        : "",
  });
});
after(() => net?.[Symbol.asyncDispose]());

const signal = () => AbortSignal.timeout(120_000);
const path = (name: string) => join(net.home, name);

async function file(name: string, bytes: number): Promise<Buffer> {
  const content = randomBytes(bytes);
  await writeFile(path(name), content);
  return content;
}

/** `bento shard put NAME` to `NAME.json`. */
function startPut(name: string, k: number, n: number, ...options: readonly string[]): RunningCommand {
  const what = ["put", name, "-k", `${k}`, "-n", `${n}`, "-o", `${name}.json`, "--json"];
  return net.bento("shard", ...what, ...options);
}

const shard = (operation: string, name: string, ...options: readonly string[]) =>
  net.bento("shard", operation, `${name}.json`, "--json", ...net.at(), ...options).finished;

async function comesBack(name: string, content: Uint8Array): Promise<Finished> {
  const got = await shard("get", name, "-o", `${name}.back`);
  assert.equal(got.code, 0, got.out + got.err);
  assert.ok((await readFile(path(`${name}.back`))).equals(content), name);
  return got;
}

type Told = Readonly<Record<string, unknown>>;

/** JSON lines of one kind. */
function told({ out }: Finished, event: string): Told[] {
  const lines = out.split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as Told).filter((line) => line["event"] === event);
}

/** What the box keeps of a shard, fetched as its owner does. */
async function recordsOf(name: string, index: number): Promise<Uint8Array> {
  const { keys, placed, box } = await find(name, index);
  using client = net.client(box);
  await using download = new Download(client, parseInvocationToken(placed.invocationToken), {
    signal: signal(),
    writer: keys.writer(index, placed.generation),
  });
  return concat(await Array.fromAsync(download.content()));
}

/** The box answers for a shard with these records in place of its own. */
async function lie(name: string, index: number, records: Uint8Array): Promise<void> {
  const { receipt, keys, placed, box } = await find(name, index);
  const request = {
    ...putRequest(keys.writer(index, placed.generation), records.length, { gets: 1 }),
    gets: 0,
  };
  const pack = dropboxPackage((await loadPackage("dropbox")).package, request, { size: records.length });
  let stored: StoredFunction | undefined;
  using client = net.client(box);
  await putContent(client, { package: pack }, request, contentOf(records), {
    signal: signal(),
    onStored: (given) => {
      stored = given;
    },
  });
  const { invocationToken, shutdownToken } = stored ?? assert.fail();
  const shards = receipt.shards.map((one) =>
    one.index === index ? { ...one, invocationToken, shutdownToken } : one,
  );
  await writeReceipt(path(`${name}.json`), { ...receipt, shards });
}

async function find(name: string, index: number) {
  const receipt = await readReceipt(path(`${name}.json`));
  const placed = receipt.shards.find((one) => one.index === index) ?? assert.fail(`no shard ${index}`);
  const box = net.boxes.findIndex(({ address }) => address === placed.box);
  return { receipt, keys: new ShardKeys(secretOf(receipt)), placed, box };
}

/** What the first test puts, and what the box of its shard 1 was given. */
let small: Buffer;
let records: Uint8Array;

test("shard over Tor: from k honest boxes, while one lies and one stalls; whoever is named is the liar", async () => {
  small = await file("small", 500 * KIB);
  const put = await startPut("small", 2, 4, ...net.at(0, 1, 2, FULL)).finished;
  assert.equal(put.code, 0, put.out + put.err);
  await comesBack("small", small);
  const { placed: liar } = await find("small", 1);
  records = await recordsOf("small", 1);
  await lie(
    "small",
    1,
    records.map((byte, at) => (at % 30_000 === 7 ? byte ^ 1 : byte)),
  );
  await copyFile(path("small.json"), path("lost.json"));
  await using _held = await net.stall((await find("small", 2)).box);
  const got = await comesBack("small", small);
  // Unless the honest two were the fastest: then nobody asked it.
  const lied = told(got, "got")[0]?.["lied"] as Told[];
  for (const one of lied) assert.deepEqual(one, { index: 1, box: liar.box, fault: "wrong-mac" });
});

test("shard over Tor: a box that is full is named, and its shard goes to another where it may", async () => {
  const content = await file("quota", 700 * KIB);
  const size = 1200 * KIB;
  const request = putRequest(newWriter(), size, { gets: 1 });
  const pack = dropboxPackage((await loadPackage("dropbox")).package, request, { size });
  using client = net.client(FULL);
  for (let others = 0; others < 2; others++)
    await putContent(client, { package: pack }, request, contentOf(randomBytes(size)), { signal: signal() });
  // The box grants as much as is asked for and has not got it: the put runs into it.
  const alone = await startPut("quota", 1, 2, ...net.at(FULL, 0)).finished;
  assert.equal(alone.code, 9, alone.out + alone.err);
  assert.equal(told(alone, "sharded")[0]?.["placed"], 1);
  const failed = told(alone, "shard-failed")[0];
  assert.deepEqual([failed?.["index"], failed?.["box"]], [0, net.address(FULL)]);
  assert.match(String(failed?.["reason"]), /larger than what the box granted/);
  await comesBack("quota", content);
  await writeFile(path("shared"), content);
  const shared = await startPut("shared", 1, 2, "--share-boxes", ...net.at(FULL, 0)).finished;
  assert.equal(shared.code, 0, shared.out + shared.err);
  const { shards } = await readReceipt(path("shared.json"));
  assert.deepEqual(
    shards.map(({ box }) => box),
    [net.address(0), net.address(0)],
  );
  await comesBack("shared", content);
});

test("shard --through over Tor: a box dies in the middle of the fan-out, and its shard is put elsewhere", async () => {
  const content = await file("through", 8 * MIB);
  const put = startPut("through", 2, 3, "--share-boxes", "--through", net.address(0), ...net.at(0, 1, 2));
  await net.storesMore(2, 2 * MIB);
  await net.kill(2, "machine");
  const done = await put.finished;
  assert.equal(done.code, 0, done.out + done.err);
  const failed = told(done, "shard-failed");
  assert.deepEqual(
    failed.map(({ box }) => box),
    [net.address(2)],
    done.out,
  );
  const { shards } = await readReceipt(path("through.json"));
  assert.ok(shards.length === 3 && shards.every(({ box }) => box !== net.address(2)));
  await comesBack("through", content);
});

test("shard over Tor: status names who lies and who is dead; repair puts both anew; what was replaced is stale", async () => {
  const states = async () => {
    const { code, out } = await shard("status", "small");
    assert.equal(code, 9, out);
    return (JSON.parse(out) as { shards: { state: string }[] }).shards.map(({ state }) => state);
  };
  assert.deepEqual(await states(), ["good", "wrong-mac", "dead", "good"]);
  const repair = await shard("repair", "small", "--share-boxes", ...net.at(0));
  assert.equal(repair.code, 0, repair.out + repair.err);
  assert.deepEqual(told(repair, "repaired")[0]?.["good"], 4);
  await comesBack("small", small);
  await lie("small", 1, records);
  assert.deepEqual(await states(), ["good", "stale", "good", "good"]);
});

test("shard over Tor: a box dies in the middle of a put, and its shard goes to another", async () => {
  const content = await file("dying", 8 * MIB);
  const put = startPut("dying", 2, 3, "--share-boxes", ...net.at(0, 1, FULL));
  await net.storesMore(1, 2 * MIB);
  await net.kill(1, "machine");
  const done = await put.finished;
  assert.equal(done.code, 0, done.out + done.err);
  const { shards } = await readReceipt(path("dying.json"));
  assert.deepEqual(
    shards.map(({ box }) => box),
    [net.address(0), net.address(0), net.address(0)],
  );
  await comesBack("dying", content);
});

test("shard --through over Tor: when the box in between dies, the client puts the rest itself", async () => {
  const content = await file("alone", 8 * MIB);
  const put = startPut("alone", 2, 2, "--share-boxes", "--through", net.address(FULL), ...net.at(0));
  await net.storesMore(0, 2 * MIB);
  await net.kill(FULL, "machine");
  const done = await put.finished;
  assert.equal(done.code, 0, done.out + done.err);
  await comesBack("alone", content);
});

test("shard over Tor: with too many boxes dead the file does not come back, and the client says so", async () => {
  // As the receipt was before the repair: of its shards one is at box 0, the others' boxes are dead by now.
  const got = await shard("get", "lost", "-o", "none");
  assert.equal(got.code, 9, got.out + got.err);
  assert.match(got.err, /1 shards can be had, it takes 2 \(3 failed, 0 of them by lying\)/);
  assert.deepEqual(
    told(got, "shard-fault").map(({ fault }) => fault),
    ["dead", "dead", "dead"],
  );
});
