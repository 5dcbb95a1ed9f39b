import assert from "node:assert/strict";
import { test } from "node:test";
import { utf8 } from "../../base/bytes.ts";
import { Channel } from "../../base/channel.ts";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import type { Outcome } from "../../wire/api.ts";
import type { OwnerMessage } from "../../wire/loadbalancer.ts";
import { newInstanceId, newShutdownToken } from "../../wire/token.ts";
import type { BoxClient, OutputChunk } from "../client.ts";
import { follow, type Place, type Seen } from "./follow.ts";
import type { Newest } from "./start.ts";
import { stopBalancer } from "./stop.ts";

const never = async (signal: AbortSignal | undefined) =>
  new Promise<never>((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));

const REPORT = {
  nowMs: 1,
  address: `${"a".repeat(56)}.onion`,
  role: "primary",
  introductionPoints: [],
  introductions: { total: 0, perSecond: 0, waiting: 0, dropped: 0, refused: 0 },
  scale: { replicasMin: 1, replicasMax: 1, high: {}, low: {}, choice: "random" },
  replicas: [],
  standby: null,
};

/** A box with a load balancer, or one that does not answer. */
class FakeBox {
  readonly place: Place;
  readonly said: string[] = [];
  /** How often somebody attached, asked who is there, wanted it removed. */
  readonly asked = { open: 0, list: 0, newest: 0, shutdown: 0 };
  /** Nothing is answered, whatever is asked: a machine that is off. */
  isDead = false;
  openMs = 0;
  /** Somebody is attached to what runs here. */
  isHeld = false;
  isRemoved = false;
  role: Newest["role"];

  constructor(clock: TestClock, label: string, kind: Place["kind"], role?: Newest["role"]) {
    this.role = role;
    const instance = newInstanceId();
    const answers = async (signal: AbortSignal | undefined) => (this.isDead ? never(signal) : undefined);
    const client = {
      open: async (_: string, { signal }: { readonly signal?: AbortSignal } = {}) => {
        this.asked.open++;
        await answers(signal);
        if (this.openMs > 0) await clock.sleep(this.openMs, signal);
        return this.#session();
      },
      list: async (_: string, { signal }: { readonly signal?: AbortSignal } = {}) => {
        this.asked.list++;
        await answers(signal);
        if (this.isRemoved) throw new BentoError("bad-token", "unknown");
        return { instances: [{ instance, attached: this.isHeld }] };
      },
      shutdown: async (_: string, { signal }: { readonly signal?: AbortSignal } = {}) => {
        this.asked.shutdown++;
        await answers(signal);
        this.isRemoved = true;
      },
    };
    this.place = {
      kind,
      label,
      client: client as unknown as BoxClient,
      instance,
      shutdownToken: newShutdownToken(),
      findNewest: async (signal) => {
        this.asked.newest++;
        await answers(signal);
        return { instance, role: this.role };
      },
    };
  }

  #session() {
    const output = new Channel<OutputChunk>(100);
    const ended = Promise.withResolvers<Outcome>();
    let offset = 0;
    const answer = (value: object) => {
      const bytes = utf8(JSON.stringify(value));
      output.push({ offset, bytes, last: true });
      offset += bytes.length;
    };
    return {
      ended: ended.promise,
      chunks: () => output,
      detach: async () => output.close(),
      send: async (text: string) => {
        const message = JSON.parse(text) as OwnerMessage;
        this.said.push(Object.keys(message)[0] ?? "");
        if ("watch" in message) answer({ report: { ...REPORT, id: message.watch.id } });
        if ("stop" in message) answer({ stopped: { replicasEnded: 2, left: ["far"] } });
      },
    };
  }
}

async function turn(): Promise<void> {
  for (let turns = 0; turns < 10; turns++) await new Promise((resolve) => setImmediate(resolve));
}

/** What is seen up to the first report, with the time at which each came. */
function watching(places: readonly Place[], clock: TestClock) {
  const seen: string[] = [];
  const asking: string[] = [];
  const signal = new AbortController().signal;
  const startMs = clock.now();
  const onAsking = (all: readonly Place[]) => asking.push(all.map(({ label }) => label).join(" "));
  const done = (async () => {
    for await (const one of follow(places, { everyMs: 0, signal, clock, onAsking })) {
      seen.push(describe(one, clock.now() - startMs));
      if (one.kind === "answer") return;
    }
  })();
  done.catch(() => undefined);
  return { seen, asking, done };
}

function describe(seen: Seen, ms: number): string {
  return `${seen.kind} ${seen.place.label} ${ms}`;
}

