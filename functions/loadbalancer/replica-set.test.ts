import assert from "node:assert/strict";
import { test } from "node:test";
import { utf8 } from "../../src/base/bytes.ts";
import { TestClock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";
import type { Session } from "../../src/guest/function.ts";
import type { LoadBalancerEvent, ScaleSettings } from "../../src/wire/loadbalancer.ts";
import { InProcessBoxes } from "../../test/support/in-process-boxes.ts";
import { MATERIAL } from "../../test/support/rendezvous-material.ts";
import {
  decodeCommand,
  encodeMessage,
  type ReplicaCommand,
  type ReplicaLoad,
  type ReplicaMessage,
  type ReplicaStart,
} from "../replica/protocol.ts";
import { REFUSED_MS } from "./box-backoff.ts";
import { END_MS } from "./in-time.ts";
import { Introductions, TRIES_MAX } from "./introductions.ts";
import { LOST_MS, NO_LOAD, PENDING_MAX, SILENT_MS } from "./replica-link.ts";
import { RENEW_BEFORE_MS } from "./replica-renewal.ts";
import { ATTACH_MS, ReplicaSet, START_MS } from "./replica-set.ts";
import { RUNTIME_MS_MIN } from "./runtime-of.ts";
import { GONE_MS, LOW_HOLD_MS } from "./scaling.ts";
import type { KeptHome, KeptReplica } from "./state.ts";

/** A replica that does what a test says. */
class FakeReplica {
  readonly box: string;
  readonly #session: Session;
  readonly commands: ReplicaCommand[] = [];
  readonly returned = Promise.withResolvers<void>();
  isReporting = true;
  load = NO_LOAD;

  constructor(box: string, session: Session) {
    this.box = box;
    this.#session = session;
    void this.#listen();
  }

  get meets(): number[] {
    return this.commands.flatMap((command) => (command.kind === "meet" ? [command.number] : []));
  }

  async say(message: ReplicaMessage): Promise<void> {
    await this.#session.send(encodeMessage(message));
  }

  async report(change: Partial<ReplicaLoad> = {}): Promise<void> {
    this.load = { ...this.load, ...change };
    await this.say({ kind: "load", epoch: 1, load: this.load });
  }

  async #listen(): Promise<void> {
    for await (const bytes of this.#session) this.commands.push(decodeCommand(bytes));
  }
}

class World {
  readonly clock = new TestClock();
  readonly replicas: FakeReplica[] = [];
  readonly rehearsed: string[] = [];
  readonly events: LoadBalancerEvent[] = [];
  readonly boxes: InProcessBoxes;
  readonly set: ReplicaSet;
  readonly introductions: Introductions;
  kept: { readonly homes: KeptHome[]; readonly replicas: KeptReplica[] } = { homes: [], replicas: [] };
  /** New replicas say at once that they serve. */
  serveAtOnce = true;
  #id = 0;

  constructor(scale: Partial<ScaleSettings> = {}, boxes: readonly string[] = ["a", "b", "c"]) {
    this.boxes = new InProcessBoxes({
      replica: async ([start], session, _storage, box) => {
        if ((start as ReplicaStart).isRehearsal) {
          this.rehearsed.push(box);
          await session.send(encodeMessage({ kind: "hello", epoch: 1, needsSite: true }));
          return;
        }
        const replica = new FakeReplica(box, session);
        this.replicas.push(replica);
        if (this.serveAtOnce) await replica.say({ kind: "serving", epoch: 1 });
        await replica.returned.promise;
      },
    });
    this.introductions = new Introductions(this.clock, (introduction) => this.set.give(introduction));
    this.set = new ReplicaSet(
      { replicasMin: 1, replicasMax: 3, high: {}, low: {}, choice: "least-loaded", ...scale },
      {
        bento: this.boxes.bento,
        clock: this.clock,
        epoch: 1,
        boxes,
        pack: { manifest: { name: "replica", image: "deno" }, source: "" },
        start: { version: 1, epoch: 1, virtualPort: 80, serve: { kind: "target", host: "x", port: 1 } },
        site: async function* none() {
          yield utf8("");
        },
        nextId: () => ++this.#id,
        onEvent: (event) => this.events.push(event),
        onRoom: () => this.introductions.retry(),
        onAgain: (introduction) => this.introductions.again(introduction),
        onChange: async (kept) => {
          this.kept = kept;
        },
      },
    );
  }

  /** Time passes in steps of ticks; replicas report as they do. */
  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 100) {
      await this.clock.advance(Math.min(100, left));
      for (const replica of this.replicas) if (replica.isReporting) await replica.report();
      await settled();
      this.set.tick();
      this.introductions.retry();
      await settled();
    }
  }

  get states(): string[] {
    return this.set.reports.map(({ box, state }) => `${box} ${state}`);
  }

  of(kind: LoadBalancerEvent["kind"]): LoadBalancerEvent[] {
    return this.events.filter((event) => event.kind === kind);
  }
}

