import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { test } from "node:test";
import { LEAST_GRANT } from "../../test/support/least-grant.ts";
import { utf8 } from "../base/bytes.ts";
import { type Clock, systemClock, TestClock } from "../base/clock.ts";
import { BentoError } from "../base/errors.ts";
import { MEDIA, PATHS } from "../wire/api.ts";
import { BoxError, problemOf } from "../wire/error-code.ts";
import { type PackageInput, sourceHash } from "../wire/package.ts";
import { newInstanceId, newInvocationToken } from "../wire/token.ts";
import { BoxClient } from "./client.ts";
import { type Dial, directDial } from "./dial.ts";
import type { Session, SessionEvent } from "./session.ts";
import { TestBox, type TestScript } from "./test-box.ts";

const HELLO: PackageInput = { manifest: { name: "hello", image: "deno" }, source: "export default {};" };

/** Does not wait between attempts. */
const impatient: Clock = {
  now: () => systemClock.now(),
  after: (delayMs, task) => systemClock.after(delayMs, task),
  sleep: async () => undefined,
};

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();
const code = (wanted: string) => (error: unknown) => {
  assert.ok(error instanceof BentoError, String(error));
  assert.equal(error.code, wanted, error.message);
  return true;
};

async function messages(session: Session): Promise<string[]> {
  const all: string[] = [];
  for await (const message of session) all.push(text(message));
  return all;
}

test("BoxClient.info: reads and checks the box's information", async () => {
  await using box = await TestBox.start();
  using client = new BoxClient({ address: box.address, dial: directDial });
  assert.equal((await client.info()).name, "test box");
  assert.equal((await client.policy()).images.length, 2);
  assert.equal(box.connections, 1, "the second request uses the warm connection");
});

test("BoxClient.run: installs, starts and attaches with one request whose first bytes hold all of it", async () => {
  await using box = await TestBox.start();
  const first: number[] = [];
  const dial: Dial = (target, options) => {
    first.push(options.firstBytes?.length ?? 0);
    assert.match(
      text(options.firstBytes ?? utf8("")),
      /^POST \/v1\/run HTTP\/1\.1\r\n[^]*"source":"export default/,
    );
    return directDial(target, options);
  };
  using client = new BoxClient({ address: box.address, dial });
  const session = await client.run({ package: HELLO }, { args: ["a", 1] });
  assert.deepEqual(await messages(session), ['["a",1]']);
  assert.deepEqual(await session.ended, { kind: "returned" });
  assert.equal(session.stored?.name, "hello");
  assert.deepEqual(box.requests, ["POST /v1/run"]);
  assert.equal(first.length, 1);
});

test("BoxClient.store, exec, open: the three steps give the same output", async () => {
  await using box = await TestBox.start();
  using client = new BoxClient({ address: box.address, dial: directDial });
  const stored = await client.store(HELLO);
  const instance = await client.exec(stored.invocationToken, { call: "hello()" });
  const session = await client.open(instance);
  assert.deepEqual(await messages(session), ["hello()"]);
  assert.deepEqual(await session.ended, { kind: "returned" });
  assert.equal(await client.close(instance), false);
  assert.equal(await client.shutdown(stored.shutdownToken), 1);
});

/** A function that comes with Bento, large enough to be named rather than sent. */
const BUNDLED: PackageInput = {
  manifest: { name: "bundled", image: "deno" },
  source: `export default {};//${"x".repeat(20_000)}`,
  isBundled: true,
};
const BUNDLED_HASH = sourceHash({ manifest: { image: "deno" }, source: BUNDLED.source });

