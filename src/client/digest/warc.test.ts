import assert from "node:assert/strict";
import { test } from "node:test";
import { WARCParser } from "warcio";
import { concat, utf8 } from "../../base/bytes.ts";
import type { ContentRecord } from "../../wire/digest.ts";
import { warcOf } from "./warc.ts";

const PAGE: ContentRecord = {
  kind: "page",
  url: "http://site.test/",
  finalUrl: "http://www.site.test/home?a=ä b",
  status: 404,
  type: "text/html; charset=utf-8\r\nInjected: yes",
  body: utf8("<p>gone</p>"),
};
const PICTURE: ContentRecord = {
  kind: "resource",
  url: "http://site.test/a.png",
  finalUrl: "http://site.test/a.png",
  status: 200,
  type: "image/png",
  body: Uint8Array.of(0x89, 0x50, 0x0d, 0x0a, 0x0d, 0x0a, 0x00),
};

async function records(resources: readonly ContentRecord[]) {
  const parts: Uint8Array[] = [];
  for await (const part of warcOf(resources, { receivedAtMs: 1_700_000_000_000, software: "bento test" })) {
    parts.push(part);
  }
  const all = [];
  for await (const record of new WARCParser([concat(parts)])) {
    all.push({
      type: record.warcType,
      url: record.warcTargetURI,
      date: record.warcDate,
      status: record.httpHeaders?.statusCode,
      headers: Object.fromEntries(record.httpHeaders?.headers ?? []),
      body: await record.readFully(true),
    });
  }
  return all;
}

test("warcOf: a reader finds every resource, its redirect, and its bytes", async () => {
  const [info, moved, page, picture, ...more] = await records([PAGE, PICTURE]);
  assert.equal(info?.type, "warcinfo");
  assert.equal(moved?.status, 302);
  assert.equal(moved?.headers["location"], "http://www.site.test/home?a=%C3%A4%20b");
  assert.deepEqual(
    [page?.type, page?.url, page?.status, page?.date],
    ["response", "http://www.site.test/home?a=%C3%A4%20b", 404, "2023-11-14T22:13:20.000Z"],
  );
  assert.equal(Buffer.from(page?.body ?? []).toString(), "<p>gone</p>");
  assert.deepEqual(Buffer.from(picture?.body ?? []), Buffer.from(PICTURE.body));
  assert.equal(picture?.headers["content-type"], "image/png");
  assert.deepEqual(more, []);
});

test("warcOf: a hostile type adds no header", async () => {
  const [, , page] = await records([PAGE]);
  assert.deepEqual(Object.keys(page?.headers ?? {}).sort(), ["content-length", "content-type"]);
});
