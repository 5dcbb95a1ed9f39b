// Who may use which box, and how much of it: the broker against far boxes written by the test.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { LEAST_LIMITS } from "../../../test/support/least-grant.ts";
import { utf8 } from "../../base/bytes.ts";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { silentLog } from "../../base/log.ts";
import { BoxError } from "../../wire/error-code.ts";
import type { BentoGrant } from "../../wire/grant.ts";
import type { ManifestInput } from "../../wire/manifest.ts";
import { newInstanceId, newInvocationToken, newShutdownToken } from "../../wire/token.ts";
import type { FunctionId } from "../store/function-store.ts";
import { BentoBroker } from "./bento.ts";
import { REQUEST_BYTES } from "./bento-budget.ts";
import type { RemoteBox, RemoteSession, RemoteTarget } from "./bento-remote.ts";
import type { InstanceBento } from "./services.ts";

const F = "f".repeat(32) as FunctionId;
const G = "9".repeat(32) as FunctionId;
const ONION = `${"b".repeat(56)}.onion`;
const OWN = `${"c".repeat(56)}.onion`;
const GRANT: BentoGrant = {
  boxes: ["*"],
  functions: 4,
  invocations: 4,
  sessions: 2,
  depth: 2,
  bytes: 2 ** 20,
};
const { signal } = new AbortController();

function stored(name = "f") {
  return {
    invocationToken: newInvocationToken(),
    shutdownToken: newShutdownToken(),
    name,
    sourceHash: "0".repeat(64),
    grant: { image: "deno" as const, syscalls: [], box: [], limits: LEAST_LIMITS },
    expiresAt: 1,
  };
}

function fakeSession(output: readonly string[] = []): RemoteSession & { left: number; sent: string[] } {
  const session = {
    instance: newInstanceId(),
    stored: undefined,
    offset: 0,
    ended: Promise.resolve({ kind: "returned" as const }),
    sent: [] as string[],
    left: 0,
    async sendFragment(bytes: Uint8Array) {
      session.sent.push(Buffer.from(bytes).toString());
    },
    async endInput() {},
    async *chunks() {
      for (const text of output) yield { bytes: utf8(text), last: true };
    },
    async detach() {
      session.left++;
    },
  };
  return session;
}

/** Far boxes that do what `answers` says, and a broker for them. */
function setUp(answers: Partial<RemoteBox> = {}, reached = true) {
  const targets: RemoteTarget[] = [];
  const calls: string[] = [];
  const ended: string[] = [];
  const boxes = (target: RemoteTarget): RemoteBox => {
    targets.push(target);
    const box: RemoteBox = {
      wasReached: reached,
      info: async () => ({ name: target.address.host }) as never,
      policy: async () => ({}) as never,
      store: async () => stored(),
      exec: async () => newInstanceId(),
      run: async () => fakeSession(),
      open: async () => fakeSession(),
      close: async () => true,
      shutdown: async (token) => ended.push(token),
      [Symbol.dispose]: () => undefined,
      ...answers,
    };
    return box;
  };
  const clock = new TestClock();
  const isOwn = ({ host }: { host: string }) => host === OWN;
  const broker = new BentoBroker({ boxes, isOwn, clock, log: silentLog });
  return { broker, targets, calls, ended, clock };
}

async function* packageOf(manifest: Partial<ManifestInput> = {}, source = "x") {
  yield utf8(JSON.stringify({ manifest: { name: "f", image: "deno", ...manifest }, source }));
}
const deploy = (bento: InstanceBento, manifest: Partial<ManifestInput> = {}, box = ONION) =>
  bento.deploy(box, packageOf(manifest), { linked: false, signal });
const code = (expected: string) => ({ code: expected });

describe("BentoBroker: which boxes", () => {
  test('"*" is every box but this one, under whatever name; "self" is this one alone', async () => {
    const { broker, targets } = setUp();
    const others = broker.forInstance(F, GRANT);
    await others.info("box.example:5005", signal);
    await others.info(ONION, signal);
    for (const own of ["self", OWN, `${OWN}:80`, OWN.toUpperCase()]) {
      await assert.rejects(others.info(own, signal), code("bento-refused"));
    }
    const own = broker.forInstance(G, { ...GRANT, boxes: ["self"] });
    await own.info("self", signal);
    await own.info(OWN, signal);
    await assert.rejects(own.info(ONION, signal), code("bento-refused"));
    assert.deepEqual(
      targets.map(({ route }) => route),
      ["tor", "tor", "self", "self"],
    );
  });

  test("addresses mean the same however they are spelled, and no other box", async () => {
    const { broker } = setUp();
    const bento = broker.forInstance(F, { ...GRANT, boxes: [ONION, "Box.Example:5005"] });
    await bento.info(`${ONION}:80`, signal);
    await bento.info("box.example:5005", signal);
    for (const other of [
      `${ONION}:81`,
      "box.example:5006",
      "box.example.org:5005",
      "http://x",
      "",
      " self",
    ]) {
      await assert.rejects(bento.info(other, signal), code("bento-refused"));
    }
  });

  test("functions never share the isolation of their circuits; instances of one do", async () => {
    const { broker, targets } = setUp();
    await broker.forInstance(F, GRANT).info(ONION, signal);
    await broker.forInstance(F, GRANT).info(ONION, signal);
    await broker.forInstance(G, GRANT).info(ONION, signal);
    const [a, b, c] = targets.map(({ isolation }) => isolation);
    assert.equal(a, b);
    assert.notEqual(a, c);
  });
});