test("BoxClient: names a source that comes with Bento; a box without it gets it, after one question", async () => {
  const sent: string[] = [];
  const script: TestScript = async ({ start }) => {
    sent.push(start.package && "source" in start.package ? "whole" : "named");
    return { kind: "returned" };
  };
  await using same = await TestBox.start({ script, bundled: { [BUNDLED_HASH]: BUNDLED.source } });
  await using other = await TestBox.start({ script });
  const run = async (client: BoxClient, pack: PackageInput) => {
    const session = await client.run({ package: pack }, { args: [] });
    await session.drain();
    assert.equal(
      session.stored?.sourceHash,
      sourceHash({ manifest: { image: "deno" }, source: pack.source }),
    );
  };
  {
    using client = new BoxClient({ address: same.address, dial: directDial });
    await run(client, BUNDLED);
    assert.equal((await client.store(BUNDLED)).sourceHash, BUNDLED_HASH);
    // The author's own copy is a function like any other.
    await run(client, { ...BUNDLED, isBundled: false });
    await run(client, { ...HELLO, isBundled: true });
    assert.deepEqual(sent.splice(0), ["named", "whole", "whole"]);
    assert.deepEqual(same.requests, ["POST /v1/run", "POST /v1/store", "POST /v1/run", "POST /v1/run"]);
  }
  using client = new BoxClient({ address: other.address, dial: directDial });
  await run(client, BUNDLED);
  await run(client, BUNDLED);
  await client.store(BUNDLED);
  assert.deepEqual(sent.splice(0), ["whole", "whole"]);
  assert.deepEqual(other.requests, ["POST /v1/run", "POST /v1/run", "POST /v1/run", "POST /v1/store"]);
  // Who has read the box's information asks nothing in vain.
  using reader = new BoxClient({ address: other.address, dial: directDial });
  await reader.info();
  await run(reader, BUNDLED);
  assert.deepEqual(other.requests.slice(4), ["GET /v1/info", "POST /v1/run"]);
});

test("BoxClient: a box that claims a source and has it not, or knows nothing at all, is asked no third time", async () => {
  const problem = JSON.stringify(problemOf(new BoxError("unknown-source", "no")));
  await using box = await TestBox.start({
    intercept: (request, response) => {
      if (request.url !== PATHS.run) return false;
      request.resume();
      response.writeHead(404, { "content-type": MEDIA.problem }).end(problem);
      return true;
    },
    bundled: { [BUNDLED_HASH]: "other" },
  });
  using client = new BoxClient({ address: box.address, dial: directDial });
  assert.equal((await client.info()).functions[0]?.sourceHash, BUNDLED_HASH);
  await assert.rejects(client.run({ package: BUNDLED }, { args: [] }), { code: "unknown-source" });
  assert.deepEqual(box.requests, ["GET /v1/info", "POST /v1/run", "POST /v1/run"]);
});

const echo: TestScript = async (call) => {
  for await (const message of call.input) call.output(message);
  return { kind: "returned" };
};

test("Session: input and output go both ways while the run is open", async () => {
  await using box = await TestBox.start({ script: echo });
  using client = new BoxClient({ address: box.address, dial: directDial });
  const session = await client.run({ package: HELLO }, { args: [] });
  const output = session[Symbol.asyncIterator]();
  for (const message of ["one", "two"]) {
    await session.send(message);
    assert.equal(text((await output.next()).value as Uint8Array), message);
  }
  await session.endInput();
  assert.equal((await output.next()).done, true);
  assert.deepEqual(await session.ended, { kind: "returned" });
  await assert.rejects(session.send("late"), code("already-ended"));
});

for (const way of ["run", "open"] as const) {
  test(`Session: attaches again after a break, nothing lost or repeated (${way})`, async () => {
    const parts = Array.from({ length: 50 }, (_, index) => Buffer.alloc(20_000, index));
    const script: TestScript = async (call) => {
      for (const [index, part] of parts.entries()) {
        call.output(part, index % 5 === 4);
        if (index % 10 !== 9) continue;
        await call.acknowledged((index - 5) * 20_000);
        call.breakConnection();
      }
      return { kind: "returned" };
    };
    await using box = await TestBox.start({ script });
    const events: SessionEvent["kind"][] = [];
    const onEvent = (event: SessionEvent) => events.push(event.kind);
    using client = new BoxClient({ address: box.address, dial: directDial, clock: impatient });
    let session: Session;
    if (way === "run") session = await client.run({ package: HELLO }, { args: [] }, { onEvent });
    else {
      const stored = await client.store(HELLO);
      session = await client.open(await client.exec(stored.invocationToken, { args: [] }), { onEvent });
    }
    const got: Uint8Array[] = [];
    for await (const message of session) got.push(message);
    assert.deepEqual(Buffer.concat(got), Buffer.concat(parts));
    assert.equal(session.offset, 1_000_000);
    assert.ok(events.includes("interrupted") && events.includes("resumed"), events.join(" "));
    assert.deepEqual(await session.ended, { kind: "returned" });
  });
}

/** Says three bytes, and loses its client when that has them. */
const breaking: TestScript = async (call) => {
  call.output(utf8("abc"));
  await call.acknowledged(3);
  call.breakConnection();
  return { kind: "returned" };
};

