// The box with everything real: sandbox, both runtimes, store. What functions do reaches their clients, what
// clients lose waits for them. Needs root.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type Invocation, logPageSchema, PATHS } from "../../src/wire/api.ts";
import { CELL_BYTES } from "../../src/wire/browse.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import { ownUids } from "../support/own-uids.ts";
import { processesOf, SpawnedBox } from "../support/spawned-box.ts";

const UIDS = ownUids(100);
const FLAT_RSS_BYTES = 400 * 2 ** 20;

let dataDir: string;
let box: SpawnedBox;
before(async () => {
  dataDir = await mkdtemp(join(tmpdir(), "bento-real-"));
  box = await SpawnedBox.start(dataDir, { uids: UIDS });
});
after(async () => {
  await box[Symbol.asyncDispose]();
  assert.deepEqual(await processesOf(UIDS), []);
  await rm(dataDir, { recursive: true });
});

const deno = (body: string, manifest: object = {}) => ({
  manifest: { name: "f", image: "deno" as const, ...manifest },
  source: `export default { async invoke(session, env, ...args) { ${body} } };`,
});
const python = (source: string) => ({ manifest: { name: "f", image: "python" as const }, source });
const ECHO = deno("for await (const message of session) await session.send(message);");

test("run: deno and python functions send, return and fail, and their clients see it", async () => {
  const hello = await box.client.run({
    package: deno("await session.send(`hello ${args[0]}`);"),
    invocation: { args: ["you"] },
  });
  await hello.next("attached");
  assert.equal(await hello.text(), "hello you");
  assert.deepEqual((await hello.next("ended")).outcome, { kind: "returned" });

  const add = await box.client.run({
    package: python("def add(a, b):\n  return str(a + b)\n"),
    invocation: { call: "add(2, 3)" },
  });
  await add.next("attached");
  assert.equal(await add.text(), "5");
  assert.deepEqual((await add.next("ended")).outcome, { kind: "returned" });

  const failing = await box.client.run({ package: deno("throw new RangeError('as asked');") });
  await failing.next("attached");
  const { outcome } = await failing.next("ended");
  assert.ok(outcome.kind === "failed");
  assert.deepEqual([outcome.name, outcome.message], ["RangeError", "as asked"]);
  assert.doesNotMatch(outcome.traceback, /\/bento|node_modules|\/work|\/tmp/);
});

test("logs: env.log, console and print of both images reach the owner, in order; nobody else", async () => {
  const cases = [
    [deno('env.log.warn("one"); console.log("two", 2); await session.send("x");'), { args: [] }],
    [
      python(
        "import sys\ndef f():\n  api.log.warn('one')\n  print('two', 2)\n  print('three', file=sys.stderr)\n  api.send('x')\n",
      ),
      { call: "f()" },
    ],
  ] satisfies [PackageInput, Invocation][];
  for (const [pack, invocation] of cases) {
    const session = await box.client.run({ package: pack, invocation });
    const { stored } = (await session.next("attached")).attached;
    assert.equal(await session.text(), "x", "no log line is output");
    await session.next("ended");
    const { lines } = logPageSchema.parse(
      (await box.client.call("GET", PATHS.logs, { token: stored?.shutdownToken ?? "" })).json,
    );
    assert.deepEqual(
      lines.slice(0, 2).map(({ level, text }) => `${level} ${text}`),
      ["warn one", "info two 2"],
    );
    if (pack.manifest.image === "python") assert.equal(lines[2]?.text, "three");
    assert.doesNotMatch(box.log, /two 2/);
  }
});

test("run: large TypeScript runs as it is; what a runtime's parser cannot take ends with the reason", async () => {
  const helper = "(a: number, b: string): string { const x: Record<string, number> = { [b]: a }; return b; }";
  const large = Array.from({ length: 3000 }, (_, index) => `function f${index}${helper}`).join("\n");
  const typed = (expression: string) => ({
    manifest: { name: "f", image: "deno" as const },
    source: `${large}\nexport default { async invoke(session: any) { await session.send(String(${expression})); } };`,
  });
  const whole = await box.client.run({ package: typed("f0(1, 'large')") });
  await whole.next("attached");
  assert.equal(await whole.text(), "large");
  const deep = await box.client.run({ package: typed(`${"(1+".repeat(5000)}1${")".repeat(5000)}`) });
  const { stored } = (await deep.next("attached")).attached;
  const { outcome } = await deep.next("ended");
  assert.ok(outcome.kind === "killed" && outcome.reason === "crashed");
  assert.match(outcome.detail ?? "", /nested too deeply/);
  const { text } = await box.client.call("GET", PATHS.logs, { token: stored?.shutdownToken ?? "" });
  assert.match(text, /overflowed its stack/, "the owner gets what the runtime wrote");
  assert.doesNotMatch(box.log, /overflowed/, "and the box's log does not");
});

