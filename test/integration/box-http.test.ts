// The box as clients see it over HTTP, with the real store and guests that need no sandbox: what is refused, what
// is bounded, what survives the loss of a client.

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import * as fc from "fast-check";
import { systemClock, TestClock } from "../../src/base/clock.ts";
import { SERVE_LIMITS } from "../../src/box/serve/serve-limits.ts";
import { infoSchema, listingSchema, logPageSchema, PATHS, storedSchema } from "../../src/wire/api.ts";
import { problemSchema } from "../../src/wire/error-code.ts";
import { Limits } from "../../src/wire/limits.ts";
import { sourceHash } from "../../src/wire/package.ts";
import { policySchema } from "../../src/wire/policy.ts";
import { encodeClientFrame, prefixLength } from "../../src/wire/session-frame.ts";
import { BoxBench, BUNDLED } from "../support/box-bench.ts";
import type { BoxClient } from "../support/box-client.ts";

function pack(source: string, manifest: object = {}) {
  return { manifest: { name: "f", image: "deno" as const, ...manifest }, source };
}

let bench: BoxBench;
let client: BoxClient;
before(async () => {
  bench = await BoxBench.start();
  client = bench.client;
});
after(async () => {
  await bench[Symbol.asyncDispose]();
});

test("GET: information, policy and page, each with the same few headers and no banner", async () => {
  for (const path of [PATHS.page, PATHS.info, PATHS.policy]) {
    const { status, headers } = await client.call("GET", path);
    assert.equal(status, 200);
    for (const name of ["server", "x-powered-by", "date", "etag"]) assert.equal(headers.get(name), null);
    assert.equal(headers.get("cache-control"), "no-store");
    const head = await client.call("HEAD", path);
    assert.deepEqual([head.status, head.text], [200, ""]);
  }
  infoSchema.parse((await client.call("GET", PATHS.info)).json);
  policySchema.parse((await client.call("GET", PATHS.policy)).json);
  const page = await client.call("GET", PATHS.page);
  assert.match(page.headers.get("content-security-policy") ?? "", /default-src 'none'/);
  assert.ok(!page.text.includes("<script") && page.text.includes("&lt;b&gt;test"));
});

test("wrong requests: one problem document each, and the box goes on", async () => {
  const wrong: [string, string, unknown, number, string][] = [
    ["GET", "/nothing", undefined, 404, "not-found"],
    ["GET", "/v1/store/", undefined, 404, "not-found"],
    ["GET", "/__proto__", undefined, 404, "not-found"],
    ["DELETE", PATHS.store, undefined, 405, "bad-method"],
    ["PUT", PATHS.page, undefined, 405, "bad-method"],
    ["GET", PATHS.open, undefined, 400, "bad-request"],
    ["POST", PATHS.store, "{", 400, "bad-request"],
    ["POST", PATHS.store, [], 400, "bad-request"],
    ["POST", PATHS.store, { manifest: {}, source: "x" }, 400, "bad-manifest"],
    ["POST", PATHS.store, pack("x", { memory: "900GiB" }), 422, "policy-refused"],
    ["POST", PATHS.store, pack("x", { nonsense: 1 }), 400, "bad-manifest"],
    ["POST", PATHS.run, {}, 400, "bad-request"],
  ];
  for (const [method, path, body, status, code] of wrong) {
    const answer = await client.call(method, path, { body });
    assert.deepEqual([path, answer.status, answer.json["code"]], [path, status, code]);
    problemSchema.parse(answer.json);
    assert.equal(answer.headers.get("content-type"), "application/problem+json");
    if (status === 405) assert.ok(answer.headers.get("allow"));
  }
});