describe("BentoBroker: how much", () => {
  test("n functions and not n+1, for all instances together, until the function is forgotten", async () => {
    const { broker } = setUp();
    for (let count = 0; count < 4; count++) await deploy(broker.forInstance(F, GRANT));
    await assert.rejects(deploy(broker.forInstance(F, GRANT)), code("bento-budget"));
    // Another function has a budget of its own.
    await deploy(broker.forInstance(G, GRANT));
    broker.forget(F);
    broker.forget(G);
    assert.equal(broker.functions, 0);
  });

  test("calls at once cannot both take the last of it", async () => {
    const { broker } = setUp();
    const bento = broker.forInstance(F, GRANT);
    const results = await Promise.allSettled(Array.from({ length: 10 }, () => deploy(bento)));
    assert.equal(results.filter(({ status }) => status === "fulfilled").length, 4);
  });

  test("what the far box refused, or never got, is given back; what may have been done is not", async () => {
    const refusing = setUp({ store: () => Promise.reject(new BoxError("box-full", "full")) });
    const first = refusing.broker.forInstance(F, GRANT);
    for (let count = 0; count < 10; count++) await assert.rejects(deploy(first), code("box-full"));
    const lost = () => Promise.reject(new BentoError("connection-lost", "gone at 10.0.0.1"));
    const dark = setUp({ store: lost }, false).broker.forInstance(F, GRANT);
    for (let count = 0; count < 10; count++) await assert.rejects(deploy(dark), code("box-unreachable"));
    const silent = setUp({ store: lost }, true).broker.forInstance(F, GRANT);
    for (let count = 0; count < 4; count++) await assert.rejects(deploy(silent), code("box-unreachable"));
    await assert.rejects(deploy(silent), code("bento-budget"));
  });

  test("a function that deploys costs what it may deploy, and must be less deep and no wider", async () => {
    const { broker } = setUp();
    const bento = broker.forInstance(F, { ...GRANT, boxes: [ONION], bytes: 2 ** 30 });
    const child = (change: object) => ({ bento: { boxes: [ONION], functions: 1, ...change } });
    await assert.rejects(deploy(bento, child({ depth: 2 })), code("bento-depth"));
    await assert.rejects(deploy(bento, child({ boxes: ["*"] })), code("bento-refused"));
    await assert.rejects(deploy(bento, child({ functions: 4 })), code("bento-budget"));
    await assert.rejects(deploy(bento, child({ invocations: 5 })), code("bento-budget"));
    await assert.rejects(deploy(bento, child({ bytes: "2GiB" })), code("bento-budget"));
    // One and the two that it may deploy; then there is room for one more.
    await deploy(bento, child({ functions: 2, invocations: 4, boxes: [ONION, "self"] }));
    await deploy(bento);
    await assert.rejects(deploy(bento), code("bento-budget"));
    await assert.rejects(bento.exec(ONION, newInvocationToken(), { args: [] }, signal), code("bento-budget"));
  });

  test("n sessions at once and not n+1, until one is left", async () => {
    const { broker } = setUp();
    const bento = broker.forInstance(F, GRANT);
    const open = () => bento.open(ONION, newInstanceId(), { signal });
    const first = await open();
    await open();
    await assert.rejects(open(), code("bento-limit"));
    await first.detach();
    await first.detach();
    await open();
    await assert.rejects(open(), code("bento-limit"));
  });

  test("bytes both ways, to the last one", async () => {
    const { broker } = setUp({ open: async () => fakeSession(["123", "4567"]) });
    const bento = broker.forInstance(F, { ...GRANT, bytes: REQUEST_BYTES + 10 });
    const session = await bento.open(ONION, newInstanceId(), { signal });
    await session.send(utf8("abc"), true);
    const chunks = session.chunks()[Symbol.asyncIterator]();
    assert.equal((await chunks.next()).done, false);
    assert.equal((await chunks.next()).done, false);
    await assert.rejects(session.send(utf8("a"), true), code("bento-budget"));
    await assert.rejects(bento.info(ONION, signal), code("bento-budget"));
  });

  test("a message of 1 MiB and not a byte more, in whatever pieces", async () => {
    const { broker } = setUp();
    const bento = broker.forInstance(F, { ...GRANT, bytes: 2 ** 30 });
    const session = await bento.open(ONION, newInstanceId(), { signal });
    for (let piece = 0; piece < 16; piece++) await session.send(new Uint8Array(65_536), piece === 15);
    for (let piece = 0; piece < 16; piece++) await session.send(new Uint8Array(65_536), false);
    await assert.rejects(session.send(new Uint8Array(1), true), code("too-large"));
  });
});