test("run: a function over its memory, and one that ends its process, are told apart", async () => {
  const hungry = await box.client.run({
    package: deno("const held = []; for (;;) held.push(new Uint8Array(1e7).fill(1));"),
  });
  await hungry.next("attached");
  assert.deepEqual((await hungry.next("ended")).outcome, { kind: "killed", reason: "out-of-memory" });
  const crashing = await box.client.run({
    package: python("import os\ndef die():\n  os._exit(3)\n"),
    invocation: { call: "die()" },
  });
  await crashing.next("attached");
  const { outcome } = await crashing.next("ended");
  assert.deepEqual(outcome, { kind: "killed", reason: "crashed", detail: "the runtime exited with code 3" });
});

test("session.shape: whatever becomes of a function in the middle of an answer, its size is one of the shape's", async () => {
  const cells = [8, 16, 32];
  const shape = JSON.stringify({
    bytes: cells.map((count) => count * CELL_BYTES),
    rate: 262_144,
    begins: "now",
  });
  const begin = `const answers = await session.shape(${shape}); await session.send("content".repeat(100));`;
  const ends: Record<string, readonly [body: string, outcome: string]> = {
    finished: ["await answers.finish();", "returned"],
    returns: ["", "returned"],
    throws: ["throw new Error('no');", "failed"],
    hungry: ["const held = []; for (;;) held.push(new Uint8Array(1e7).fill(1));", "killed"],
    endless: [
      "setTimeout(() => { throw new Error('late'); }, 300); for (;;) await answers.room();",
      "failed",
    ],
    flooding: [
      "for (;;) { await session.send(new Uint8Array(60000)); if (await answers.room() === 0) return; }",
      "returned",
    ],
  };
  const run = async (body: string) => {
    const session = await box.client.run({ package: deno(body) });
    for await (const frame of session.frames) {
      if (frame.kind === "ended") return { kind: frame.outcome.kind, bytes: session.bytes };
    }
    return assert.fail("the session broke off");
  };
  for (const [name, [body, kind]] of Object.entries(ends)) {
    const end = await run(begin + body);
    assert.equal(end.kind, kind, name);
    assert.ok(cells.includes(end.bytes / CELL_BYTES), `${name}: ${end.bytes} bytes`);
  }
  // The control: what the function sent, without a shape.
  const plain = await run('await session.send("content".repeat(100)); throw new Error("no");');
  assert.deepEqual(plain, { kind: "failed", bytes: 700 });
});

test("run: 100 MB each way at once, with flat memory in the box", async () => {
  const total = 100e6;
  const message = Buffer.alloc(50_000, 7);
  const session = await box.client.run({
    package: deno("for await (const message of session) await session.send(message);", {
      cpu: "100%",
      memory: "128MiB",
    }),
  });
  await session.next("attached");
  let sent = 0;
  let most = 0;
  const inFlightMax = 1_000_000;
  while (session.bytes < total) {
    while (sent < total && sent - session.bytes < inFlightMax) {
      session.send({ kind: "input", bytes: message, last: true });
      sent += message.length;
    }
    await session.next("output");
    if (session.bytes % 5_000_000 < 50_000) most = Math.max(most, await residentBytes(box.child.pid ?? 0));
  }
  session.send({ kind: "input-end" });
  assert.equal(session.bytes, total);
  assert.ok(most < FLAT_RSS_BYTES, `the box held ${most} bytes`);
});