test("tokens: malformed, unknown, of another kind and expired ones get the same answer", async () => {
  const stored = await client.store(pack("hello"));
  const instance = await client.exec(stored.invocationToken);
  const unknown = "00000000-0000-4000-8000-000000000000";
  const answers = new Set<string>();
  const routes = [
    ["POST", PATHS.exec, [unknown, "x", stored.shutdownToken, instance]],
    ["POST", PATHS.close, [unknown, "x", stored.shutdownToken, stored.invocationToken]],
    ["GET", PATHS.logs, [`end-${"A".repeat(43)}`, "x", stored.invocationToken, instance]],
    ["GET", `${PATHS.logs}?wait=5000`, [`end-${"A".repeat(43)}`, stored.invocationToken]],
    ["GET", PATHS.list, [`end-${"A".repeat(43)}`, "x", stored.invocationToken, instance]],
    ["POST", PATHS.shutdown, [`end-${"A".repeat(43)}`, unknown, stored.invocationToken, instance]],
  ] as const;
  for (const [method, path, tokens] of routes) {
    for (const token of [...tokens, undefined]) {
      const body = method === "POST" ? { body: { args: [] } } : {};
      const answer = await client.call(method, path, { ...(token === undefined ? {} : { token }), ...body });
      answers.add(`${answer.status} ${answer.text}`);
    }
  }
  assert.equal(answers.size, 1);
  await assert.rejects(client.open(unknown), { status: 403, code: "bad-token" });
});

test("packages by hash: what the box comes with runs; every other hash is refused alike, whoever installed such a source", async () => {
  const [bundled] = BUNDLED;
  assert.ok(bundled);
  const hashOf = (source: string) => sourceHash({ manifest: { image: "deno" }, source });
  const { functions } = infoSchema.parse((await client.call("GET", PATHS.info)).json);
  assert.deepEqual(functions, [{ name: "bundled", sourceHash: hashOf(bundled.source) }]);
  const named = (hash: string, manifest: object = {}) => ({
    manifest: { name: "f", image: "deno", ...manifest },
    sourceHash: hash,
  });
  const session = await client.run({ package: named(hashOf(bundled.source)) });
  const { stored } = (await session.next("attached")).attached;
  assert.equal(stored?.sourceHash, hashOf(bundled.source));
  assert.equal(await session.text(), "hello world");
  const kept = await client.call("POST", PATHS.store, { body: named(hashOf(bundled.source)) });
  assert.equal(kept.status, 201);
  // It is a function like any other: later runs need neither hash nor source.
  await client.exec(storedSchema.parse(kept.json).invocationToken);

  // Somebody's own code, installed and run: nobody learns that by its hash, its owner neither.
  const secret = `hello ${"s".repeat(20_000)}`;
  await client.store(pack(secret));
  const owner = await client.run({ package: pack(secret) });
  await owner.next("attached");
  assert.equal(await owner.text(), "hello world");
  const answers = new Set<string>();
  for (const hash of [hashOf(secret), hashOf("never seen"), "0".repeat(64)]) {
    const answer = await client.call("POST", PATHS.store, { body: named(hash) });
    answers.add(`${answer.status} ${answer.text}`);
    await assert.rejects(
      client.run({ package: named(hash) }),
      (error: { status: number; problem: unknown }) => {
        answers.add(`${error.status} ${JSON.stringify(error.problem)}`);
        return true;
      },
    );
  }
  assert.equal(answers.size, 1, [...answers].join("\n"));
  assert.match([...answers].join(""), /^404 .*unknown-source/);
  // The hash names the image as well, and policy is asked as ever.
  const python = await client.call("POST", PATHS.store, {
    body: named(hashOf(bundled.source), { image: "python" }),
  });
  assert.deepEqual([python.status, python.json["code"]], [404, "unknown-source"]);
  const large = await client.call("POST", PATHS.store, {
    body: named(hashOf(bundled.source), { memory: "900GiB" }),
  });
  assert.deepEqual([large.status, large.json["code"]], [422, "policy-refused"]);
});

