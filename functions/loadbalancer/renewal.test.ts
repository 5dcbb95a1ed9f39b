import assert from "node:assert/strict";
import { test } from "node:test";
import type { Json } from "bento/function";
import { TestClock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";
import { createLog } from "../../src/base/log.ts";
import type { LoadBalancerEvent, LoadBalancerStart } from "../../src/wire/loadbalancer.ts";
import { InProcessBoxes, MemoryStorage } from "../../test/support/in-process-boxes.ts";
import { IN_CHARGE_MS, RENEW_BEFORE_MS, RENEW_RETRY_MS, Renewal } from "./renewal.ts";
import { firstState, KEYS, type KeptState, StateKeeper } from "./state.ts";

const DAY_MS = 24 * 3600_000;
const STATE: KeptState = { ...firstState({} as LoadBalancerStart, ""), epoch: 7 };

/** An instance whose successors do what a test says. */
class World {
  readonly clock = new TestClock();
  readonly events: LoadBalancerEvent[] = [];
  readonly storage = new MemoryStorage();
  readonly args: Json[] = [];
  readonly boxes: InProcessBoxes;
  renewed = 0;
  readonly keeper: StateKeeper;
  readonly renewal: Renewal;

  private constructor(boxes: InProcessBoxes, storage: MemoryStorage, clock: TestClock, keeper: StateKeeper) {
    this.boxes = boxes;
    this.storage = storage;
    this.clock = clock;
    this.keeper = keeper;
    this.renewal = new Renewal({
      bento: boxes.bento,
      storage,
      keeper,
      clock,
      sinceMs: clock.now(),
      onEvent: (event) => this.events.push(event),
      flush: async () => undefined,
      onRenewed: () => {
        this.renewed++;
      },
    });
  }

  static async of(
    successor: (storage: MemoryStorage, args: readonly Json[]) => Promise<void>,
    runtimeMs = DAY_MS,
  ): Promise<World> {
    const storage = new MemoryStorage();
    const boxes = new InProcessBoxes({
      loadbalancer: async (args, session) => {
        await successor(storage, args);
        await new Promise((resolve) => session.signal.addEventListener("abort", resolve));
      },
    });
    const pack = { manifest: { name: "loadbalancer", image: "deno" as const }, source: "" };
    const { invocationToken: token } = await boxes.deploy("self", pack);
    const keeper = await StateKeeper.create(
      storage,
      createLog(() => undefined),
      { ...STATE, renew: { token, runtimeMs } },
    );
    return new World(boxes, storage, new TestClock(), keeper);
  }

  /** As the load balancer calls it, in steps that polls fit in. */
  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 250) {
      await this.clock.advance(Math.min(250, left));
      this.renewal.tick();
      for (let turns = 0; turns < 4; turns++) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Without what lies between. */
  async jump(ms: number): Promise<void> {
    await this.clock.advance(ms);
    await this.pass(250);
  }

  get kept(): KeptState {
    return JSON.parse(this.storage.text(KEYS.state) ?? "") as KeptState;
  }
}

const takesOver = async (storage: MemoryStorage): Promise<void> => {
  await storage.put(KEYS.state, JSON.stringify({ ...STATE, epoch: 8, inCharge: 8 }));
};

test("the next instance is started half an hour before the end, and has the service when it says so", async () => {
  const seen: unknown[] = [];
  const world = await World.of(async (storage, args) => {
    seen.push(...args);
    await takesOver(storage);
  });
  await world.jump(DAY_MS - RENEW_BEFORE_MS - 500);
  assert.equal(world.boxes.instances.size, 0, "not before");
  await world.pass(1000);
  assert.deepEqual(seen, [{ resume: true, renews: true }]);
  assert.equal(world.renewed, 1);
  assert.deepEqual(world.events, [{ kind: "renewed" }]);
  assert.equal(world.storage.text(KEYS.instance), [...world.boxes.instances.keys()][0]);
  await world.renewal.settled();
});

test("what the one that leaves still writes does not undo what its successor has written", async () => {
  const world = await World.of(takesOver);
  await world.jump(DAY_MS - RENEW_BEFORE_MS);
  await world.pass(500);
  await world.keeper.change({ nextReplicaId: 99 });
  assert.equal(world.kept.epoch, 8);
  assert.notEqual(world.kept.nextReplicaId, 99);
});

test("a successor that begins and has no point is ended; the service stays here, and it is tried again", async () => {
  let starts = 0;
  const world = await World.of(async (storage) => {
    starts++;
    await storage.put(KEYS.state, JSON.stringify({ ...STATE, epoch: 8 }));
  });
  await world.jump(DAY_MS - RENEW_BEFORE_MS);
  await world.keeper.change({ nextReplicaId: 5 });
  await world.pass(IN_CHARGE_MS - 2000);
  assert.deepEqual([world.renewed, world.events, world.kept.epoch], [0, [], 8]);
  await world.pass(3000);
  assert.equal(world.renewed, 0);
  assert.deepEqual(
    world.events.map(({ kind }) => kind),
    ["renew-failed"],
  );
  assert.deepEqual([world.kept.epoch, world.kept.nextReplicaId], [7, 5], "this one's word counts again");
  assert.equal(world.storage.text(KEYS.instance), undefined);
  assert.deepEqual(await [...world.boxes.instances.values()][0]?.outcome.promise, {
    kind: "killed",
    reason: "crashed",
  });
  assert.equal(starts, 1);
  await world.pass(RENEW_RETRY_MS - IN_CHARGE_MS);
  assert.equal(starts, 2);
});

test("a box without room is asked again; without the owner's token nothing is", async () => {
  const world = await World.of(takesOver);
  world.boxes.refusing.set("self", new BentoError("box-full", "no room"));
  await world.jump(DAY_MS - RENEW_BEFORE_MS);
  assert.deepEqual(world.events, [{ kind: "renew-failed", code: "box-full", message: "no room" }]);
  await world.keeper.change({ nextReplicaId: 6 });
  assert.equal(world.kept.nextReplicaId, 6);
  world.boxes.refusing.clear();
  await world.pass(RENEW_RETRY_MS + 500);
  assert.equal(world.renewed, 1);

  const other = await World.of(takesOver);
  const { renew: _, ...state } = other.keeper.state;
  const silent = await StateKeeper.create(
    other.storage,
    createLog(() => undefined),
    state,
  );
  const { boxes, storage, clock } = other;
  const without = new Renewal({
    bento: boxes.bento,
    storage,
    keeper: silent,
    clock,
    sinceMs: clock.now(),
    onEvent: () => assert.fail(),
    flush: async () => undefined,
    onRenewed: () => assert.fail(),
  });
  await clock.advance(2 * DAY_MS);
  without.tick();
  await without.settled();
  assert.equal(boxes.instances.size, 0);
});

test("a short runtime has a quarter of it left", async () => {
  const world = await World.of(takesOver, 60_000);
  await world.pass(44_750);
  assert.equal(world.renewed, 0);
  await world.pass(1000);
  assert.equal(world.renewed, 1);
});