async function settled(): Promise<void> {
  for (let turns = 0; turns < 4; turns++) await new Promise((resolve) => setImmediate(resolve));
}

test("the fewest replicas are started, spread over boxes in the owner's order", async () => {
  const world = new World({ replicasMin: 2 });
  await world.pass(200);
  assert.deepEqual(world.states, ["a serving", "b serving"]);
  assert.equal(world.of("replica-started").length, 2);
  assert.deepEqual(
    world.kept.replicas.map(({ id, box, isRetiring }) => ({ id, box, isRetiring })),
    [
      { id: 1, box: "a", isRetiring: false },
      { id: 2, box: "b", isRetiring: false },
    ],
  );
});

test("each client goes where the fewest are, those on their way counted", async () => {
  const world = new World({ replicasMin: 3 });
  await world.pass(200);
  await world.replicas[0]?.report({ connections: 4 });
  await settled();
  for (let count = 0; count < 8; count++) world.introductions.take(MATERIAL);
  await settled();
  assert.deepEqual(
    world.replicas.map(({ meets }) => meets.length),
    [0, 4, 4],
  );
  // All three are at four now: ties are broken at random.
  const firsts = new Set<number>();
  for (let turn = 0; turn < 60; turn++) {
    const before = world.replicas.map(({ meets }) => meets.length);
    world.introductions.take(MATERIAL);
    await settled();
    firsts.add(world.replicas.findIndex(({ meets }, at) => meets.length > (before[at] ?? 0)));
  }
  assert.equal(firsts.size, 3);
  const loads = world.replicas.map(({ meets, load }) => meets.length + load.connections);
  assert.ok(Math.max(...loads) - Math.min(...loads) <= 1, loads.join());
});

test("at random, as in the paper: loads do not count", async () => {
  const world = new World({ replicasMin: 2, choice: "random" });
  await world.pass(200);
  await world.replicas[0]?.report({ connections: 100 });
  await settled();
  for (let count = 0; count < 60; count++) world.introductions.take(MATERIAL);
  await settled();
  assert.ok(world.replicas.every(({ meets }) => meets.length > 5));
});

test("the high mark starts one more, one that starts counts, and never more than the most", async () => {
  const world = new World({ replicasMin: 1, replicasMax: 2, high: { connections: 3 } });
  await world.pass(200);
  await world.replicas[0]?.report({ connections: 2 });
  await world.pass(200);
  assert.equal(world.replicas.length, 1);
  world.serveAtOnce = false;
  await world.replicas[0]?.report({ connections: 3 });
  await world.pass(1000);
  assert.deepEqual(world.states, ["a serving", "b starting"]);
  await world.replicas[1]?.say({ kind: "serving", epoch: 1 });
  await world.replicas[0]?.report({ connections: 50 });
  await world.pass(1000);
  assert.equal(world.replicas.length, 2);
});

test("bytes and CPU are marks, too", async () => {
  for (const [high, load] of [
    [{ bytesPerSecond: 1000 }, { bytesPerSecond: 1000 }],
    [{ cpuPercent: 80 }, { cpuPercent: 80 }],
    [{ connections: 99, cpuPercent: 80 }, { cpuPercent: 81 }],
  ] as const) {
    const world = new World({ high });
    await world.pass(200);
    assert.equal(world.replicas.length, 1);
    await world.replicas[0]?.report(load);
    await world.pass(200);
    assert.equal(world.replicas.length, 2);
  }
});