test("a box that is off does not hold up: after two seconds the others are asked, and who is in charge answers", async () => {
  const clock = new TestClock();
  const dead = new FakeBox(clock, "a", "primary");
  dead.isDead = true;
  const waiting = new FakeBox(clock, "b", "standby", "standby");
  waiting.isHeld = true;
  const taker = new FakeBox(clock, "c", "standby", "primary");
  const { seen, asking, done } = watching([dead.place, waiting.place, taker.place], clock);
  await turn();
  await clock.advance(1900);
  await turn();
  assert.deepEqual([taker.asked.newest, waiting.asked.newest], [0, 0], "not before");
  await clock.advance(200);
  await turn();
  await done;
  assert.deepEqual(seen, ["gone a 2000", "attached c 2000", "answer c 2000"]);
  assert.deepEqual(asking, ["a b c"]);
  assert.equal(waiting.asked.open, 0, "the standby's session is not taken");
});

test("a slow box that answers is the one: the standby that waits for it was asked, and not disturbed", async () => {
  const clock = new TestClock();
  const slow = new FakeBox(clock, "a", "primary");
  slow.openMs = 9000;
  const waiting = new FakeBox(clock, "b", "standby", "standby");
  waiting.isHeld = true;
  const { seen, done } = watching([slow.place, waiting.place], clock);
  await turn();
  for (let step = 0; step < 20; step++) {
    await clock.advance(500);
    await turn();
  }
  await done;
  assert.deepEqual(seen, ["attached a 9000", "answer a 9000"]);
  assert.deepEqual([waiting.asked.newest, waiting.asked.open], [1, 0]);
});

test("a box that answers at once is asked alone", async () => {
  const clock = new TestClock();
  const first = new FakeBox(clock, "a", "primary");
  const other = new FakeBox(clock, "b", "standby", "primary");
  const { seen, asking, done } = watching([first.place, other.place], clock);
  await turn();
  await done;
  await clock.advance(10_000);
  await turn();
  assert.deepEqual(seen, ["attached a 0", "answer a 0"]);
  assert.deepEqual([asking, other.asked.newest, other.asked.list], [[], 0, 0]);
});

test("a box that is off, and a standby that hears from it: out of our reach, and nothing is disturbed", async () => {
  const clock = new TestClock();
  const dead = new FakeBox(clock, "a", "primary");
  dead.isDead = true;
  const waiting = new FakeBox(clock, "b", "standby", "standby");
  waiting.isHeld = true;
  const { done } = watching([dead.place, waiting.place], clock);
  await turn();
  for (let step = 0; step < 70; step++) {
    await clock.advance(500);
    await turn();
  }
  await assert.rejects(done, { code: "balancer-out-of-reach" });
  assert.equal(waiting.asked.open, 0);
  // The same when its own box does not say what it is: then its box says whether somebody is attached.
  waiting.role = undefined;
  const again = watching([dead.place, waiting.place], clock);
  await turn();
  for (let step = 0; step < 70; step++) {
    await clock.advance(500);
    await turn();
  }
  await assert.rejects(again.done, { code: "balancer-out-of-reach" });
});

test("stop: the one in charge is asked at once; the box that is off is waited for beside it, not before and after", async () => {
  const clock = new TestClock();
  const dead = new FakeBox(clock, "a", "primary");
  dead.isDead = true;
  const taker = new FakeBox(clock, "b", "standby", "primary");
  const reserve = new FakeBox(clock, "c", "standby", "standby");
  const checking: string[] = [];
  const stopping = stopBalancer([dead.place, taker.place, reserve.place], {
    signal: new AbortController().signal,
    clock,
    onStopping: ({ label }) => checking.push(`stopping ${label}`),
    onChecking: (places) => checking.push(`checking ${places.map(({ label }) => label).join(" ")}`),
  });
  await turn();
  await clock.advance(2100);
  await turn();
  assert.deepEqual(taker.said, ["watch", "stop"]);
  assert.deepEqual([dead.asked.shutdown, reserve.asked.shutdown, taker.asked.shutdown], [1, 1, 1]);
  assert.equal(reserve.asked.open, 0);
  assert.deepEqual(checking, ["stopping b", "checking a b"]);
  await clock.advance(20_000);
  await turn();
  const { told, places } = await stopping;
  assert.deepEqual(told, { replicasEnded: 2, left: ["far"] });
  assert.deepEqual(
    places.map(({ failure }) => failure),
    ["No answer within 20 s", undefined, undefined],
  );
});

test("stop: a load balancer whose standby still hears from it is left alone where it is not reached", async () => {
  const clock = new TestClock();
  const dead = new FakeBox(clock, "a", "primary");
  dead.isDead = true;
  const waiting = new FakeBox(clock, "b", "standby", "standby");
  waiting.isHeld = true;
  const stopping = stopBalancer([dead.place, waiting.place], { signal: new AbortController().signal, clock });
  stopping.catch(() => undefined);
  await turn();
  for (let step = 0; step < 70; step++) {
    await clock.advance(500);
    await turn();
  }
  await assert.rejects(stopping, { code: "balancer-out-of-reach" });
  assert.deepEqual([waiting.asked.shutdown, dead.asked.shutdown], [0, 0]);
});
