import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { FakeGuests } from "../../../test/support/fake-guests.ts";
import { utf8 } from "../../base/bytes.ts";
import { TestClock } from "../../base/clock.ts";
import { silentLog } from "../../base/log.ts";
import { BoxError } from "../../wire/error-code.ts";
import type { FunctionId } from "../store/function-store.ts";
import type { Backlog } from "./backlog.ts";
import { SPOOLED_BLOCK_BYTES_MAX } from "./backlog-block.ts";
import { type InstanceRequest, STOP_GRACE_MS } from "./instance.ts";
import { Instances } from "./instances.ts";
import { Spool } from "./spool.ts";

const never = new AbortController().signal;
let directory: string;
let spool: Spool;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "bento-instance-"));
  spool = await Spool.open({ directory, blockBytes: SPOOLED_BLOCK_BYTES_MAX, bytesMax: 64 * 2 ** 20 });
});

after(async () => {
  await spool[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

const A = "a".repeat(32) as FunctionId;
const B = "b".repeat(32) as FunctionId;
const RETAIN = { ms: 60_000, instances: 4, bytes: 2 ** 20 };

function request(source: string, functionId = A): InstanceRequest {
  const limits = {
    memoryBytes: 2 ** 26,
    cpuPercent: 50,
    pids: 32,
    tmpBytes: 2 ** 20,
    instances: 8,
    lifetimeMs: 3600e3,
    runtimeMs: 10_000,
    backlogBytes: 2 ** 20,
  };
  const grant = { image: "deno", syscalls: [], box: [], limits } as const;
  return {
    functionId,
    name: "f",
    source,
    sourceHash: "0".repeat(64),
    grant,
    invocation: { args: [] },
  };
}

function setUp() {
  const clock = new TestClock();
  const guests = new FakeGuests();
  let reserved = 0;
  let services = 0;
  const instances = new Instances({
    clock,
    log: silentLog,
    guests,
    spool,
    retain: RETAIN,
    reserve: () => {
      reserved++;
      return { [Symbol.dispose]: () => void reserved-- };
    },
    services: async () => {
      services++;
      return {
        net: {
          connect: async () => Promise.reject(new Error("no")),
          [Symbol.asyncDispose]: async () => void services--,
        },
      };
    },
  });
  return {
    clock,
    guests,
    instances,
    /** Nothing is held for anything that runs no more. */
    assertIdle: () => {
      assert.deepEqual(
        { reserved, services, alive: guests.alive, running: instances.running },
        { reserved: 0, services: 0, alive: 0, running: 0 },
      );
      for (const guest of guests.started) assert.equal(guest.disposals, 1);
    },
  };
}

async function outputOf(instance: { backlog: Backlog }): Promise<string> {
  const parts: Uint8Array[] = [];
  for (let at = 0; ; ) {
    const chunk = await instance.backlog.read(at, { open: false, signal: never });
    if (!chunk) return Buffer.concat(parts).toString();
    parts.push(chunk.bytes);
    at += chunk.bytes.length;
  }
}

test("Instance: returns, fails and crashes with the outcome that says so, and frees all it held", async () => {
  const { instances, guests, assertIdle } = setUp();
  const hello = await instances.start(request("hello"));
  assert.deepEqual(await hello.ended, { kind: "returned" });
  assert.equal(await outputOf(hello), "hello world");
  const failing = await instances.start(request("fail"));
  assert.deepEqual(await failing.ended, {
    kind: "failed",
    name: "ValueError",
    message: "no",
    traceback: "line 1",
  });
  for (const reason of ["crashed", "out-of-memory"] as const) {
    const dying = await instances.start(request("stubborn"));
    guests.started.at(-1)?.die(reason);
    assert.deepEqual(await dying.ended, { kind: "killed", reason });
  }
  assertIdle();
  await instances[Symbol.asyncDispose]();
});

test("Instance: is killed at its runtime limit, and not a millisecond before", async () => {
  const { instances, clock, assertIdle } = setUp();
  const instance = await instances.start(request("idle"));
  await clock.advance(9_999);
  assert.equal(instance.outcome, undefined);
  await clock.advance(1);
  assert.deepEqual(await instance.ended, { kind: "killed", reason: "runtime-limit" });
  assertIdle();
  await instances[Symbol.asyncDispose]();
});

test("Instance.kill: asks first, kills after the grace, and the first reason wins", async () => {
  const { instances, clock, guests } = setUp();
  const polite = await instances.start(request("idle"));
  await polite.kill("closed");
  assert.deepEqual(polite.outcome, { kind: "killed", reason: "closed" });
  const stubborn = await instances.start(request("stubborn"));
  const killed = stubborn.kill("shutdown");
  void stubborn.kill("expired");
  await clock.advance(STOP_GRACE_MS - 1);
  assert.equal(stubborn.outcome, undefined);
  assert.equal(guests.started.at(-1)?.disposals, 0);
  await clock.advance(1);
  await killed;
  assert.deepEqual(stubborn.outcome, { kind: "killed", reason: "shutdown" });
  assert.equal(guests.alive, 0);
  assert.equal(instances.running, 0);
  await instances[Symbol.asyncDispose]();
});

test("Instance: a guest that ignores its credit is ended", async () => {
  const { instances, clock } = setUp();
  const instance = await instances.start(request("cheat"));
  await clock.advance(STOP_GRACE_MS);
  assert.equal((await instance.ended).kind, "killed");
  assert.equal(instance.outcome?.kind === "killed" && instance.outcome.reason, "crashed");
  await instances[Symbol.asyncDispose]();
});

test("Instance.sendMessage: messages reach the guest whole and in order, and one of a lost client is dropped", async () => {
  const { instances, guests } = setUp();
  const instance = await instances.start(request("idle"));
  const guest = guests.started[0];
  assert.ok(guest);
  for (let index = 0; index < 64; index++) await instance.sendMessage([utf8(`${index}`)], never);
  // The guest takes no more: this message waits half-way, the next for its turn.
  const waiting = instance.sendMessage([utf8("first"), utf8("-half")], never);
  const abort = new AbortController();
  const dropped = instance.sendMessage([utf8("lost")], abort.signal);
  abort.abort(new Error("gone"));
  await dropped;
  guest.inputs.splice(0);
  guest.credit(0);
  await waiting;
  await instance.sendMessage([utf8("next")], never);
  assert.deepEqual(
    guest.inputs.map((input) => Buffer.from(input).toString()),
    ["first-half", "next"],
  );
  await instances[Symbol.asyncDispose]();
});

test("Instances.start: gives back everything when the guest or a service cannot be had", async () => {
  const { instances, guests, assertIdle } = setUp();
  guests.failure = new BoxError("functions-unavailable", "no");
  await assert.rejects(instances.start(request("hello")), { code: "functions-unavailable" });
  assertIdle();
  assert.equal(instances.ofFunction(A).length, 0);
  assert.equal(instances.retained, 0);
  await instances[Symbol.asyncDispose]();
  await assert.rejects(instances.start(request("hello")), { code: "shutting-down" });
});

test("Instances: ended ones wait for their reader for a while, n of them and not n+1", async () => {
  const { instances, clock } = setUp();
  const first = await instances.start(request("hello"));
  await first.ended;
  for (let index = 0; index < RETAIN.instances - 1; index++)
    await (await instances.start(request("hello", B))).ended;
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(instances.retained, RETAIN.instances);
  assert.equal(instances.find(first.id), first);
  await (await instances.start(request("hello", B))).ended;
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(instances.retained, RETAIN.instances);
  // The function with most of them gives way, not the one with the oldest.
  assert.equal(instances.find(first.id), first);
  assert.equal(instances.ofFunction(B).length, RETAIN.instances - 1);
  await clock.advance(RETAIN.ms);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(instances.retained, 0);
  assert.equal(instances.find(first.id), undefined);
  await instances[Symbol.asyncDispose]();
});

test("Instances: unread output of ended ones is bounded in bytes together", async () => {
  const { instances } = setUp();
  for (let index = 0; index < 4; index++) {
    const instance = await instances.start(request(`flood ${400 * 1024}`));
    // The window holds less than the flood: somebody has to read for it to end.
    instance.backlog.discard(0);
    await instance.ended;
  }
  await new Promise((resolve) => setImmediate(resolve));
  const held = instances.ofFunction(A).reduce((sum, { backlog }) => sum + backlog.heldBytes, 0);
  assert.ok(held <= RETAIN.bytes, `${held} bytes are held`);
  assert.equal(instances.retained, 2);
  await instances[Symbol.asyncDispose]();
});

test("Instances.endFunction: ends the instances of one function and leaves the others", async () => {
  const { instances } = setUp();
  const [one, two, other] = [
    await instances.start(request("idle")),
    await instances.start(request("idle")),
    await instances.start(request("idle", B)),
  ];
  assert.equal(await instances.endFunction(A, "shutdown"), 2);
  assert.deepEqual(
    [one.outcome, two.outcome, other.outcome],
    [{ kind: "killed", reason: "shutdown" }, { kind: "killed", reason: "shutdown" }, undefined],
  );
  await instances[Symbol.asyncDispose]();
  assert.deepEqual(other.outcome, { kind: "killed", reason: "box-stopping" });
  assert.equal(spool.used, 0);
});