test("the low mark retires one after a while; its clients stay until they go, new ones go elsewhere", async () => {
  const world = new World({ replicasMin: 1, high: { connections: 4 }, low: { connections: 2 } });
  await world.pass(200);
  await world.replicas[0]?.report({ connections: 4 });
  await world.pass(200);
  await world.replicas[0]?.report({ connections: 2 });
  await world.replicas[1]?.report({ connections: 1 });
  await world.pass(LOW_HOLD_MS - 400);
  assert.deepEqual(world.states, ["a serving", "b serving"]);
  await world.pass(1000);
  assert.deepEqual(world.states, ["a serving", "b retiring"]);
  assert.ok(world.replicas[1]?.commands.some(({ kind }) => kind === "retire"));
  assert.equal(
    world.replicas[1]?.commands.some(({ kind }) => kind === "end"),
    false,
  );
  world.introductions.take(MATERIAL);
  await settled();
  assert.equal(world.replicas[0]?.meets.length, 1);
  // Its last client has gone: it says so and returns.
  await world.replicas[1]?.say({ kind: "done", epoch: 1 });
  world.replicas[1]?.returned.resolve();
  await world.pass(200);
  assert.deepEqual(world.states, ["a serving"]);
  assert.equal(world.of("replica-retired").length, 1);
  assert.equal(world.of("replica-lost").length, 0);
});

test("none is retired that would be started again: the others must stay below the high mark", async () => {
  const world = new World({
    replicasMin: 1,
    replicasMax: 2,
    high: { connections: 4 },
    low: { connections: 4 },
  });
  await world.pass(200);
  await world.replicas[0]?.report({ connections: 4 });
  await world.pass(200);
  await world.replicas[0]?.report({ connections: 3 });
  await world.replicas[1]?.report({ connections: 3 });
  await world.pass(3 * LOW_HOLD_MS);
  assert.deepEqual(world.states, ["a serving", "b serving"]);
});

test("a replica that is silent gets no client within two seconds, and what it was given goes to another", async () => {
  const world = new World({ replicasMin: 2 });
  await world.pass(200);
  const [first, second] = world.replicas;
  assert.ok(first && second);
  await second.report({ connections: 5 });
  await settled();
  world.introductions.take(MATERIAL);
  await settled();
  assert.deepEqual([first.meets.length, second.meets.length], [1, 0]);
  first.isReporting = false;
  await world.pass(SILENT_MS + 200);
  assert.ok(SILENT_MS + 200 < 2000);
  assert.equal(world.states[0], "a silent");
  assert.equal(second.meets.length, 1, "given again");
  for (let count = 0; count < 5; count++) world.introductions.take(MATERIAL);
  await settled();
  assert.equal(first.meets.length, 1);
  // It is heard again: it serves again, and its clients were never torn down.
  first.isReporting = true;
  await world.pass(300);
  assert.equal(world.states[0], "a serving");
  assert.equal(
    first.commands.some(({ kind }) => kind === "end"),
    false,
  );
});

test("silent ones keep their places for a while: no more than the most are there", async () => {
  const world = new World({ replicasMin: 2, replicasMax: 2, high: { connections: 1 } });
  await world.pass(200);
  for (const replica of world.replicas) await replica.report({ connections: 5 });
  for (const replica of world.replicas) replica.isReporting = false;
  await world.pass(GONE_MS - 200);
  assert.deepEqual(world.states, ["a silent", "b silent"]);
  await world.pass(600);
  assert.deepEqual(world.states, ["a silent", "b silent", "c serving", "a serving"]);
  // They come back: two too many, of which those without clients go.
  for (const replica of world.replicas) replica.isReporting = true;
  await world.pass(600);
  assert.deepEqual(world.states, ["a serving", "b serving", "c retiring", "a retiring"]);
});

test("when we were held up ourselves, nobody is called silent for it", async () => {
  const world = new World({ replicasMin: 2 });
  await world.pass(200);
  await world.clock.advance(20_000);
  world.set.tick();
  assert.deepEqual(world.states, ["a serving", "b serving"]);
});