test("Session: one that ends with its connection does not attach again", async () => {
  await using box = await TestBox.start({ script: breaking });
  using client = new BoxClient({ address: box.address, dial: directDial, clock: impatient });
  const session = await client.run({ package: HELLO }, { args: [] }, { endsWithConnection: true });
  await assert.rejects(messages(session), code("connection-lost"));
  await assert.rejects(session.ended, code("connection-lost"));
  assert.ok(!box.requests.some((request) => request.includes("/v1/open")), box.requests.join());
});

test("Session.detach: leaves the instance running; attaching from the offset gives the rest", async () => {
  const more = Promise.withResolvers<void>();
  const script: TestScript = async (call) => {
    call.output(utf8("first"));
    await more.promise;
    call.output(utf8("second"));
    return { kind: "returned" };
  };
  await using box = await TestBox.start({ script });
  using client = new BoxClient({ address: box.address, dial: directDial });
  const session = await client.run({ package: HELLO }, { args: [] });
  for await (const chunk of session.chunks()) {
    assert.equal(text(chunk.bytes), "first");
    break;
  }
  await session.detach();
  await session.detach();
  await assert.rejects(session.ended, code("detached"));
  more.resolve();
  const again = await client.open(session.instance, { offset: 5 });
  assert.deepEqual(await messages(again), ["second"]);
});

test("Session: a box that skips or repeats output is refused", async () => {
  await using box = await TestBox.start({ script: breaking });
  using client = new BoxClient({ address: box.address, dial: directDial, clock: impatient });
  const session = await client.run({ package: HELLO }, { args: [] });
  const instance = box.instances.get(session.instance);
  assert.ok(instance);
  const attach = instance.attach.bind(instance);
  instance.attach = (offset, ...rest) => {
    attach(offset + 1, ...rest);
  };
  await assert.rejects(messages(session), code("integrity"));
});

test("Session: the box's problem while attached reaches the reader, without another attempt", async () => {
  await using box = await TestBox.start({ script: echo });
  using client = new BoxClient({ address: box.address, dial: directDial });
  const session = await client.run({ package: HELLO }, { args: [] });
  const problem = { code: "taken-over", title: "Another client attached" };
  box.instances.get(session.instance)?.send?.({ kind: "problem", problem });
  await assert.rejects(messages(session), code("taken-over"));
  await assert.rejects(session.ended, code("taken-over"));
});

test("Session: gives up after its attempts to attach again, with the reason", async () => {
  const box = await TestBox.start({ script: echo });
  using client = new BoxClient({ address: box.address, dial: directDial, clock: impatient });
  let attempts = 0;
  const onEvent = (event: SessionEvent) => {
    if (event.kind === "interrupted") attempts = event.attempt;
  };
  const session = await client.run({ package: HELLO }, { args: [] }, { onEvent });
  await box[Symbol.asyncDispose]();
  await assert.rejects(messages(session), code("box-unreachable"));
  assert.equal(attempts, 6);
});

test("BoxClient: what a box refuses arrives as its code, with every rule", async () => {
  await using box = await TestBox.start();
  using client = new BoxClient({ address: box.address, dial: directDial });
  const greedy = {
    ...HELLO,
    manifest: { ...HELLO.manifest, memory: "1GiB", storage: { bytes: "1TiB" } },
  } as const;
  for (const attempt of [client.store(greedy), client.run({ package: greedy }, { args: [] })]) {
    await assert.rejects(attempt, (error: unknown) => {
      assert.ok(error instanceof BoxError);
      assert.deepEqual(
        error.refusals.map((refusal) => refusal.rule),
        ["memory", "storage"],
      );
      return code("policy-refused")(error);
    });
  }
  await assert.rejects(client.exec(newInvocationToken(), { args: [] }), code("bad-token"));
  await assert.rejects(client.open(newInstanceId()), code("bad-token"));
});

test("BoxClient: malformed or oversize requests are refused before anything is sent", async () => {
  await using box = await TestBox.start();
  using client = new BoxClient({ address: box.address, dial: directDial });
  const manifest = { name: "Bad Name", image: "deno" } as const;
  await assert.rejects(client.store({ ...HELLO, manifest }), code("bad-manifest"));
  await assert.rejects(client.store({ ...HELLO, source: "x".repeat(5e6) }), code("too-large"));
  const args = ["x".repeat(200_000)];
  await assert.rejects(client.run({ package: HELLO }, { args }), code("too-large"));
  assert.equal(box.connections, 0);
});

