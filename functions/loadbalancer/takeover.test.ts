import assert from "node:assert/strict";
import { test } from "node:test";
import type { KeptState } from "./state.ts";
import { asTaker, standbyBoxes, TAKEOVER_EPOCHS } from "./takeover.ts";

const place = (box: string) => ({
  box,
  instance: `instance-${box}`,
  invocationToken: `token-${box}`,
  shutdownToken: `shutdown-${box}`,
  runtimeMs: 3600_000,
});
const home = (box: string) => ({ ...place(box), isFilled: false });
const replica = (id: number, box: string) => ({
  id,
  box,
  instance: `replica-${id}`,
  startedAtMs: 0,
  isRetiring: false,
});

/** The load balancer is at A, its standby at B; C may have one, too. */
const STATE = {
  version: 1,
  start: { boxes: ["self", "B", "D"], standby: { box: "B", others: ["C"], own: "A" } },
  epoch: 7,
  homes: [home("self"), home("B"), home("D")],
  replicas: [replica(1, "self"), replica(2, "B"), replica(3, "D")],
  renew: { token: "token-A", shutdownToken: "shutdown-A", runtimeMs: 60_000 },
  standby: place("B"),
  standbyHomes: [home("B"), home("C")],
  standbysPlaced: 1,
} as unknown as KeptState;

const boxesOf = (list: readonly { readonly box: string }[] = []) => list.map(({ box }) => box);

test("standbyBoxes: the owner's list, but never the box that has the service", () => {
  assert.deepEqual(standbyBoxes(STATE), ["B", "C"]);
  assert.deepEqual(standbyBoxes(asTaker(STATE)), ["C", "A"]);
  const start = { ...STATE.start, standby: { box: "B" } };
  assert.deepEqual(standbyBoxes({ start }), ["B"]);
  assert.deepEqual(standbyBoxes({ start, at: "B" }), []);
});

test("asTaker: boxes are called as the taker sees them, itself self, and the one before by its address", () => {
  const taken = asTaker(STATE);
  assert.equal(taken.at, "B");
  assert.deepEqual(taken.start.boxes, ["A", "self", "D"]);
  assert.deepEqual(boxesOf(taken.homes), ["A", "self", "D"]);
  assert.deepEqual(boxesOf(taken.replicas), ["A", "self", "D"]);
  const { own: _, ...standby } = STATE.start.standby ?? assert.fail();
  const unnamed = asTaker({ ...STATE, start: { ...STATE.start, standby } });
  assert.deepEqual(unnamed.start.boxes, ["self", "B", "D"], "nobody said what self is");
});

test("asTaker: it starts itself by its own token, and a standby where the function is: also where the one before was", () => {
  const taken = asTaker(STATE);
  assert.deepEqual(taken.renew, { token: "token-B", shutdownToken: "shutdown-B", runtimeMs: 3600_000 });
  assert.equal(taken.standby, null);
  assert.deepEqual(boxesOf(taken.standbyHomes), ["C", "A"]);
  const former = taken.standbyHomes?.at(-1);
  assert.deepEqual(
    [former?.invocationToken, former?.shutdownToken, former?.isFilled],
    ["token-A", "shutdown-A", true],
  );
  // Without the owner's word of how to end it, nothing is started there.
  const { shutdownToken: __, ...renew } = STATE.renew ?? assert.fail();
  assert.deepEqual(boxesOf(asTaker({ ...STATE, renew }).standbyHomes), ["C"]);
});

test("asTaker: again and again, each time from where the service is", () => {
  const second = asTaker({ ...asTaker(STATE), standby: place("C"), standbysPlaced: 1 });
  assert.equal(second.at, "C");
  assert.deepEqual(boxesOf(second.standbyHomes), ["A", "B"]);
  assert.deepEqual(standbyBoxes(second), ["B", "A"]);
  assert.deepEqual(second.start.boxes, ["A", "B", "D"]);
  const third = asTaker({ ...second, standby: place("A"), standbysPlaced: 1 });
  assert.equal(third.at, "A");
  assert.deepEqual(third.start.boxes, ["self", "B", "D"]);
  assert.deepEqual(boxesOf(third.standbyHomes), ["B", "C"]);
});

test("asTaker: of two standbys that one primary placed, one after the other, each has an epoch of its own", () => {
  const first = asTaker(STATE);
  const second = asTaker({ ...STATE, standbysPlaced: 2 });
  assert.equal(first.epoch, 7 + TAKEOVER_EPOCHS);
  assert.ok(second.epoch > first.epoch);
  assert.equal(first.standbysPlaced, 0);
  // Replicas are told it in 32 bits.
  let state = STATE;
  for (let takeovers = 0; takeovers < 1000; takeovers++)
    state = { ...asTaker(state), standby: place("B"), standbysPlaced: 1e6 };
  assert.ok(state.epoch < 2 ** 32);
});