test("logs: the owner reads what instances logged, waits for more, and has a seat only while waiting", async () => {
  const stored = storedSchema.parse(await client.store(pack("log", { instances: 2 })));
  const token = stored.shutdownToken;
  const logs = async (query: string) => {
    const { status, json } = await client.call("GET", `${PATHS.logs}${query}`, { token });
    assert.equal(status, 200);
    return logPageSchema.parse(json);
  };
  assert.deepEqual(await logs(""), { lines: [], next: 0, more: false, missed: false });
  await client.exec(stored.invocationToken);
  const session = await client.open(await client.exec(stored.invocationToken));
  const waiting = logs("?wait=20000");
  session.input("one");
  const [line] = (await waiting).lines;
  assert.ok(line);
  assert.deepEqual([line.instance, line.level, line.text], [2, "info", "one"]);
  session.input("two");
  const second = await logs(`?after=${line.position}&wait=20000`);
  assert.deepEqual(
    second.lines.map(({ text }) => text),
    ["two"],
  );
  assert.deepEqual((await logs(`?after=${second.next}&wait=1`)).lines, [], "the wait ends without a line");
  assert.equal((await logs("")).lines.length, 2);
  const seats = bench.server.sessions;
  const left = new AbortController();
  const abandoned = fetch(`http://127.0.0.1:${client.port}${PATHS.logs}?after=${second.next}&wait=20000`, {
    headers: { authorization: `Bearer ${token}` },
    signal: left.signal,
  });
  await until(() => bench.server.sessions === seats + 1);
  left.abort();
  await assert.rejects(abandoned);
  await until(() => bench.server.sessions === seats);
  for (const query of ["?after=-1", "?after=x", "?wait=1e3", "?after=99999999999999999"])
    assert.equal((await client.call("GET", `${PATHS.logs}${query}`, { token })).status, 400, query);
  await client.call("POST", PATHS.shutdown, { token });
  assert.equal((await client.call("GET", PATHS.logs, { token })).status, 403);
});

test("store, exec, open, close, list, shutdown: the life of a function", async () => {
  const forgotten = bench.forgotten.length;
  const stored = storedSchema.parse(await client.store(pack("echo", { instances: 2 })));
  const instance = await client.exec(stored.invocationToken);
  const session = await client.open(instance);
  assert.deepEqual((await session.next("attached")).attached, { instance, offset: 0 });
  session.input("one");
  assert.equal(await session.text(), "one");
  const listing = listingSchema.parse(
    (await client.call("GET", PATHS.list, { token: stored.shutdownToken })).json,
  );
  assert.equal(listing.instances.length, 1);
  assert.equal(listing.instances[0]?.attached, true);
  const second = await client.exec(stored.invocationToken);
  const third = await client.call("POST", PATHS.exec, { token: stored.invocationToken, body: { args: [] } });
  assert.deepEqual([third.status, third.json["code"]], [429, "too-many-instances"]);
  const kept = await client.call("POST", PATHS.close, { token: second, body: {} });
  assert.deepEqual(kept.json, { killed: false });
  const killed = await client.call("POST", PATHS.close, { token: second, body: { kill: true } });
  assert.deepEqual(killed.json, { killed: true });
  const ended = await client.call("POST", PATHS.shutdown, { token: stored.shutdownToken });
  assert.deepEqual(ended.json, { instancesEnded: 1 });
  assert.deepEqual((await session.next("ended")).outcome, { kind: "killed", reason: "shutdown" });
  assert.equal(bench.forgotten.length, forgotten + 1);
  const gone = await client.call("POST", PATHS.exec, { token: stored.invocationToken, body: { args: [] } });
  assert.equal(gone.status, 403);
});

test("run: stores, invokes and attaches in one exchange; a token invokes what is stored", async () => {
  const session = await client.run({ package: pack("echo") });
  const { stored } = (await session.next("attached")).attached;
  assert.ok(stored);
  session.input("both ways");
  assert.equal(await session.text(), "both ways");
  session.send({ kind: "input-end" });
  assert.deepEqual((await session.next("ended")).outcome, { kind: "returned" });
  const again = await client.run({}, stored.invocationToken);
  assert.equal((await again.next("attached")).attached.stored, undefined);
  again.hangUp();
  await assert.rejects(client.run({}), { status: 400 });
  await assert.rejects(client.run({ package: pack("echo") }, stored.invocationToken), { status: 400 });
  await assert.rejects(client.run({ package: pack("x"), invocation: { call: "f()" } }), {
    code: "call-unsupported",
  });
});

