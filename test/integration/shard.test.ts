// Shard on real boxes: any k of n, and boxes that die, stall, lie or are full. Needs root.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { after, before, test } from "node:test";
import { concat } from "../../src/base/bytes.ts";
import { BoxClient, type Dial, directDial, type StoredFunction } from "../../src/client/client.ts";
import { dropboxPackage, putContent, putRequest } from "../../src/client/dropbox/put.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { ShardKeys } from "../../src/client/shard/keys.ts";
import { placeShards, type Target } from "../../src/client/shard/place.ts";
import { type PlacedShard, type Receipt, readReceipt } from "../../src/client/shard/receipt.ts";
import { Retrieval, type ShardReport } from "../../src/client/shard/retrieve.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import { openFile } from "../../src/wire/sealed-file.ts";
import { ShardCodec } from "../../src/wire/shard/codec.ts";
import { fileBytesOf, ShardLayout, stripesOf } from "../../src/wire/shard/layout.ts";
import { parseInvocationToken } from "../../src/wire/token.ts";
import { endInput, type Finished, finished, startBento } from "../support/bento-command.ts";
import { ownUids } from "../support/own-uids.ts";
import { processesOf, SpawnedBox } from "../support/spawned-box.ts";

const BOXES = 6;
const KIB = 1024;
/** Small, so that a test can be over it. */
const STORAGE = "3MiB";

let dir: string;
let pack: PackageInput;
const boxes: SpawnedBox[] = [];
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-shard-"));
  pack = (await loadPackage("dropbox")).package;
  for (let at = 0; at < BOXES; at++) boxes.push(await startBox(`box${at}`, at));
});
after(async () => {
  for (const box of boxes) await box[Symbol.asyncDispose]();
  assert.deepEqual(await processesOf(ownUids(100 * (BOXES + 2))), []);
  await rm(dir, { recursive: true });
});

function startBox(name: string, at: number): Promise<SpawnedBox> {
  return SpawnedBox.start(join(dir, name), {
    uids: ownUids(100, 100 * at),
    toml: `[policy.storage]\nbytes = "${STORAGE}"\n[warm]\ndeno = 1\npython = 0`,
  });
}

const signal = () => AbortSignal.timeout(90_000);
const address = (box: SpawnedBox | undefined) => `127.0.0.1:${box?.client.port}`;
const clientAt = (box: string, dial: Dial = directDial) => new BoxClient({ address: box, dial });

/** A file over the first n boxes. */
class Sharded {
  readonly bytes: Uint8Array;
  readonly layout: ShardLayout;
  readonly keys = new ShardKeys(randomBytes(32));
  shards: PlacedShard[] = [];

  constructor(k: number, n: number, size: number) {
    this.bytes = randomBytes(size);
    this.layout = new ShardLayout(k, n, size);
  }

  targets(clientOf: (box: string, index: number) => BoxClient = (box) => clientAt(box)): Target[] {
    return Array.from({ length: this.layout.n }, (_, index) => {
      const box = address(boxes[index]);
      return { index, generation: 1, box, client: clientOf(box, index) };
    });
  }

  async place(
    targets = this.targets(),
    options: { stallMs?: number; onProgress?: (bytes: number) => void } = {},
  ) {
    const { bytes } = this;
    const read = async function* () {
      for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000);
    };
    const result = await placeShards(stripesOf(read(), this.layout), this.layout, this.keys, targets, {
      signal: signal(),
      package: pack,
      attemptsMax: 2,
      ...options,
    });
    this.shards = [...result.placed];
    return result;
  }

  /** What comes back, or why not, and what became of each shard. */
  async fetch(
    shards: readonly PlacedShard[] = this.shards,
    dialOf: (shard: PlacedShard) => Dial = () => directDial,
  ): Promise<{
    whole: boolean;
    reports: readonly ShardReport[];
    faults: Record<number, string>;
    error?: unknown;
  }> {
    const faults: Record<number, string> = {};
    await using retrieval = new Retrieval(shards, this.layout, this.keys, {
      signal: signal(),
      clientOf: (shard) => clientAt(shard.box, dialOf(shard)),
      hedgeMs: 500,
      attemptsMax: 1,
      onFault: (shard, fault) => {
        faults[shard.index] = fault;
      },
    });
    const parts: Uint8Array[] = [];
    try {
      for await (const stripe of retrieval.stripes()) parts.push(...fileBytesOf(stripe, this.layout));
    } catch (error) {
      return { whole: false, reports: retrieval.reports, faults, error };
    }
    return { whole: Buffer.from(concat(parts)).equals(this.bytes), reports: retrieval.reports, faults };
  }
}