describe("BentoBroker: ends", () => {
  test("an instance that ends leaves its sessions, and ends what is linked to it and nothing else", async () => {
    const session = fakeSession();
    const { broker, ended } = setUp({ open: async () => session });
    const bento = broker.forInstance(F, GRANT);
    const linked = await bento.deploy(ONION, packageOf(), { linked: true, signal });
    await deploy(bento);
    await bento.open(ONION, newInstanceId(), { signal });
    await bento[Symbol.asyncDispose]();
    await broker[Symbol.asyncDispose]();
    assert.equal(session.left, 1);
    assert.deepEqual(ended, [linked.shutdownToken]);
    await assert.rejects(bento.info(ONION, signal), code("closed"));
  });

  test("a call that is given up while the far box works leaves no function behind that nobody knows", async () => {
    const answer = Promise.withResolvers<ReturnType<typeof stored>>();
    const { broker, ended } = setUp({ store: () => answer.promise });
    const bento = broker.forInstance(F, GRANT);
    const giveUp = new AbortController();
    const deploying = bento.deploy(ONION, packageOf(), { linked: false, signal: giveUp.signal });
    await new Promise((resolve) => setImmediate(resolve));
    giveUp.abort(new BentoError("closed", "given up"));
    await assert.rejects(deploying, code("closed"));
    const late = stored();
    answer.resolve(late);
    await new Promise((resolve) => setImmediate(resolve));
    await broker[Symbol.asyncDispose]();
    assert.deepEqual(ended, [late.shutdownToken]);
  });

  test("cleaning up is tried again when the box was not reached, and not when it said no", async () => {
    let attempts = 0;
    const failing = setUp({
      shutdown: async () => {
        attempts++;
        throw new BentoError("box-timeout", "late");
      },
    });
    const bento = failing.broker.forInstance(F, GRANT);
    await bento.deploy(ONION, packageOf(), { linked: true, signal });
    await bento[Symbol.asyncDispose]();
    await failing.clock.advance(0);
    await new Promise((resolve) => setImmediate(resolve));
    for (const delayMs of [5_000, 30_000, 120_000]) await failing.clock.advance(delayMs);
    assert.equal(attempts, 4);
    assert.equal(failing.broker.aftermath.size, 0);
  });

  test("a session that breaks for good says why, and gives its place back when it is left", async () => {
    const lost = new BentoError("connection-lost", "at 10.0.0.1");
    const broken = {
      ...fakeSession(),
      ended: Promise.reject(lost),
      sendFragment: () => Promise.reject(new BentoError("input-lost", "the connection broke")),
      chunks: () => ({ [Symbol.asyncIterator]: () => ({ next: () => Promise.reject(lost) }) }),
    };
    const { broker } = setUp({ open: async () => broken });
    const bento = broker.forInstance(F, { ...GRANT, sessions: 1 });
    const session = await bento.open(ONION, newInstanceId(), { signal });
    await assert.rejects(session.chunks()[Symbol.asyncIterator]().next(), code("box-unreachable"));
    await assert.rejects(session.ended, code("box-unreachable"));
    await assert.rejects(session.send(utf8("a"), true), code("input-lost"));
    await session.detach();
    await bento.open(ONION, newInstanceId(), { signal });
  });

  test("what a function learns of a failure holds nothing of this machine", async () => {
    const cause = new BentoError("tor-socks-unreachable", "Cannot connect to 127.0.0.1:9050: ECONNREFUSED");
    const { broker } = setUp({ info: () => Promise.reject(cause) }, false);
    await assert.rejects(broker.forInstance(F, GRANT).info(ONION, signal), (error: Error) => {
      assert.equal(Reflect.get(error, "code"), "box-unreachable");
      assert.doesNotMatch(error.message, /127\.0\.0\.1|9050|ECONN/);
      return true;
    });
  });
});