test("run: a client that ends its request gets all output, as if it acknowledged it", async () => {
  const bytes = 20 * 2 ** 20;
  const { request, response } = client.startRun([
    { kind: "start", start: { package: pack(`flood ${bytes}`), invocation: { args: [] } } },
  ]);
  request.end();
  let received = 0;
  for await (const chunk of await response) received += (chunk as Buffer).length;
  assert.ok(received > bytes);
});

test("run: when the guest cannot be had nothing stays installed", async () => {
  bench.guests.failure = new Error("secret detail");
  const count = bench.instances.running;
  await assert.rejects(client.run({ package: pack("hello") }), { status: 500, code: "internal" });
  bench.guests.failure = undefined;
  assert.equal(bench.instances.running, count);
});

test("open: output waits for a client that was lost, from any offset it has not acknowledged", async () => {
  const { invocationToken } = await client.store(pack("echo"));
  const instance = await client.exec(invocationToken);
  const first = await client.open(instance, { acknowledge: false });
  await first.next("attached");
  for (const word of ["aaaa", "bbbb", "cccc"]) first.input(word);
  for (const word of ["aaaa", "bbbb", "cccc"]) assert.equal(await first.text(), word);
  first.send({ kind: "ack", offset: 4 });
  first.input("dddd");
  assert.equal(await first.text(), "dddd");
  first.hangUp();
  const second = await client.open(instance, { offset: 8, acknowledge: false });
  assert.equal((await second.next("attached")).attached.offset, 8);
  assert.equal((await second.next("output")).bytes.length, 0);
  assert.equal(await second.text(), "cccc");
  assert.equal(await second.text(), "dddd");
  await assert.rejects(client.open(instance, { offset: 3 }), { status: 416, code: "offset-gone" });
  await assert.rejects(client.open(instance, { offset: 17 }), { status: 400 });
  await assert.rejects(client.open(instance, { offset: -1 }), { status: 400 });
  second.hangUp();
});

test("open: a second client takes over, and what the first still sends is ignored", async () => {
  const { invocationToken } = await client.store(pack("echo"));
  const instance = await client.exec(invocationToken);
  const first = await client.open(instance);
  await first.next("attached");
  const second = await client.open(instance);
  await second.next("attached");
  assert.equal((await first.next("problem")).problem.code, "taken-over");
  first.input("stale");
  second.input("fresh");
  assert.equal(await second.text(), "fresh");
  second.hangUp();
});

test("open: text messages, unknown frames and oversize messages end the session, not the instance", async () => {
  const { invocationToken } = await client.store(pack("echo"));
  const instance = await client.exec(invocationToken);
  const wrong: ((session: Awaited<ReturnType<typeof client.open>>) => void)[] = [
    (session) => session.send({ kind: "ack", offset: 99 }),
    (session) => session.send({ kind: "start", start: { invocation: { args: [] } } }),
    (session) => {
      const bytes = new Uint8Array(Limits.fragmentBytesMax);
      for (let sent = 0; sent <= Limits.inputMessageBytesMax; sent += bytes.length) {
        session.send({ kind: "input", bytes, last: false });
      }
    },
    (session) => {
      session.send({ kind: "input-end" });
      session.input("more");
    },
  ];
  for (const breakIt of wrong) {
    const id = breakIt === wrong.at(-1) ? instance : await client.exec(invocationToken);
    const session = await client.open(id);
    await session.next("attached");
    breakIt(session);
    const { kind } = (await session.frames.receive({ signal: AbortSignal.timeout(5_000) })) ?? {
      kind: "closed",
    };
    assert.ok(kind === "problem" || kind === "ended", kind);
  }
});