const hostile: readonly [string, string, (response: ServerResponse) => void][] = [
  ["not JSON", "bad-answer", (response) => response.writeHead(200).end("<html>")],
  ["wrong shape", "bad-answer", (response) => response.writeHead(200).end('{"protocol":2}')],
  ["endless answer", "bad-answer", (response) => response.writeHead(200).end("x".repeat(2 ** 20 + 1))],
  ["no problem document", "bad-answer", (response) => response.writeHead(404).end("nothing here")],
  [
    "redirect",
    "bad-answer",
    (response) => response.writeHead(302, { location: "http://127.0.0.1:1/" }).end(),
  ],
  [
    "oversize head",
    "box-unreachable",
    (response) => response.writeHead(200, { x: "y".repeat(20_000) }).end("{}"),
  ],
  ["closed connection", "box-unreachable", (response) => response.destroy()],
  [
    "cut answer",
    "box-unreachable",
    (response) => response.writeHead(200, { "content-length": 9 }).write("{", () => response.destroy()),
  ],
];
for (const [name, wanted, reply] of hostile) {
  test(`BoxClient.info: hostile box, ${name}`, async () => {
    await using box = await TestBox.start({
      intercept: (_request, response) => {
        reply(response);
        return true;
      },
    });
    using client = new BoxClient({ address: box.address, dial: directDial });
    await assert.rejects(client.info(), code(wanted));
  });
}

test("BoxClient.store: a box that claims other code was installed is refused", async () => {
  await using lies = await TestBox.start({
    intercept: (_request, response) => {
      const stored = {
        invocationToken: newInvocationToken(),
        shutdownToken: `end-${"A".repeat(43)}`,
        name: "hello",
        sourceHash: "00",
        grant: LEAST_GRANT,
        expiresAt: 1,
      };
      response.writeHead(201).end(JSON.stringify(stored));
      return true;
    },
  });
  using client = new BoxClient({ address: lies.address, dial: directDial });
  await assert.rejects(client.store(HELLO), code("integrity"));
});

test("BoxClient: a silent box ends in box-timeout, first after the cold then after the warm wait", async () => {
  let silent = true;
  const clock = new TestClock();
  const arrived = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  await using box = await TestBox.start({
    intercept: () => {
      if (silent) arrived.shift()?.resolve();
      return silent;
    },
  });
  using client = new BoxClient({ address: box.address, dial: directDial, clock });
  for (const waitMs of [120_000, 30_000]) {
    silent = true;
    const next = arrived[0]?.promise;
    let failed = false;
    const asking = assert.rejects(client.info(), code("box-timeout")).then(() => (failed = true));
    await next;
    await clock.advance(waitMs - 1);
    assert.equal(failed, false);
    await clock.advance(1);
    await asking;
    silent = false;
    await client.info();
  }
});

test("BoxClient: aborting gives up the wait with the signal's reason", async () => {
  await using box = await TestBox.start({ intercept: () => true });
  using client = new BoxClient({ address: box.address, dial: directDial });
  const abort = new AbortController();
  const asking = client.run({ package: HELLO }, { args: [] }, { signal: abort.signal });
  const reason = new Error("enough");
  setImmediate(() => {
    abort.abort(reason);
  });
  await assert.rejects(asking, reason);
});

test("BoxClient: an address where nothing listens is box-unreachable", async () => {
  const box = await TestBox.start();
  const { address } = box;
  await box[Symbol.asyncDispose]();
  using client = new BoxClient({ address, dial: directDial });
  await assert.rejects(client.info(), code("box-unreachable"));
  await assert.rejects(client.open(newInstanceId()), code("box-unreachable"));
});

test("BoxClient: one isolation for all its streams, another for each client", async () => {
  await using box = await TestBox.start();
  const seen: string[] = [];
  const dial: Dial = (target, options): Promise<Duplex> => {
    seen.push(options.isolation);
    return directDial(target, options);
  };
  for (let round = 0; round < 2; round++) {
    using client = new BoxClient({ address: box.address, dial });
    await (await client.run({ package: HELLO }, { args: [] })).drain();
    const [instance] = box.instances.keys();
    assert.ok(instance);
    await (await client.open(instance)).drain();
  }
  assert.equal(seen.length, 4);
  assert.equal(seen[0], seen[1]);
  assert.equal(new Set(seen).size, 2);
});
