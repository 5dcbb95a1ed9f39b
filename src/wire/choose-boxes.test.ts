import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { TestClock } from "../base/clock.ts";
import type { Info } from "./api.ts";
import { type BoxConstraints, type Candidate, chooseBoxes } from "./choose-boxes.ts";
import { parseManifest } from "./manifest.ts";
import type { Policy } from "./policy.ts";
import { surveyBoxes } from "./survey-boxes.ts";

const fingerprint = (letter: string) => letter.repeat(40);
const [A, B, C, D] = ["A", "B", "C", "D"].map(fingerprint) as [string, string, string, string];

const POLICY: Policy = {
  version: 1,
  store: true,
  images: ["deno"],
  isolation: "process",
  syscalls: [],
  net: null,
  storage: null,
  bento: null,
  tor: null,
  relays: null,
  box: [],
  packageBytes: 2 ** 20,
  function: {
    memoryBytes: 2 ** 28,
    cpuPercent: 100,
    pids: 64,
    tmpBytes: 2 ** 24,
    instances: 8,
    lifetimeMs: 1e9,
    runtimeMs: 1e6,
    backlogBytes: 2 ** 24,
  },
  total: { functions: 10, instances: 10, memoryBytes: 2 ** 30, cpuPercent: 100, storageBytes: 2 ** 30 },
};

function candidate(box: string, roundTripMs: number, info: Partial<Info> = {}, policy: Partial<Policy> = {}) {
  return {
    box,
    roundTripMs,
    policy: { ...POLICY, ...policy },
    info: {
      software: "bento",
      protocol: 1 as const,
      name: box,
      relay: null,
      contact: null,
      onion: null,
      region: null,
      family: [],
      accepting: true,
      functions: [],
      ...info,
    },
  };
}

const MANIFEST = parseManifest({ name: "f", image: "deno" });

function choose(candidates: readonly Candidate[], constraints: BoxConstraints = {}, random = () => 0.5) {
  const choice = chooseBoxes(candidates, MANIFEST, constraints, random);
  return {
    chosen: choice.chosen.map(({ box }) => box),
    left: Object.fromEntries(choice.left.map(({ box, reason }) => [box, reason])),
  };
}

test("chooseBoxes: the fastest that grants what is asked for, and why not the others", () => {
  const choice = choose([
    candidate("slow", 900),
    candidate("fast", 100),
    candidate("python", 10, {}, { images: ["python"] }),
    candidate("full", 10, { accepting: false }),
    { box: "dead", failure: "no connection" },
  ]);
  assert.deepEqual(choice.chosen, ["fast"]);
  assert.deepEqual(choice.left, {
    slow: "slower than those chosen",
    python: "image: wanted deno, granted python",
    full: "it starts no functions now",
    dead: "no connection",
  });
});

test("chooseBoxes: chance decides between boxes of about the same speed, and only between those", () => {
  const boxes = [candidate("a", 110), candidate("b", 90), candidate("c", 500)];
  const first = (numbers: number[]) => choose(boxes, {}, () => numbers.shift() ?? 0).chosen[0];
  assert.equal(first([0.1, 0.9, 0]), "a");
  assert.equal(first([0.9, 0.1, 0]), "b");
});

test("chooseBoxes: no two beside one relay, and none that does not say beside which", () => {
  const boxes = [
    candidate("a", 100, { relay: A }),
    candidate("a2", 300, { relay: A }),
    candidate("b", 500, { relay: B }),
    candidate("secret", 10),
  ];
  const choice = choose(boxes, { count: 3, distinct: ["relay"] });
  assert.deepEqual(choice.chosen, ["a", "b"]);
  assert.equal(choice.left["a2"], "same relay as a");
  assert.equal(choice.left["secret"], "it does not say beside which relay it is");
  assert.deepEqual(choose(boxes, { count: 3 }).chosen, ["secret", "a", "a2"]);
});

