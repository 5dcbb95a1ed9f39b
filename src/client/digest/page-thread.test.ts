import assert from "node:assert/strict";
import { test } from "node:test";
import { fromUtf8, utf8 } from "../../base/bytes.ts";
import type { ContentRecord } from "../../wire/digest.ts";
import { PageThread } from "./page-thread.ts";
import { type PageContent, writePage } from "./page-writer.ts";

const URL = "http://a.test/";
const page = (text: string): ContentRecord => ({
  kind: "page",
  url: URL,
  finalUrl: URL,
  status: 200,
  type: "text/html",
  body: utf8(`<!DOCTYPE html><title>t</title><link rel=stylesheet href=a.css><p>${text}<img src=a.png>`),
});
const style: ContentRecord = {
  kind: "resource",
  url: `${URL}a.css`,
  finalUrl: `${URL}a.css`,
  status: 200,
  type: "text/css",
  body: utf8("p { color: red }"),
};
const contentOf = (one: ContentRecord, ...resources: ContentRecord[]): PageContent => ({
  page: one,
  resources: new Map(resources.map((each) => [each.url, each])),
  failures: [],
  receivedAtMs: 0,
});

test("PageThread: a page that was read ahead is written as any other", async () => {
  using thread = new PageThread();
  const one = page("words");
  const expected = writePage(contentOf(one, style));
  thread.readAhead(one);
  assert.deepEqual(await thread.render(contentOf(one, style)), expected);
  // Once: writing has changed what was read.
  assert.deepEqual(await thread.render(contentOf(one, style)), expected);
  thread.readAhead(one);
  assert.deepEqual(await thread.render(contentOf(one)), writePage(contentOf(one)));
});

test("PageThread: what was read ahead is not taken for another page", async () => {
  using thread = new PageThread();
  thread.readAhead(page("one"));
  assert.match(fromUtf8(await thread.render(contentOf(page("other")))), /<p>other/);
  thread.readAhead(page("two"));
  const failure = { kind: "failure", url: URL, reason: "network", detail: "no such host" } as const;
  const none = { ...contentOf(page("")), page: undefined, failures: [failure] };
  assert.match(fromUtf8(await thread.render(none)), /could not be fetched/);
});
