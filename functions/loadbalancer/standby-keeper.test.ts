import assert from "node:assert/strict";
import { test } from "node:test";
import { utf8 } from "../../src/base/bytes.ts";
import { TestClock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";
import { createLog } from "../../src/base/log.ts";
import type { LoadBalancerEvent, StandbyPlace } from "../../src/wire/loadbalancer.ts";
import { InProcessBoxes, MemoryStorage } from "../../test/support/in-process-boxes.ts";
import { REFUSED_MS } from "./box-backoff.ts";
import { Seen } from "./seen.ts";
import { RUN_MS, StandbyKeeper, type StandbyKeeperParts } from "./standby-keeper.ts";
import { primaryMessage, type StandbyStart } from "./standby-protocol.ts";
import type { KeptStandbyHome, KeptState } from "./state.ts";

const RUNTIME_MS = 3 * 3600_000;
const log = createLog(() => undefined);
const PACK = { manifest: { name: "loadbalancer", image: "deno" as const }, source: "" };

interface Started {
  readonly box: string;
  readonly standby: StandbyStart["standby"];
  /** When a sign of life came. */
  readonly beats: number[];
}

/** A primary and boxes where its standbys say that they wait, or what a test wants. */
class World {
  readonly clock = new TestClock();
  readonly started: Started[] = [];
  readonly events: LoadBalancerEvent[] = [];
  readonly places: (StandbyPlace | null)[] = [];
  readonly reserves: string[] = [];
  homes: readonly KeptStandbyHome[];
  place: StandbyPlace | null = null;
  tookOver = 0;
  /** What standbys at a box say instead of that they wait. */
  readonly words = new Map<string, object>();
  readonly boxes: InProcessBoxes;
  readonly keeper: StandbyKeeper;

  constructor(options: Partial<StandbyKeeperParts> = {}, homes: readonly KeptStandbyHome[] = []) {
    this.homes = homes;
    this.boxes = new InProcessBoxes({
      loadbalancer: async ([given], session, _, box) => {
        const { standby } = given as StandbyStart;
        const beats: number[] = [];
        this.started.push({ box, standby, beats });
        let isFirst = standby.isAgain !== true;
        for await (const bytes of session) {
          // The package and the site.
          if (isFirst) {
            isFirst = false;
            continue;
          }
          const message = primaryMessage(bytes);
          if (!message) continue;
          beats.push(this.clock.now());
          const word = this.words.get(box) ?? { waiting: { beat: message.beat, circuits: 3 } };
          await session.send(JSON.stringify(word));
        }
      },
    });
    this.boxes.grant = { limits: { runtimeMs: RUNTIME_MS } };
    const start = { serve: { kind: "target" }, standby: { box: "spare" } };
    this.keeper = new StandbyKeeper({
      boxes: ["spare"],
      pack: PACK,
      replicaBytes: 3,
      state: () => ({ start, standby: this.place, standbyHomes: this.homes }) as unknown as KeptState,
      input: async function* input() {
        yield utf8("{ }");
      },
      seen: new Seen(new MemoryStorage(), this.clock, log),
      bento: this.boxes.bento,
      clock: this.clock,
      log,
      onEvent: (event) => this.events.push(event),
      onPlace: async (place) => {
        this.place = place;
        this.places.push(place);
      },
      onHomes: async (kept) => {
        this.homes = kept;
      },
      onReserve: ({ box }) => this.reserves.push(box),
      onTookOver: () => {
        this.tookOver++;
      },
      settled: async () => undefined,
      ...options,
    });
  }

  async pass(ms: number): Promise<void> {
    for (let left = ms; left > 0; left -= 500) {
      await this.clock.advance(Math.min(500, left));
      for (let turns = 0; turns < 6; turns++) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  get startedAt(): string[] {
    return this.started.map(({ box }) => box);
  }

  get kinds(): string[] {
    return this.events.map((event) => ("box" in event ? `${event.kind} ${event.box}` : event.kind));
  }

  killAt(box: string): void {
    for (const { id } of this.boxes.on(box)) this.boxes.kill(id);
  }
}

const THREE = ["one", "two", "three"];

test("a standby that dies while the primary lives is placed on the next box of the list, then where it was", async () => {
  const world = new World({ boxes: THREE });
  await world.pass(2000);
  assert.deepEqual(world.startedAt, ["one"]);
  world.killAt("one");
  await world.pass(3000);
  assert.deepEqual(world.startedAt, ["one", "two"]);
  assert.equal(world.keeper.isWaiting, true);
  assert.equal(world.keeper.box, "two");
  // Its box said that it has ended: nobody else can have taken over.
  assert.equal(world.keeper.isUncertain, false);
  // Longer than the first box is left alone.
  await world.pass(REFUSED_MS);
  world.killAt("two");
  await world.pass(3000);
  assert.deepEqual(world.startedAt, ["one", "two", "one"]);
  assert.deepEqual(world.kinds, [
    "standby-ready one",
    "standby-lost one",
    "standby-ready two",
    "standby-lost two",
    "standby-ready one",
  ]);
  // Package and site are there already.
  assert.equal(world.started[2]?.standby.isAgain, true);
  assert.deepEqual(world.place?.instance, world.boxes.on("one").at(-1)?.id);
  await world.keeper.leave();
});

test("boxes that take none are asked again, each after longer, for as long as it takes", async () => {
  const refusal = new BentoError("box-full", "no room");
  const world = new World({ boxes: THREE });
  for (const box of THREE) world.boxes.refusing.set(box, refusal);
  await world.pass(3500);
  const losses = () => world.kinds.filter((kind) => kind.startsWith("standby-lost"));
  assert.deepEqual(losses(), ["standby-lost one", "standby-lost two", "standby-lost three"]);
  await world.pass(REFUSED_MS - 2500);
  const asked = losses().length;
  assert.ok(asked > 3, String(asked));
  await world.pass(600_000);
  const before = losses().length;
  // By now each is left alone for minutes.
  await world.pass(60_000);
  assert.ok(losses().length - before <= 3);
  world.boxes.refusing.delete("three");
  await world.pass(310_000);
  assert.equal(world.keeper.isWaiting, true);
  assert.equal(world.keeper.box, "three");
  await world.keeper.leave();
});

test("a box that does not answer is waited for a minute; the one that it starts after all is ended", async () => {
  const world = new World({ boxes: ["one", "two"] });
  const run = world.boxes.run.bind(world.boxes);
  const late = Promise.withResolvers<void>();
  world.boxes.run = async (box, what, options) => {
    if (box === "one") await late.promise;
    return run(box, what, options);
  };
  await world.pass(RUN_MS - 500);
  assert.deepEqual(world.startedAt, []);
  await world.pass(4000);
  assert.deepEqual(world.startedAt, ["two"]);
  assert.equal(world.keeper.isWaiting, true);
  late.resolve();
  await world.pass(500);
  const [unwanted] = world.boxes.on("one").slice(-1);
  assert.equal((await unwanted?.outcome.promise)?.kind, "killed");
  assert.equal(world.keeper.box, "two");
  await world.keeper.leave();
});

test("the function is installed at the boxes whose turn may come, and removed everywhere at the end", async () => {
  const world = new World({ boxes: THREE });
  world.boxes.refusing.set("two", new BentoError("box-full", "no room"));
  await world.pass(5000);
  assert.deepEqual(world.reserves, ["three"]);
  world.boxes.refusing.clear();
  await world.pass(2 * REFUSED_MS);
  assert.deepEqual(world.reserves, ["three", "two"]);
  assert.deepEqual(
    world.homes.map(({ box, isFilled }) => [box, isFilled]),
    [
      ["one", true],
      ["three", false],
      ["two", false],
    ],
  );
  assert.deepEqual([world.startedAt, world.boxes.deployed], [["one"], 3]);
  await world.keeper.end();
  for (const { box, invocationToken } of world.homes)
    await assert.rejects(world.boxes.run(box, { token: invocationToken }), { code: "bad-token" });
  await world.pass(10_000);
  assert.deepEqual(world.startedAt, ["one"], "none is started again");
});

test("one that cannot install it starts a standby where it is, by token, and sends what is not there", async () => {
  // What a standby that took over has: its primary installed it at one box, and had it itself at another.
  const world = new World();
  await world.keeper.leave();
  const { bento } = world.boxes;
  const homes: KeptStandbyHome[] = [];
  for (const box of ["two", "three"]) {
    const { invocationToken, shutdownToken } = await world.boxes.deploy(box, PACK);
    homes.push({ box, invocationToken, shutdownToken, isFilled: box === "three" });
  }
  const taker = new World({ boxes: ["nowhere", "two", "three"], pack: undefined, bento }, homes);
  await taker.pass(2000);
  assert.deepEqual(world.startedAt, ["two"]);
  assert.equal(world.started[0]?.standby.isAgain, undefined);
  assert.equal(taker.keeper.isWaiting, true);
  world.killAt("two");
  await taker.pass(3000);
  assert.deepEqual(world.startedAt, ["two", "three"]);
  assert.equal(world.started[1]?.standby.isAgain, true);
  assert.equal(world.boxes.deployed, 2, "none was installed");
  await taker.keeper.leave();
});

test("a standby whose box is not reached may have taken over: it is asked until it says so, and then we give way", async () => {
  const world = new World({ boxes: THREE });
  await world.pass(2000);
  const [lost] = world.boxes.on("one");
  assert.ok(lost);
  // The session breaks, and nobody comes there any more.
  world.boxes.refusing.set("one", new BentoError("box-unreachable", "no connection"));
  lost.attach(() => undefined);
  await world.pass(4000);
  assert.equal(world.keeper.box, "two");
  assert.equal(world.keeper.isWaiting, true);
  assert.equal(world.keeper.isUncertain, true);
  await world.pass(120_000);
  assert.deepEqual([world.tookOver, world.keeper.isUncertain], [0, true]);
  world.words.set("one", { tookOver: { epoch: 65_537 } });
  world.boxes.refusing.clear();
  await world.pass(60_000);
  assert.deepEqual([world.tookOver, world.keeper.isUncertain], [1, false]);
  // Whoever has the service now is not to lose it to the standby that waits for our silence.
  const [waiting] = world.boxes.on("two");
  await world.keeper.dismiss();
  assert.equal((await waiting?.outcome.promise)?.kind, "killed");
  assert.equal(
    world.homes.some(({ box }) => box === "two"),
    true,
    "its function stays",
  );
});

test("one that was lost and waits all the same is ended: the next one is there", async () => {
  const world = new World({ boxes: THREE });
  await world.pass(2000);
  const [lost] = world.boxes.on("one");
  lost?.attach(() => undefined);
  await world.pass(4000);
  assert.equal(world.keeper.box, "two");
  assert.equal((await lost?.outcome.promise)?.kind, "killed");
  assert.deepEqual([world.tookOver, world.keeper.isUncertain], [0, false]);
  await world.keeper.leave();
});

test("one that has taken over is not ended when we leave", async () => {
  const world = new World({ boxes: THREE });
  await world.pass(2000);
  world.words.set("one", { tookOver: { epoch: 65_537 } });
  await world.pass(1000);
  assert.ok(world.tookOver > 0);
  await world.keeper.dismiss();
  const [taker] = world.boxes.on("one");
  assert.ok(taker);
  assert.equal(await Promise.race([taker.outcome.promise, Promise.resolve("runs")]), "runs");
});

test("a standby is replaced before its box ends it: another instance of its function, and no gap in the signs of life", async () => {
  const world = new World();
  await world.pass(2000);
  assert.equal(world.keeper.isWaiting, true);
  // Half an hour before the end, and not sooner.
  await world.clock.advance(RUNTIME_MS - 1800_000 - 5000);
  await world.pass(2000);
  assert.equal(world.started.length, 1);
  await world.pass(5000);
  assert.deepEqual(
    world.started.map(({ standby }) => standby.isAgain),
    [undefined, true],
  );
  assert.equal(world.boxes.deployed, 1);
  const [first, second] = world.places;
  assert.ok(first && second && world.places.length === 2);
  assert.notEqual(second.instance, first.instance);
  assert.equal(second.invocationToken, first.invocationToken);
  assert.equal((await world.boxes.instances.get(first.instance)?.outcome.promise)?.kind, "killed");
  assert.equal(world.keeper.isWaiting, true);
  const [before = [], after = []] = world.started.map(({ beats }) => beats);
  assert.ok((after[0] ?? 0) - (before.at(-1) ?? 0) <= 1000, `${after[0]} ${before.at(-1)}`);
  assert.deepEqual(world.kinds, ["standby-ready spare"]);

  // The next time its box cannot: it stays as it is, and is tried again.
  world.boxes.refusing.set("spare", new BentoError("box-full", "no memory"));
  await world.clock.advance(RUNTIME_MS - 1800_000);
  await world.pass(2000);
  assert.equal(world.keeper.isWaiting, true);
  assert.equal(world.started.length, 2);
  world.boxes.refusing.clear();
  await world.pass(300_000);
  assert.equal(world.started.length, 3);
  assert.equal(world.keeper.isWaiting, true);
  await world.keeper.leave();
});
