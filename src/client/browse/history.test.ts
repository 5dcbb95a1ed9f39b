import assert from "node:assert/strict";
import { test } from "node:test";
import { History } from "./history.ts";

const page = (bytes = 1) => new Uint8Array(bytes);

test("History: back and forward give what was kept; a new page forgets what lay ahead", () => {
  const history = new History<string>();
  for (const request of ["a", "b", "c"]) {
    history.push(request);
    history.keep(request, page());
  }
  assert.equal(history.go(-2)?.request, "a");
  assert.ok(history.canGoForward && !history.canGoBack);
  assert.equal(history.go(-1), undefined);
  assert.equal(history.go(1)?.page?.length, 1);
  history.push("d");
  assert.ok(!history.canGoForward);
  assert.equal(history.go(-1)?.request, "b");
  assert.equal(history.current?.request, "b");
});

test("History: keeps 50 entries and 128 MiB of pages, the nearest ones", () => {
  const history = new History<number>();
  for (let request = 0; request < 60; request++) history.push(request);
  assert.equal(history.go(-50), undefined);
  assert.equal(history.go(-49)?.request, 10);
  const big = new History<number>();
  for (let request = 0; request < 3; request++) {
    big.push(request);
    big.keep(request, page(64 * 1024 * 1024));
  }
  assert.equal(big.go(-1)?.page?.length, 64 * 1024 * 1024);
  assert.deepEqual([big.go(-1)?.page, big.go(0)?.request], [undefined, 0]);
});