test("shard: placed on n boxes, back from all and from each k of them", async () => {
  const file = new Sharded(3, 5, 700 * KIB);
  const { placed, failed } = await file.place();
  assert.deepEqual([placed.length, failed], [5, []]);
  assert.equal((await file.fetch()).whole, true);
  for (const missing of [
    [0, 1],
    [2, 4],
    [3, 4],
  ]) {
    const { whole } = await file.fetch(file.shards.filter(({ index }) => !missing.includes(index)));
    assert.equal(whole, true, `without ${missing.join()}`);
  }
  const { error } = await file.fetch(file.shards.slice(0, 2));
  assert.equal(Reflect.get(error as object, "code"), "too-few-shards");
});

test("shard: a shard is what the code says, and one block too", async () => {
  const file = new Sharded(2, 3, 100);
  await file.place();
  const [first, second] = [file.bytes.subarray(0, 50), file.bytes.subarray(50)];
  const parity = new ShardCodec(2, 3).parity([first, second])[0] as Uint8Array;
  assert.ok(parity.every((byte, at) => byte === ((first[at] ?? 0) ^ (second[at] ?? 0))));
  assert.equal((await file.fetch(file.shards.filter(({ index }) => index !== 0))).whole, true);
});

/** Puts another function in the place of a shard's Dropbox: the same content, but for what `change` does to it. */
async function replace(
  file: Sharded,
  index: number,
  change: {
    content?: (shard: Uint8Array) => Uint8Array;
    source?: (text: string) => string;
    generation?: number;
  },
): Promise<PlacedShard> {
  const old = file.shards.find((shard) => shard.index === index);
  assert.ok(old);
  const generation = change.generation ?? old.generation;
  const writer = file.keys.writer(index, generation);
  const shard = await contentOf(file, old);
  const content = change.content?.(shard) ?? shard;
  const request = { ...putRequest(writer, content.length, { gets: 1 }), gets: 0 };
  const packed = dropboxPackage(pack, request, { size: content.length });
  const source = change.source?.(pack.source) ?? pack.source;
  if (change.source) assert.notEqual(source, pack.source, "the lie is in the source");
  let stored: StoredFunction | undefined;
  await putContent(
    clientAt(old.box),
    { package: { ...packed, source } },
    request,
    {
      size: content.length,
      async *read(from) {
        yield content.subarray(from);
      },
    },
    {
      signal: signal(),
      onStored: (given) => {
        stored = given;
      },
    },
  );
  assert.ok(stored);
  const { invocationToken, shutdownToken } = stored;
  return { ...old, generation, invocationToken, shutdownToken };
}

async function contentOf(file: Sharded, shard: PlacedShard): Promise<Uint8Array> {
  const { Download } = await import("../../src/client/dropbox/get.ts");
  await using download = new Download(clientAt(shard.box), parseInvocationToken(shard.invocationToken), {
    signal: signal(),
    writer: file.keys.writer(shard.index, shard.generation),
  });
  const parts: Uint8Array[] = [];
  for await (const part of download.content()) parts.push(part);
  return concat(parts);
}

test("shard: boxes that lie are found out and named, and the file comes from the others", async () => {
  const file = new Sharded(2, 6, 900 * KIB);
  await file.place();
  const flip = (at: number) => (shard: Uint8Array) =>
    shard.map((byte, index) => (index === at ? byte ^ 1 : byte));
  const lies = {
    0: await replace(file, 0, { content: flip(70_000) }),
    1: await replace(file, 1, { content: (shard) => shard.subarray(0, -1) }),
    2: await replace(file, 2, { generation: 2 }),
    3: await replace(file, 3, {
      // A function that answers as a Dropbox does, but keeps other content.
      source: (text) => {
        const lying = text.replace("yield piece;", "yield piece.map((byte) => byte ^ 255);");
        assert.notEqual(lying, text, "the function has the line that a liar changes");
        return lying;
      },
    }),
  };
  const shards = file.shards.map((shard) => lies[shard.index as 0] ?? shard);
  const { whole, faults } = await file.fetch(shards);
  assert.equal(whole, true);
  assert.deepEqual(faults, { 0: "wrong-mac", 1: "wrong-length", 2: "stale", 3: "wrong-mac" });
  // One more, and too few honest ones are left: an error, never wrong bytes.
  const five = { ...lies, 4: await replace(file, 4, { content: flip(0) }) };
  const hopeless = await file.fetch(file.shards.map((shard) => five[shard.index as 0] ?? shard));
  assert.equal(Reflect.get(hopeless.error as object, "code"), "too-few-shards");
  assert.match(String(hopeless.error), /5 of them by lying/);
});