test("a replica that is not heard of for long is forgotten and replaced", async () => {
  const world = new World();
  await world.pass(200);
  assert.ok(world.replicas[0]);
  world.replicas[0].isReporting = false;
  await world.pass(GONE_MS + 1000);
  // Not the one of which nothing is heard, but another one keeps up the fewest.
  assert.ok(world.states.includes("b serving"), world.states.join());
  await world.pass(LOST_MS);
  assert.equal(world.of("replica-lost").length, 1);
});

test("a replica that dies is replaced, and its clients' introductions go to another", async () => {
  const world = new World();
  await world.pass(200);
  world.introductions.take(MATERIAL);
  await settled();
  world.boxes.kill(world.boxes.on("a")[0]?.id ?? "");
  await world.pass(400);
  assert.equal(world.of("replica-lost").length, 1);
  assert.equal(world.replicas[1]?.meets.length, 1);
  assert.equal(world.introductions.dropped, 0);
  assert.deepEqual(world.states, ["b serving"], "the box that lost one is left alone for a while");
});

test("a box that refuses is left alone for a while, ever longer, and said; another one is asked", async () => {
  const world = new World({ replicasMin: 1 }, ["a"]);
  world.boxes.refusing.set("a", new BentoError("box-full", "no room"));
  await world.pass(400);
  assert.deepEqual(world.of("replica-refused"), [
    { kind: "replica-refused", box: "a", code: "box-full", message: "no room" },
  ]);
  await world.pass(REFUSED_MS);
  assert.equal(world.of("replica-refused").length, 2);
  await world.pass(REFUSED_MS);
  assert.equal(world.of("replica-refused").length, 2);
  world.boxes.refusing.clear();
  await world.pass(REFUSED_MS + 200);
  assert.deepEqual(world.states, ["a serving"]);
  const two = new World({ replicasMin: 1 });
  two.boxes.refusing.set("a", new BentoError("policy-refused", "memory"));
  await two.pass(400);
  assert.deepEqual(two.states, ["b serving"]);
});

test("introductions wait for the first replica, and go out in their order", async () => {
  const world = new World();
  world.serveAtOnce = false;
  await world.pass(100);
  for (let count = 0; count < 3; count++) world.introductions.take(MATERIAL);
  assert.equal(world.introductions.waiting, 3);
  await world.replicas[0]?.say({ kind: "serving", epoch: 1 });
  await settled();
  assert.deepEqual(world.replicas[0]?.meets, [1, 2, 3]);
  assert.equal(world.introductions.waiting, 0);
});

test("a replica that cannot meet a client: another one tries, so often and no more", async () => {
  const world = new World({ replicasMin: 2 });
  await world.pass(200);
  world.introductions.take(MATERIAL);
  const had = new Map<FakeReplica, number>();
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    await settled();
    const last = world.replicas.find((replica) => replica.meets.length > (had.get(replica) ?? 0));
    for (const replica of world.replicas) had.set(replica, replica.meets.length);
    assert.equal(world.introductions.dropped, 0);
    await last?.say({ kind: "failed", epoch: 1, number: last.meets.at(-1) ?? 0, reason: "no" });
    await settled();
  }
  const given = world.replicas.flatMap(({ meets }) => meets);
  assert.deepEqual([given.length, world.introductions.dropped], [TRIES_MAX, 1]);
  // A replica takes none twice, and gets this one twice.
  assert.equal(new Set(given).size, TRIES_MAX);
});

test("a replica that answers nothing gets so many and no more", async () => {
  const world = new World();
  await world.pass(200);
  for (let count = 0; count < PENDING_MAX + 1; count++) world.introductions.take(MATERIAL);
  await settled();
  assert.equal(world.replicas[0]?.meets.length, PENDING_MAX);
  assert.equal(world.introductions.waiting, 1);
  await world.replicas[0]?.say({ kind: "met", epoch: 1, number: 1 });
  await world.pass(100);
  assert.equal(world.replicas[0]?.meets.length, PENDING_MAX + 1);
});

test("one that does not begin to serve in time is given up", async () => {
  const world = new World({}, ["a"]);
  world.serveAtOnce = false;
  await world.pass(200);
  await world.clock.advance(START_MS);
  world.set.tick();
  await settled();
  assert.match(JSON.stringify(world.of("replica-lost")), /in time/u);
});