test("sessions: an input message of the largest size passes, one byte more does not", async () => {
  const { invocationToken } = await client.store(pack("echo"));
  for (const extra of [0, 1]) {
    const session = await client.open(await client.exec(invocationToken));
    await session.next("attached");
    let left = Limits.inputMessageBytesMax + extra;
    while (left > 0) {
      const bytes = new Uint8Array(Math.min(left, Limits.fragmentBytesMax));
      left -= bytes.length;
      session.send({ kind: "input", bytes, last: left === 0 });
    }
    if (extra === 0) {
      while (session.bytes < Limits.inputMessageBytesMax) await session.next("output");
      session.hangUp();
    } else assert.equal((await session.next("problem")).problem.code, "too-large");
  }
});

test("bodies: as large as allowed pass, larger ones are refused before they are held", async () => {
  const refused = await client.call("POST", PATHS.store, {
    body: "x".repeat(Limits.packageBytesMax + Limits.argumentBytesMax + 1),
  });
  assert.equal(refused.status, 413);
  const { invocationToken } = await client.store(pack("hello"));
  const args = { args: ["x".repeat(Limits.argumentBytesMax - 13)] };
  const good = await client.call("POST", PATHS.exec, { token: invocationToken, body: args });
  assert.deepEqual([good.status, good.text.slice(0, 12)], [201, '{"instance":']);
  const more = { args: [`${args.args[0]}x`] };
  const bad = await client.call("POST", PATHS.exec, { token: invocationToken, body: more });
  assert.equal(bad.status, 413);
});

test("slow requests: a body that stops, and a run that does not start, are ended", async () => {
  const clock = new TestClock();
  await using slow = await BoxBench.start("", systemClock, clock);
  const { port } = slow.client;
  for (const head of [
    `POST ${PATHS.store} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{`,
    `POST ${PATHS.run} HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.bento.session\r\nContent-Length: 1000\r\n\r\n`,
  ]) {
    const socket = connect(port, "127.0.0.1");
    let answer = "";
    socket.on("data", (chunk) => {
      answer += chunk.toString();
    });
    socket.write(head);
    // The guard's timer exists once the request has been taken up.
    await until(() => clock.pending > 0);
    await clock.advance(SERVE_LIMITS.bodyGraceMs + 1_000);
    await once(socket, "close");
    assert.match(answer, /^HTTP\/1\.1 408 /);
  }
  await until(() => slow.server.sessions === 0);
});

test("fuzz: arbitrary bytes at the HTTP port and in sessions harm nobody", async () => {
  const head = `POST ${PATHS.run} HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.bento.session\r\nTransfer-Encoding: chunked\r\n\r\n`;
  const frames = fc.uint8Array({ maxLength: 200 }).map((bytes) => prefixLength(concatByte(bytes)));
  const bodies = fc.array(fc.oneof(frames, fc.uint8Array({ maxLength: 100 })), { maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(fc.constant(""), fc.constant(head), fc.string()),
      bodies,
      async (start, parts) => {
        const socket = connect(client.port, "127.0.0.1");
        socket.on("error", () => undefined);
        socket.resume();
        socket.write(start);
        for (const part of parts) {
          if (start === head) socket.write(`${part.length.toString(16)}\r\n`);
          socket.write(part);
          if (start === head) socket.write("\r\n");
        }
        socket.end();
        await once(socket, "close");
      },
    ),
    { numRuns: 150 },
  );
  const session = await client.run({ package: pack("echo") });
  await session.next("attached");
  const { invocationToken } = await client.store(pack("echo"));
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 40 }), async (bytes) => {
      const id = await client.exec(invocationToken);
      const { request, response } = client.startRun([], id);
      request.end(bytes);
      const answer = await response.catch(() => undefined);
      answer?.resume();
      await client.call("POST", PATHS.close, { token: id, body: { kill: true } });
    }),
    { numRuns: 30 },
  );
  session.input("still here");
  assert.equal(await session.text(), "still here");
  session.hangUp();
  await until(() => bench.server.sessions === 0);
});

function concatByte(bytes: Uint8Array): Uint8Array {
  return bytes.length === 0 ? encodeClientFrame({ kind: "input-end" }) : bytes;
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!condition()) {
    assert.ok(Date.now() < deadline, "the condition holds in time");
    await new Promise((resolve) => setImmediate(resolve));
  }
}