test("open: a function goes on without its client, and its output waits", async () => {
  const { invocationToken } = await box.client.store(
    deno("for (let n = 0; n < 300; n++) await session.send(new Uint8Array(10_000).fill(n));"),
  );
  const instance = await box.client.exec(invocationToken);
  const first = await box.client.open(instance, { acknowledge: false });
  await first.next("attached");
  await first.next("output");
  first.hangUp();
  const second = await box.client.open(instance, { offset: 10_000 });
  await second.next("attached");
  for (let at = 10_000; at < 3_000_000; ) {
    const frame = await second.next("output");
    assert.equal(frame.offset, at);
    at += frame.bytes.length;
  }
  assert.equal((await second.next("ended")).outcome.kind, "returned");
});

const STORED = 3_000_000;
const STORAGE = { storage: { bytes: "16MiB" } };
const storedByte = (at: number) => (at * 7 + (at >> 16)) & 255;
const PUT = `await env.storage.put("v", new Uint8Array(${STORED}).map((_, at) => at * 7 + (at >> 16)));`;

test("storage.send: its value is output like any other: offsets, another client, and after the end of the instance", async () => {
  const pack = deno(
    `${PUT} await session.send("first"); const sent = env.storage.send("v"); sent.catch(() => {});
     await session.send("last"); await env.storage.put("v", "another"); if (args[0] === "wait") await sent;`,
    STORAGE,
  );
  const { invocationToken, shutdownToken } = await box.client.store(pack);
  for (const how of ["wait", "leave"]) {
    const instance = await box.client.exec(invocationToken, { args: [how] });
    const first = await box.client.open(instance, { acknowledge: false });
    await first.next("attached");
    assert.equal(await first.text(), "first");
    await first.next("output");
    first.hangUp();
    const from = 1_234_567;
    const second = await box.client.open(instance, { offset: from });
    await second.next("attached");
    for (let at = from; at < 5 + STORED; ) {
      const { offset, bytes, last } = await second.next("output");
      assert.equal(offset, at);
      assert.ok(bytes.every((byte, index) => byte === storedByte(at - 5 + index)));
      at += bytes.length;
      assert.equal(last, at === 5 + STORED);
    }
    assert.equal(await second.text(), "last");
    assert.deepEqual((await second.next("ended")).outcome, { kind: "returned" });
  }
  await box.client.call("POST", PATHS.shutdown, { token: shutdownToken });
});

test("storage.send: a function's own values and nobody else's; what it removed before they were read is lost", async () => {
  const mine = deno(
    `${PUT} await session.send(String(await env.storage.send("v", { offset: ${STORED - 1} })));`,
    STORAGE,
  );
  const owner = await box.client.run({ package: mine });
  await owner.next("attached");
  await owner.next("output");
  assert.equal(await owner.text(), "1");
  const other = await box.client.run({
    package: deno(
      `const keys = ["v", "../v", "part-000000"]; const sizes = [];
       for (const key of keys) sizes.push(await env.storage.send(key) ?? null);
       await session.send(JSON.stringify(sizes));`,
      STORAGE,
    ),
  });
  await other.next("attached");
  assert.equal(await other.text(), "[null,null,null]");
  const removing = await box.client.store(
    deno(
      `${PUT} const sent = env.storage.send("v"); const refused = sent.catch((error) => error.code);
       await env.self.remove(); if ((await refused) !== "storage-erased") for (;;);`,
      STORAGE,
    ),
  );
  const folders = async () => (await readdir(join(dataDir, "storage"))).length;
  const before = await folders();
  const instance = await box.client.exec(removing.invocationToken);
  const deadline = Date.now() + 20_000;
  const isThere = async () =>
    (await box.client.call("GET", PATHS.list, { token: removing.shutdownToken })).status === 200;
  while ((await isThere()) || (await folders()) > before) {
    assert.ok(Date.now() < deadline, "the function removes itself in time");
  }
  const late = await box.client.open(instance);
  await late.next("attached");
  assert.equal((await late.next("problem")).problem.code, "already-ended");
});

