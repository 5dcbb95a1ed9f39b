import assert from "node:assert/strict";
import { test } from "node:test";
import { concat, utf8 } from "../../src/base/bytes.ts";
import { u32 } from "../../src/onion/fields.ts";
import { MemoryStorage } from "../../test/support/in-process-boxes.ts";
import { siteOf } from "../../test/support/load-balancer.ts";
import { heldSite, type ReadSite, Site, storedSite, storeSite } from "./site.ts";

const DIGEST = "0123456789abcdef".repeat(4);

async function* pieces(bytes: Uint8Array, size = 7): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

const readerOf =
  (bytes: Uint8Array): ReadSite =>
  (offset) =>
    pieces(bytes.subarray(offset));

async function contentOf(site: Site, path: string, from = 0, count?: number): Promise<string> {
  const file = site.file(path);
  assert.ok(file, path);
  const parts: Uint8Array[] = [];
  for await (const piece of file.read(from, count ?? file.bytes - from)) parts.push(piece.slice());
  return Buffer.from(concat(parts)).toString();
}

test("files from memory, from storage, and across both", async () => {
  const bytes = siteOf({ a: utf8("first"), b: utf8("second file"), empty: new Uint8Array(0) });
  const about = { bytes: bytes.length, digest: DIGEST };
  for (let held = bytes.length - 16; held <= bytes.length; held++) {
    // As if there were room for so many bytes: everything else is read when it is asked for.
    const site = await Site.open(readerOf(bytes), about, held - 8 * 2 ** 20);
    assert.equal(await contentOf(site, "a"), "first");
    assert.equal(await contentOf(site, "b"), "second file");
    assert.equal(await contentOf(site, "b", 3, 5), "ond f");
    assert.equal(await contentOf(site, "empty"), "");
  }
});

test("what is no site is refused", async () => {
  const open = async (bytes: Uint8Array, announced = bytes.length) =>
    Site.open(readerOf(bytes), { bytes: announced, digest: DIGEST });
  const good = siteOf({ a: utf8("x") });
  await open(good);
  await assert.rejects(open(concat([good, utf8("y")])), /by its index/u);
  await assert.rejects(open(good.subarray(0, -1), good.length), /expected/u);
  await assert.rejects(open(new Uint8Array(3)), /no index/u);
  await assert.rejects(open(Uint8Array.of(255, 255, 255, 255, 1)), /an index of/u);
  await assert.rejects(open(concat([Uint8Array.of(0, 0, 0, 1), utf8("x")])), /no JSON/u);
  for (const file of [
    { path: "", bytes: 0, type: "a/b" },
    { path: "a", bytes: -1, type: "a/b" },
    { path: "a", bytes: 0, type: "a/b\r\nX-Evil: 1" },
    { path: "a".repeat(1025), bytes: 0, type: "a/b" },
    null,
  ]) {
    const index = utf8(JSON.stringify({ files: [file] }));
    await assert.rejects(open(concat([u32(index.length), index])), /of another form/u);
  }
  const twice = utf8(JSON.stringify({ files: [1, 2].map(() => ({ path: "a", bytes: 0, type: "a/b" })) }));
  await assert.rejects(open(concat([u32(twice.length), twice])), /twice/u);
});

test("kept whole, found by another instance; a part of it, or another one, is not", async () => {
  const storage = new MemoryStorage();
  const bytes = siteOf({ a: utf8("first") });
  const about = { bytes: bytes.length, digest: DIGEST };
  assert.equal(await storedSite(storage, about), undefined);
  await storeSite(storage, pieces(bytes), about);
  const read = await storedSite(storage, about);
  assert.ok(read);
  assert.equal(await contentOf(await Site.open(read, about), "a"), "first");
  assert.equal(await storedSite(storage, { ...about, bytes: bytes.length + 1 }), undefined);
  assert.equal(await storedSite(storage, { ...about, digest: "f".repeat(64) }), undefined);
});

test("without storage it is held, as far as there is room", async () => {
  const bytes = siteOf({ a: utf8("first") });
  await heldSite(pieces(bytes), bytes.length);
  await assert.rejects(heldSite(pieces(bytes), bytes.length - 1), /no storage was granted/u);
});