test("chooseBoxes: families count when both sides name each other, along chains; a lie excludes nobody", () => {
  const mutual = [
    candidate("a", 100, { relay: A, family: [B] }),
    candidate("b", 300, { relay: B, family: [A, C] }),
    candidate("c", 500, { relay: C, family: [B] }),
    candidate("d", 700, { relay: D }),
  ];
  assert.deepEqual(choose(mutual, { count: 4, distinct: ["family"] }).chosen, ["a", "d"]);
  const liar = [
    candidate("liar", 10, { relay: A, family: [B, C, D] }),
    candidate("b", 300, { relay: B }),
    candidate("c", 500, { relay: C, family: [D] }),
    candidate("d", 700, { relay: D }),
  ];
  assert.deepEqual(choose(liar, { count: 4, distinct: ["family"] }).chosen, ["liar", "b", "c", "d"]);
});

test("chooseBoxes: regions as claimed, unknown ones never, unwanted boxes by address or relay", () => {
  const boxes = [
    candidate("de", 100, { region: "DE" }),
    candidate("se", 300, { region: "SE", relay: B }),
    candidate("none", 10),
  ];
  assert.deepEqual(choose(boxes, { count: 3, regions: ["se", "de"] }).chosen, ["de", "se"]);
  assert.deepEqual(choose(boxes, { count: 3, avoidRegions: ["de"] }).chosen, ["se"]);
  assert.deepEqual(choose(boxes, { count: 3, not: ["DE", B.toLowerCase()] }).chosen, ["none"]);
});

test("chooseBoxes: whatever boxes claim, each candidate is chosen or left once, and constraints hold", () => {
  const relay = fc.constantFrom(A, B, C, D, null);
  const box = fc.record({
    relay,
    family: fc.subarray([A, B, C, D]),
    region: fc.constantFrom("DE", "SE", null),
    roundTripMs: fc.nat(2000),
  });
  fc.assert(
    fc.property(fc.array(box, { maxLength: 8 }), fc.integer({ min: 1, max: 8 }), (boxes, count) => {
      const candidates = boxes.map(({ roundTripMs, ...info }, index) =>
        candidate(`box${index}`, roundTripMs, info),
      );
      const choice = choose(candidates, { count, distinct: ["family"], avoidRegions: ["DE"] });
      assert.equal(choice.chosen.length + Object.keys(choice.left).length, boxes.length);
      assert.ok(choice.chosen.length <= count);
      const infos = choice.chosen.map((name) => candidates.find((one) => one.box === name)?.info);
      for (const [index, one] of infos.entries()) {
        assert.notEqual(one?.region, "DE");
        for (const other of infos.slice(index + 1)) {
          assert.notEqual(one?.relay, other?.relay);
          assert.ok(!(one?.family.includes(other?.relay ?? "") && other?.family.includes(one.relay ?? "")));
        }
      }
    }),
  );
});

test("surveyBoxes: waits for the slow ones a little when there are enough, and says of each why it is missing", async () => {
  const clock = new TestClock();
  const { info, policy } = candidate("x", 0);
  const never = (signal: AbortSignal) =>
    new Promise<never>((_resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
    });
  const asked: string[] = [];
  const second = Promise.withResolvers<void>();
  const survey = surveyBoxes(
    ["quick", "stuck", "broken", "quick"],
    (box) => {
      asked.push(box);
      return {
        info: async (signal) => {
          if (box === "stuck") return never(signal);
          if (box === "broken") throw new Error("no connection");
          return info;
        },
        policy: async () => {
          const answer = clock.sleep(70);
          second.resolve();
          await answer;
          return policy;
        },
      };
    },
    { clock, signal: new AbortController().signal, enough: (found) => found.some((one) => "info" in one) },
  );
  await second.promise;
  await clock.advance(70);
  await clock.advance(1000);
  const found = new Map((await survey).map((one) => [one.box, one]));
  assert.deepEqual(asked, ["quick", "stuck", "broken"]);
  const quick = found.get("quick");
  assert.equal(quick && "info" in quick ? quick.roundTripMs : undefined, 70);
  assert.deepEqual(found.get("broken"), { box: "broken", failure: "no connection" });
  assert.deepEqual(found.get("stuck"), { box: "stuck", failure: "others were faster" });
});