test("storage.send: a client that does not read costs the box no memory and no disk, and the function a turn", async () => {
  const { invocationToken } = await box.client.store(
    deno(
      `${PUT} for (let n = 0; n < 2000; n++) env.storage.send("v").catch((error) => { if (!globalThis.first) globalThis.first = error.code; });
       await session.send("x"); while (!globalThis.first) await new Promise((resolve) => setTimeout(resolve, 10));
       await session.send(globalThis.first); await new Promise((resolve) => session.signal.addEventListener("abort", resolve));`,
      { ...STORAGE, storage: { bytes: "4MiB" } },
    ),
  );
  const before = await residentBytes(box.child.pid ?? 0);
  const instance = await box.client.exec(invocationToken);
  const session = await box.client.open(instance, { acknowledge: false, offset: 0 });
  await session.next("attached");
  while (session.bytes < 20_000_000) await session.next("output");
  session.hangUp();
  assert.ok((await residentBytes(box.child.pid ?? 0)) - before < 100 * 2 ** 20);
  // 256 values of 3 MB, then "x" and the reason why there were no more.
  const tail = await box.client.open(instance, { offset: 256 * STORED });
  await tail.next("attached");
  // The end of the message before.
  assert.equal(await tail.text(), "");
  assert.equal(await tail.text(), "x");
  assert.equal(await tail.text(), "too-many-calls");
  tail.hangUp();
  await box.client.call("POST", PATHS.close, { token: instance, body: { kill: true } });
});

test("self.remove: tokens and storage end, other instances end, this one finishes and is read", async () => {
  const pack = deno(
    `if (args[0] === "wait") return void (await new Promise((resolve) => session.signal.addEventListener("abort", resolve)));
     await env.storage.put("k", "v");
     await env.self.remove();
     await env.self.remove();
     const refused = await env.storage.get("k").catch((error) => error.code ?? error.message);
     await session.send("removed " + refused);`,
    { storage: { bytes: "64KiB" } },
  );
  const waiting = await box.client.run({ package: pack, invocation: { args: ["wait"] } });
  const { stored } = (await waiting.next("attached")).attached;
  assert.ok(stored);
  const { invocationToken: token } = stored;
  const removing = await box.client.open(await box.client.exec(token));
  await removing.next("attached");
  assert.equal(await removing.text(), "removed storage-erased");
  assert.deepEqual((await removing.next("ended")).outcome, { kind: "returned" });
  assert.deepEqual((await waiting.next("ended")).outcome, { kind: "killed", reason: "shutdown" });
  const late = await box.client.call("POST", PATHS.exec, { token, body: { args: [] } });
  assert.deepEqual([late.status, late.json["code"]], [403, "bad-token"]);
});

test("the 2021 protocol: a client that knows only the specification stores, executes, opens and reads", async () => {
  const script = fileURLToPath(new URL("./legacy_client.py", import.meta.url));
  const { stdout } = await promisify(execFile)("/usr/bin/python3", [script, String(box.legacyPort)], {
    timeout: 60_000,
  });
  assert.deepEqual(JSON.parse(stdout), {
    token: [true, 36],
    execution: [true, 36],
    echo: "first",
    long: 300_000,
    reopened: "while away",
    large: [true, 1_000_192, true],
    end: [true, true, "session terminated"],
    returned: "stopped",
    terminated: "session terminated",
    dead: [true, "session isn't alive"],
    failure: [true, true],
    "unknown token": [false, "invalid token"],
    "unknown id": [true, "1".repeat(36), "no session exists with this id"],
    refused: false,
  });
});

test("Box: a box that is stopped tells its clients; one whose sandbox cannot be opened serves, but starts nothing", async () => {
  const other = await mkdtemp(join(tmpdir(), "bento-real-"));
  // Fewer user ids than instances: the sandbox refuses to open.
  await using crippled = await SpawnedBox.start(other, { uids: { ...UIDS, count: 2 } });
  const info = await crippled.client.call("GET", PATHS.info);
  assert.equal(info.json["accepting"], false);
  await assert.rejects(crippled.client.run({ package: ECHO }), {
    status: 503,
    code: "functions-unavailable",
  });
  assert.equal((await crippled.client.call("GET", PATHS.policy)).status, 200);
  await crippled.end("SIGTERM");
  await rm(other, { recursive: true });

  const session = await box.client.run({ package: ECHO });
  await session.next("attached");
  await box.end("SIGTERM");
  assert.deepEqual((await session.next("ended")).outcome, { kind: "killed", reason: "box-stopping" });
  box = await SpawnedBox.start(dataDir, { uids: UIDS });
});

async function residentBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
}