test("boxes that will be needed next have package and site before: then only an instance is started", async () => {
  const world = new World({ replicasMin: 1, replicasMax: 2, high: { connections: 1 } });
  await world.pass(1000);
  assert.deepEqual(world.rehearsed, ["b"], "as many as replicas may be, and no more");
  assert.equal(world.boxes.deployed, 2);
  await world.replicas[0]?.report({ connections: 1 });
  await world.pass(400);
  assert.deepEqual(world.states, ["a serving", "b serving"]);
  assert.equal(world.boxes.deployed, 2);
});

test("a function that is there already is used again: no package is sent twice to a box", async () => {
  const world = new World({}, ["a"]);
  await world.pass(200);
  world.boxes.kill(world.boxes.on("a")[0]?.id ?? "");
  await world.pass(REFUSED_MS + 500);
  assert.deepEqual(world.states, ["a serving"]);
  assert.equal(world.boxes.deployed, 1);
});

test("a later instance attaches to what is there: its clients stay, nothing is started", async () => {
  const world = new World({ replicasMin: 2 });
  await world.pass(200);
  const set = new ReplicaSet(
    { replicasMin: 2, replicasMax: 3, high: {}, low: {}, choice: "least-loaded" },
    {
      bento: world.boxes.bento,
      clock: world.clock,
      epoch: 2,
      boxes: ["a", "b", "c"],
      pack: { manifest: { name: "replica", image: "deno" }, source: "" },
      start: { version: 1, epoch: 2, virtualPort: 80, serve: { kind: "target", host: "x", port: 1 } },
      site: async function* none() {
        yield utf8("");
      },
      nextId: () => 99,
      onEvent: () => undefined,
      onRoom: () => undefined,
      onAgain: () => undefined,
      onChange: async () => undefined,
    },
  );
  const attaching = set.attach(world.kept.homes, world.kept.replicas);
  set.tick();
  await attaching;
  await settled();
  for (const replica of world.replicas) await replica.say({ kind: "serving", epoch: 2 });
  await settled();
  set.tick();
  assert.equal(set.serving, 2);
  assert.equal(world.replicas.length, 2);
  assert.equal(world.set.wasTakenOver, true, "the earlier one sees that somebody else has attached");
  for (const replica of world.replicas)
    assert.ok(replica.commands.some((command) => command.kind === "settings" && command.epoch === 2));
});

/** Hours pass at once, and replicas report on both sides of it. */
async function sleepUntil(world: World, ms: number): Promise<void> {
  await world.clock.advance(ms);
  world.set.tick();
  for (const replica of world.replicas) await replica.report();
  await settled();
}

const DAY_MS = 24 * 3600_000;

test("replicas whose boxes will end them are replaced first, one after the other; clients stay until they go", async () => {
  const world = new World({ replicasMin: 2, replicasMax: 2 });
  world.boxes.grant = { limits: { runtimeMs: DAY_MS } };
  await world.pass(1000);
  for (const replica of world.replicas) await replica.report({ connections: 3 });
  await sleepUntil(world, DAY_MS - RENEW_BEFORE_MS - 3000);
  await world.pass(1000);
  assert.deepEqual(world.states, ["a serving", "b serving"], "an hour and seconds are left");
  world.serveAtOnce = false;
  await sleepUntil(world, 3000);
  await world.pass(1000);
  assert.deepEqual(
    world.states,
    ["a serving", "b serving", "c starting"],
    "one, though no more than two may be",
  );
  await world.replicas[2]?.say({ kind: "serving", epoch: 1 });
  await world.pass(1000);
  assert.deepEqual(world.states, ["a retiring", "b serving", "c serving", "a starting"]);
  assert.equal(
    world.replicas[0]?.commands.some(({ kind }) => kind === "end"),
    false,
  );
  world.introductions.take(MATERIAL);
  await settled();
  assert.deepEqual(
    world.replicas.map(({ meets }) => meets.length),
    [0, 0, 1, 0],
  );
  await world.replicas[3]?.say({ kind: "serving", epoch: 1 });
  await world.pass(2 * LOW_HOLD_MS);
  assert.deepEqual(world.states, ["a retiring", "b retiring", "c serving", "a serving"]);
  assert.equal(world.replicas.length, 4, "the new ones are not replaced");
});