test("shard: a token that the box does not know, and a box that is not there, are no lies", async () => {
  const file = new Sharded(2, 4, 300 * KIB);
  await file.place();
  const [a, b, ...rest] = file.shards as [PlacedShard, PlacedShard];
  await clientAt(b.box).shutdown(b.shutdownToken as never);
  const { whole, faults } = await file.fetch([{ ...a, box: "127.0.0.1:1" }, b, ...rest]);
  assert.equal(whole, true);
  assert.deepEqual(faults, { 0: "dead", 1: "gone" });
});

/** A dial whose streams stop delivering after so many bytes, without closing. */
function stallingDial(bytes: number): Dial {
  return async (target, options) => {
    const stream: Duplex = await directDial(target, options);
    let seen = 0;
    stream.on("data", (chunk: Uint8Array) => {
      seen += chunk.length;
      if (seen > bytes) stream.pause();
    });
    const resume = stream.resume.bind(stream);
    stream.resume = () => (seen > bytes ? stream : resume());
    return stream;
  };
}

test("shard: links that stall are not waited for", async () => {
  const file = new Sharded(2, 5, 1500 * KIB);
  await file.place();
  const { whole, reports } = await file.fetch(file.shards, ({ index }) =>
    index < 3 ? stallingDial(150 * KIB) : directDial,
  );
  assert.equal(whole, true);
  const blocks = Object.fromEntries(reports.map(({ shard, blocks }) => [shard.index, blocks]));
  assert.ok((blocks[3] ?? 0) > 5 && (blocks[4] ?? 0) > 5, JSON.stringify(blocks));
});

test("shard: a put goes on without a box that dies in the middle, and without one whose link stalls", async () => {
  const file = new Sharded(2, 5, 3000 * KIB);
  const dying = await startBox("dying", BOXES);
  const targets = file.targets((box, index) => clientAt(box, index === 3 ? stallingDial(0) : directDial));
  targets[1] = { index: 1, generation: 1, box: address(dying), client: clientAt(address(dying)) };
  let killed: Promise<void> | undefined;
  const { placed, failed } = await file.place(targets, {
    stallMs: 2000,
    onProgress: (bytes) => {
      if (bytes > 1000 * KIB) killed ??= dying.end("SIGKILL");
    },
  });
  await killed;
  assert.deepEqual(new Set(placed.map(({ index }) => index)), new Set([0, 2, 4]));
  assert.deepEqual(new Set(failed.map(({ target }) => target.index)), new Set([1, 3]));
  assert.equal((await file.fetch()).whole, true);
});

test("shard: a shard larger than what a box grants is refused by that box", async () => {
  const file = new Sharded(1, 2, 4 * 1024 * KIB);
  const { placed, failed } = await file.place();
  assert.equal(placed.length, 0);
  assert.deepEqual(
    failed.map(({ error }) => Reflect.get(error as object, "code")),
    ["policy-refused", "policy-refused"],
  );
});

async function bento(...args: readonly string[]): Promise<Finished> {
  const child = startBento(dir, args, { XDG_STATE_HOME: join(dir, "state") });
  endInput(child);
  const all = await finished(child, "latin1");
  assert.doesNotMatch(all.err, /\n\s+at /, "no stack trace reaches a user");
  return all;
}

