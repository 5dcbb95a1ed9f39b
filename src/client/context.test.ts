import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { TestClock } from "../base/clock.ts";
import { BentoError } from "../base/errors.ts";
import { Context, freeName, INSTANCES_MAX, stateDir } from "./context.ts";

async function newDir(t: TestContext): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-context-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return path.join(dir, "state");
}

const instance = (startedAt: number) => ({ box: "b", isolation: "i", instance: "x", offset: 0, startedAt });

test("Context: an empty one, then what was written, readable by its user alone", async (t) => {
  const context = new Context(await newDir(t));
  assert.deepEqual((await context.read()).boxes, {});
  await context.update((data) => {
    data.boxes["box0"] = { address: "127.0.0.1:1" };
  });
  assert.deepEqual((await context.read()).boxes, { box0: { address: "127.0.0.1:1" } });
  assert.equal((await stat(context.dir)).mode & 0o777, 0o700);
  assert.equal((await stat(path.join(context.dir, "context.json"))).mode & 0o777, 0o600);
  assert.deepEqual(await readdir(context.dir), ["context.json"]);
});

test("Context.update: concurrent updates are all kept", async (t) => {
  const dir = await newDir(t);
  const names = Array.from({ length: 20 }, (_, index) => `box${index}`);
  await Promise.all(
    names.map((name) =>
      new Context(dir).update((data) => {
        data.boxes[name] = { address: "127.0.0.1:1" };
      }),
    ),
  );
  assert.deepEqual(Object.keys((await new Context(dir).read()).boxes).sort(), names.sort());
});

test("Context.update: the lock of a process that died is taken over", async (t) => {
  const context = new Context(await newDir(t));
  await context.update(() => undefined);
  // Above the largest pid that Linux gives out.
  await symlink("4194305", path.join(context.dir, "context.lock"));
  await context.update(() => undefined);
});

test("Context.update: a change that throws leaves everything as it was", async (t) => {
  const context = new Context(await newDir(t));
  await context.update((data) => {
    data.boxes["box0"] = { address: "127.0.0.1:1" };
  });
  const change = context.update((data) => {
    data.boxes = {};
    throw new Error("no");
  });
  await assert.rejects(change, /no/);
  assert.ok((await context.read()).boxes["box0"]);
  await context.update(() => undefined);
});

test("Context.update: where nothing can be written it says so, and so does checkWritable", async (t) => {
  const file = path.join(path.dirname(await newDir(t)), "file");
  await writeFile(file, "");
  const context = new Context(path.join(file, "state"));
  const wanted = { code: "bad-config", message: /Cannot write .*ENOTDIR/, advice: /XDG_STATE_HOME/ };
  await assert.rejects(
    context.update(() => undefined),
    wanted,
  );
  await assert.rejects(context.checkWritable(), wanted);
});

test("Context.update: expired functions and the oldest instances beyond the limit are forgotten", async (t) => {
  const clock = new TestClock(1000);
  const context = new Context(await newDir(t), clock);
  await context.update((data) => {
    const entry = { box: "b", isolation: "i", invocationToken: "t" };
    data.functions["old"] = { ...entry, expiresAt: 999 };
    data.functions["new"] = { ...entry, expiresAt: 1000 };
    for (let index = 0; index <= INSTANCES_MAX; index++) data.instances[`i${index}`] = instance(index);
  });
  const data = await context.read();
  assert.deepEqual(Object.keys(data.functions), ["new"]);
  assert.equal(Object.keys(data.instances).length, INSTANCES_MAX);
  assert.equal(data.instances["i0"], undefined);
});

test("Context.read: a file that is no context is an error, and is kept", async (t) => {
  const context = new Context(await newDir(t));
  await context.update(() => undefined);
  const file = path.join(context.dir, "context.json");
  await writeFile(file, '{"version": 2}');
  const isConfigError = (error: unknown) => error instanceof BentoError && error.code === "bad-config";
  await assert.rejects(context.read(), isConfigError);
  await assert.rejects(
    context.update(() => undefined),
    isConfigError,
  );
  assert.equal(await readFile(file, "utf8"), '{"version": 2}');
});

test("freeName: the first that is not taken", () => {
  assert.equal(freeName("a", {}), "a");
  assert.equal(freeName("a", { a: 1, "a-2": 1 }), "a-3");
});

test("stateDir: XDG_STATE_HOME when absolute, else below HOME", () => {
  assert.equal(stateDir({ XDG_STATE_HOME: "/s", HOME: "/h" }), "/s/bento");
  assert.equal(stateDir({ XDG_STATE_HOME: "s", HOME: "/h" }), "/h/.local/state/bento");
});