test("a replica for which no box has room stays, and is replaced when one has", async () => {
  const world = new World({}, ["a"]);
  world.boxes.grant = { limits: { runtimeMs: DAY_MS } };
  await world.pass(1000);
  world.boxes.refusing.set("a", new BentoError("too-many-instances", "no room"));
  await sleepUntil(world, DAY_MS - RENEW_BEFORE_MS);
  await world.pass(REFUSED_MS - 400);
  assert.deepEqual(world.states, ["a serving"]);
  assert.equal(world.of("replica-refused").length, 1);
  world.boxes.refusing.clear();
  await world.pass(2000);
  assert.deepEqual(world.states, ["a retiring", "a serving"]);
});

test("boxes that do not say how long replicas may run, or say what cannot be, have none replaced", async () => {
  for (const limits of [{}, { runtimeMs: RUNTIME_MS_MIN - 1 }, { runtimeMs: "1d" }]) {
    const world = new World();
    world.boxes.grant = { limits };
    await world.pass(1000);
    await sleepUntil(world, 3 * DAY_MS);
    await world.pass(1000);
    assert.deepEqual(world.states, ["a serving"]);
  }
  const least = new World();
  least.boxes.grant = { limits: { runtimeMs: RUNTIME_MS_MIN } };
  await least.pass(RUNTIME_MS_MIN * 0.75 + 500);
  assert.deepEqual(least.states, ["a retiring", "b serving"]);
});

test("the next instance knows how long replicas may run", async () => {
  const world = new World();
  world.boxes.grant = { limits: { runtimeMs: DAY_MS } };
  await world.pass(1000);
  assert.deepEqual(
    world.kept.homes.map(({ runtimeMs }) => runtimeMs),
    world.kept.homes.map(() => DAY_MS),
  );
  assert.ok(world.kept.homes.length > 0);
});

test("the end: all boxes are told at once, and one that does not answer is left after 15 s", async () => {
  const world = new World({ replicasMin: 3, replicasMax: 3 });
  await world.pass(2000);
  assert.equal(world.set.serving, 3);
  const shutdown = world.boxes.shutdown.bind(world.boxes);
  const told: string[] = [];
  world.boxes.shutdown = async (box, token) => {
    told.push(box);
    return box === "a" ? new Promise<never>(() => undefined) : shutdown(box, token);
  };
  const ending = world.set.end();
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(told.toSorted(), ["a", "b", "c"]);
  await world.clock.advance(END_MS - 1);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(await Promise.race([ending, Promise.resolve("waits")]), "waits");
  await world.clock.advance(1);
  assert.deepEqual(await ending, { replicasEnded: 3, left: ["a"] });
});

test("replicas that are taken up: one whose box does not answer is lost after 20 s, and another one is started for it", async () => {
  const world = new World({ replicasMin: 2 });
  const pack = { manifest: { name: "replica", image: "deno" as const }, source: "" };
  const kept: KeptReplica[] = [];
  for (const box of ["a", "b"]) {
    const { instance } = await world.boxes.run(box, pack, { args: [{}] });
    kept.push({ id: kept.length + 50, box, instance, startedAtMs: world.clock.now(), isRetiring: false });
  }
  const open = world.boxes.open.bind(world.boxes);
  const late = Promise.withResolvers<void>();
  let isLeft = false;
  world.boxes.open = async (box, id) => {
    if (box !== "a") return open(box, id);
    await late.promise;
    const far = await open(box, id);
    const detach = async () => {
      isLeft = true;
    };
    return { ...far, detach };
  };
  void world.set.attach([], kept);
  await settled();
  await world.replicas.find(({ box }) => box === "b")?.say({ kind: "serving", epoch: 1 });
  await world.pass(ATTACH_MS - 200);
  assert.deepEqual(world.states, ["a starting", "b serving"], "it counts meanwhile");
  await world.pass(1000);
  assert.equal(world.events[0]?.kind, "replica-lost");
  assert.equal(world.set.serving, 2);
  // The session that comes after all is left again: whoever else attaches is not disturbed.
  late.resolve();
  await settled();
  assert.equal(isLeft, true);
});
