import assert from "node:assert/strict";
import { test } from "node:test";
import { utf8 } from "../../src/base/bytes.ts";
import { TestClock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";
import { createLog } from "../../src/base/log.ts";
import type { LoadBalancerEvent, StandbyPlace } from "../../src/wire/loadbalancer.ts";
import { InProcessBoxes, MemoryStorage } from "../../test/support/in-process-boxes.ts";
import { Seen } from "./seen.ts";
import { StandbyLink } from "./standby-link.ts";
import { primaryMessage, type StandbyStart } from "./standby-protocol.ts";
import type { KeptState } from "./state.ts";

const RUNTIME_MS = 3 * 3600_000;

test("a standby is replaced before its box ends it: another instance of its function, and no gap in the signs of life", async () => {
  const clock = new TestClock();
  const starts: StandbyStart["standby"][] = [];
  /** Beats, by instance. */
  const heard: number[][] = [];
  const boxes = new InProcessBoxes({
    loadbalancer: async ([given], session) => {
      const { standby } = given as StandbyStart;
      starts.push(standby);
      const beats: number[] = [];
      heard.push(beats);
      let isFirst = standby.isAgain !== true;
      for await (const bytes of session) {
        // The package and the site.
        if (isFirst) {
          isFirst = false;
          continue;
        }
        const message = primaryMessage(bytes);
        if (!message) continue;
        beats.push(clock.now());
        await session.send(JSON.stringify({ waiting: { beat: message.beat, circuits: 3 } }));
      }
    },
  });
  boxes.grant = { limits: { runtimeMs: RUNTIME_MS } };
  const log = createLog(() => undefined);
  const places: (StandbyPlace | null)[] = [];
  const events: LoadBalancerEvent[] = [];
  const link = new StandbyLink({
    box: "spare",
    place: null,
    pack: { manifest: { name: "loadbalancer", image: "deno" }, source: "" },
    replicaBytes: 3,
    state: () =>
      ({ start: { serve: { kind: "target" }, standby: { box: "spare" } } }) as unknown as KeptState,
    input: async function* input() {
      yield utf8("{ }");
    },
    seen: new Seen(new MemoryStorage(), clock, log),
    bento: boxes.bento,
    clock,
    log,
    onEvent: (event) => events.push(event),
    onPlace: async (place) => void places.push(place),
    onTookOver: () => assert.fail(),
  });
  const pass = async (ms: number) => {
    for (let left = ms; left > 0; left -= 500) {
      await clock.advance(Math.min(500, left));
      for (let turns = 0; turns < 6; turns++) await new Promise((resolve) => setImmediate(resolve));
    }
  };
  await pass(2000);
  assert.equal(link.isWaiting, true);
  // Half an hour before the end, and not sooner.
  await clock.advance(RUNTIME_MS - 1800_000 - 5000);
  await pass(2000);
  assert.equal(starts.length, 1);
  await pass(5000);
  assert.deepEqual(
    starts.map(({ isAgain }) => isAgain),
    [undefined, true],
  );
  assert.equal(boxes.deployed, 1);
  const [first, second] = places;
  assert.ok(first && second && places.length === 2);
  assert.notEqual(second.instance, first.instance);
  assert.equal(second.invocationToken, first.invocationToken);
  assert.equal((await boxes.instances.get(first.instance)?.outcome.promise)?.kind, "killed");
  assert.equal(link.isWaiting, true);
  const [before = [], after = []] = heard;
  assert.ok((after[0] ?? 0) - (before.at(-1) ?? 0) <= 1000, `${after[0]} ${before.at(-1)}`);
  assert.deepEqual(
    events.map(({ kind }) => kind),
    ["standby-ready"],
  );

  // The next time its box cannot: it stays as it is, and is tried again.
  boxes.refusing.set("spare", new BentoError("box-full", "no memory"));
  await clock.advance(RUNTIME_MS - 1800_000);
  await pass(2000);
  assert.equal(link.isWaiting, true);
  assert.equal(starts.length, 2);
  boxes.refusing.clear();
  await pass(300_000);
  assert.equal(starts.length, 3);
  assert.equal(link.isWaiting, true);
  await link.leave();
});
