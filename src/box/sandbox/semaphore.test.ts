import assert from "node:assert/strict";
import { test } from "node:test";
import { Semaphore } from "./semaphore.ts";

test("Semaphore: n hold at one time, the next waits its turn", async () => {
  const semaphore = new Semaphore(2);
  const order: string[] = [];
  const first = await semaphore.acquire();
  await semaphore.acquire();
  const third = semaphore.acquire().then(() => order.push("third"));
  const fourth = semaphore.acquire().then(() => order.push("fourth"));
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(order, []);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  await third;
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(order, ["third"], "a permit given back twice counts once");
  const holder = new AbortController();
  const fifth = semaphore.acquire(holder.signal);
  holder.abort(new Error("gone"));
  await assert.rejects(fifth, /gone/);
  void fourth;
});
