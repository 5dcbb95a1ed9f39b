import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { NAMED, type Placed, placed, roomOn, sideBySide } from "./test-order.ts";

const ROOT = new URL("../../../", import.meta.url);

test("placed: every file that the tables name exists", () => {
  assert.ok(NAMED.length > 0);
  for (const file of NAMED) assert.ok(existsSync(fileURLToPath(new URL(file, ROOT))), file);
});

test("placed: none is lost; what needs room comes first, then what takes long, then by name", () => {
  const files = ["z.test.ts", "a.test.ts", ...NAMED];
  const order = placed([...new Set(files)]);
  assert.deepEqual(new Set(order.map(({ file }) => file)), new Set(files));
  const rooms = order.map(({ room }) => room);
  assert.deepEqual(
    rooms,
    rooms.toSorted((a, b) => b - a),
  );
  assert.deepEqual(
    order.slice(-2).map(({ file }) => file),
    ["a.test.ts", "z.test.ts"],
  );
});

test("roomOn: one file more than cores, and a bound", () => {
  assert.deepEqual([1, 2, 8, 9, 64].map(roomOn), [2, 3, 9, 9, 9]);
});

/** Files that end when the test says so. */
class Runs {
  readonly running = new Map<string, PromiseWithResolvers<void>>();
  readonly started: string[] = [];

  readonly run = async (file: string): Promise<void> => {
    const ended = Promise.withResolvers<void>();
    this.started.push(file);
    this.running.set(file, ended);
    try {
      await ended.promise;
    } finally {
      this.running.delete(file);
    }
  };

  async end(file: string, error?: Error): Promise<void> {
    const one = this.running.get(file) ?? assert.fail(`${file} does not run`);
    if (error) one.reject(error);
    else one.resolve();
    await settled();
  }
}

const settled = () => new Promise((resolve) => setImmediate(resolve));
const of = (...files: readonly string[]): Placed[] =>
  files.map((file) => ({ file, room: file.startsWith("heavy") ? 2 : 1 }));

test("sideBySide: as many as there is room for, the next when one ends", async () => {
  const runs = new Runs();
  const all = sideBySide(of("a", "b", "c", "d", "e"), 3, runs.run);
  await settled();
  assert.deepEqual(runs.started, ["a", "b", "c"]);
  await runs.end("b");
  assert.deepEqual([...runs.running.keys()], ["a", "c", "d"]);
  for (const file of ["a", "c", "d", "e"]) await runs.end(file);
  await all;
});

test("sideBySide: a heavy one takes the room of two, and what fits goes past it", async () => {
  const runs = new Runs();
  const all = sideBySide(of("heavy1", "heavy2", "a", "b", "c"), 3, runs.run);
  await settled();
  assert.deepEqual([...runs.running.keys()], ["heavy1", "a"]);
  await runs.end("a");
  assert.deepEqual([...runs.running.keys()], ["heavy1", "b"]);
  await runs.end("heavy1");
  assert.deepEqual([...runs.running.keys()], ["b", "heavy2"]);
  await runs.end("heavy2");
  assert.deepEqual([...runs.running.keys()], ["b", "c"]);
  for (const file of ["b", "c"]) await runs.end(file);
  await all;
});

test("sideBySide: what needs more room than there is runs alone", async () => {
  const runs = new Runs();
  const all = sideBySide(of("heavy1", "a"), 1, runs.run);
  await settled();
  assert.deepEqual([...runs.running.keys()], ["heavy1"]);
  await runs.end("heavy1");
  assert.deepEqual([...runs.running.keys()], ["a"]);
  await runs.end("a");
  await all;
  await sideBySide([], 3, runs.run);
});

test("sideBySide: after an error nothing more starts, and it rejects when the rest has ended", async () => {
  const runs = new Runs();
  let isOver = false;
  const all = sideBySide(of("a", "b", "c"), 2, runs.run).finally(() => {
    isOver = true;
  });
  const rejected = assert.rejects(all, /as asked/);
  await settled();
  await runs.end("a", new Error("as asked"));
  assert.deepEqual([...runs.running.keys()], ["b"]);
  assert.equal(isOver, false);
  await runs.end("b");
  await rejected;
  assert.deepEqual(runs.started, ["a", "b"]);
});