test("bento shard put --through: the function on a box computes parity and hands the shards on", async () => {
  const content = randomBytes(1000 * KIB);
  await writeFile(join(dir, "once"), content);
  const box = address(boxes[0]);
  const at = ["--direct", "--box", box, "--share-boxes", "--through", box];
  const put = await bento("shard", "put", "once", "-k", "3", "-n", "5", "-o", "once.json", ...at);
  assert.equal(put.code, 0, put.err);
  assert.match(put.err, /5 of 5 shards are placed/);
  const receipt = await readReceipt(join(dir, "once.json"));
  const keys = new ShardKeys(Buffer.from(receipt.secret, "base64url"));
  const layout = new ShardLayout(3, 5, receipt.sealedBytes);
  // Parity alone, as far as it goes: what the box computed is what the client had authenticated.
  await using retrieval = new Retrieval(receipt.shards.slice(2), layout, keys, {
    signal: signal(),
    clientOf: (shard) => clientAt(shard.box),
  });
  const sealed = async function* () {
    for await (const stripe of retrieval.stripes()) yield* fileBytesOf(stripe, layout);
  };
  const parts: Uint8Array[] = [];
  for await (const part of openFile(sealed(), keys.sealKey)) parts.push(part);
  assert.ok(Buffer.concat(parts).equals(content));
});

// Last: it ends boxes.
test("bento shard put, status, get, repair: through the loss of boxes", async () => {
  const content = Buffer.concat([Buffer.from("SECRET TEXT "), randomBytes(600 * KIB)]);
  await writeFile(join(dir, "file"), content);
  const at = (...numbers: readonly number[]) => [
    "--direct",
    ...numbers.flatMap((number) => ["--box", address(boxes[number])]),
  ];
  const few = await bento("shard", "put", "file", "-k", "2", "-n", "4", "-o", "r.json", ...at(0, 1));
  assert.equal(few.code, 2);
  assert.match(few.err, /4 shards want as many boxes, 2 are known/);
  const put = await bento("shard", "put", "file", "-k", "2", "-n", "4", "-o", "r.json", ...at(0, 1, 2, 3));
  assert.equal(put.code, 0, put.err);
  assert.equal((await stat(join(dir, "r.json"))).mode & 0o777, 0o600);
  assert.equal((await bento("shard", "put", "file", "-k", "1", "-n", "1", "-o", "r.json", ...at(0))).code, 2);
  const get = await bento("shard", "get", "r.json", "--direct", "-o", "back");
  assert.equal(get.code, 0, get.err);
  assert.ok((await readFile(join(dir, "back"))).equals(content));
  assert.equal((await bento("shard", "status", "r.json", "--direct")).code, 0);

  for (const number of [0, 2]) await boxes[number]?.end("SIGKILL");
  const status = await bento("shard", "status", "r.json", "--direct", "--json");
  assert.equal(status.code, 9, status.err);
  const { good, shards } = JSON.parse(status.out) as { good: number; shards: { state: string }[] };
  assert.deepEqual([good, shards.map(({ state }) => state)], [2, ["dead", "good", "dead", "good"]]);
  assert.equal((await bento("shard", "get", "r.json", "--direct", "-o", "back2")).code, 0);

  const repair = await bento("shard", "repair", "r.json", ...at(1, 3, 4, 5));
  assert.equal(repair.code, 0, repair.err);
  const receipt: Receipt = await readReceipt(join(dir, "r.json"));
  assert.deepEqual(
    receipt.shards.map(({ index, generation }) => [index, generation]),
    [
      [0, 2],
      [1, 1],
      [2, 2],
      [3, 1],
    ],
  );
  assert.deepEqual(
    new Set(receipt.shards.map(({ box }) => box)),
    new Set([1, 3, 4, 5].map((number) => address(boxes[number]))),
  );
  // The two that were never repaired end; those that were carry the file.
  const renewed = await bento("shard", "repair", "r.json", "--renew", "30d", ...at(1, 3, 4, 5));
  assert.equal(renewed.code, 0, renewed.err);
  const leases = (await readReceipt(join(dir, "r.json"))).shards;
  assert.deepEqual(
    leases.map(({ generation }) => generation),
    [3, 2, 3, 2],
  );
  for (const [index, shard] of leases.entries())
    assert.ok(shard.expiresAt > (receipt.shards[index]?.expiresAt ?? 0));
  for (const number of [1, 3]) await boxes[number]?.end("SIGKILL");
  const last = await bento("shard", "get", "r.json", "--direct");
  assert.equal(last.out, content.toString("latin1"), last.err);
  await boxes[4]?.end("SIGKILL");
  const lost = await bento("shard", "get", "r.json", "--direct", "-o", "none");
  assert.equal(lost.code, 9);
  assert.match(lost.err, /shard [02] on \S+ is out \(dead\)/);
});
