import assert from "node:assert/strict";
import { test } from "node:test";
import { concat, utf8 } from "../../src/base/bytes.ts";
import {
  LoadBalancerLimits as Limits,
  RENEW_RUNTIME_MS_MIN,
  type ScaleSettings,
} from "../../src/wire/loadbalancer.ts";
import { startOf } from "../../test/support/load-balancer.ts";
import { checkedOwnerMessage, checkedStart, checkScale, Input } from "./start.ts";

const SCALE: ScaleSettings = {
  replicasMin: 1,
  replicasMax: 4,
  high: { connections: 3 },
  low: { connections: 1 },
  choice: "least-loaded",
};
const { start: START } = startOf({ site: utf8("xxxx"), replica: {}, standby: {} }, { scale: SCALE });

test("a request is taken as it is, or the first thing that is wrong is named", () => {
  assert.equal(checkedStart(START), START);
  const most = {
    ...START,
    boxes: Array.from({ length: Limits.boxesMax }, () => "a"),
    clients: Array.from({ length: Limits.clientsMax }, () => Buffer.alloc(32).toString("base64")),
    introductionPoints: Limits.introductionPointsMax,
    standby: { box: "x", silentMs: Limits.silentMsMin },
    scale: { ...SCALE, replicasMax: Limits.replicasMax },
  };
  assert.equal(checkedStart(most), most);
  const wrong: Readonly<Record<string, readonly object[]>> = {
    key: [{ key: "" }, { key: Buffer.alloc(63).toString("base64") }, { key: "<>" }],
    virtualPort: [{ virtualPort: 0 }, { virtualPort: 65_536 }],
    serve: [{ serve: { kind: "files", siteBytes: Limits.siteBytesMax + 1 } }, { serve: { kind: "x" } }],
    boxes: [{ boxes: [] }, { boxes: [...most.boxes, "b"] }, { boxes: [7] }],
    clients: [{ clients: [...most.clients, most.clients[0]] }, { clients: ["AA=="] }],
    introductionPoints: [{ introductionPoints: Limits.introductionPointsMax + 1 }, { introductionPoints: 0 }],
    standby: [{ standby: { box: "x", silentMs: Limits.silentMsMin - 1 } }, { standby: {} }],
    "packages.replicaBytes": [{ packages: {} }, { packages: { replicaBytes: 2 ** 23 } }],
  };
  for (const [name, changes] of Object.entries(wrong))
    for (const change of changes)
      assert.throws(() => checkedStart({ ...START, ...change }), new RegExp(`malformed: ${name}`, "u"));
  assert.throws(() => checkedStart(null), /malformed/u);
});

test("boxes that may have the key as well: as many as there may be, and one more", () => {
  const packages = { ...START.packages, standbyBytes: 1 };
  const withOthers = (others: unknown, own: unknown = "own") =>
    checkedStart({ ...START, packages, standby: { box: "b", others, own } });
  const boxes = Array.from({ length: Limits.standbyOthersMax }, (_, at) => `box${at}`);
  assert.deepEqual(withOthers(boxes).standby?.others, boxes);
  assert.throws(() => withOthers([...boxes, "more"]), /malformed: standby.others/u);
  assert.throws(() => withOthers([1]), /malformed: standby.others/u);
  assert.throws(() => withOthers([], ""), /malformed: standby.own/u);
});

test("a scale holds together", () => {
  checkScale(SCALE);
  for (const change of [
    { replicasMin: 5 },
    { replicasMax: Limits.replicasMax + 1 },
    { high: { connections: 0 } },
    { high: { load: 1 } },
    { low: { connections: 4 } },
    { choice: "first" },
    { low: undefined },
  ])
    assert.throws(() => checkScale({ ...SCALE, ...change }), /malformed: scale/u);
});

test("what an owner says", () => {
  const read = (message: unknown) => checkedOwnerMessage(utf8(JSON.stringify(message)), SCALE);
  assert.deepEqual(read({ watch: { everyMs: 0 } }), { watch: { everyMs: 0 } });
  assert.deepEqual(read({ watch: { everyMs: 100, id: 7 } }), { watch: { everyMs: 100, id: 7 } });
  assert.deepEqual(read({ scale: { replicasMin: 2 } }), { scale: { ...SCALE, replicasMin: 2 } });
  assert.deepEqual(read({ stop: true }), { stop: true });
  const renew = { token: "t", runtimeMs: RENEW_RUNTIME_MS_MIN };
  assert.deepEqual(read({ renew: { ...renew, more: 1 } }), { renew });
  const ending = { ...renew, shutdownToken: "s" };
  assert.deepEqual(read({ renew: ending }), { renew: ending });
  for (const wrong of [
    null,
    {},
    { stop: 1 },
    { watch: { everyMs: Limits.reportMsMin - 1 } },
    { scale: { replicasMin: 9 } },
    { renew: { ...renew, runtimeMs: RENEW_RUNTIME_MS_MIN - 1 } },
    { renew: { ...renew, token: "" } },
    { renew: { ...renew, shutdownToken: 1 } },
    { renew: null },
  ])
    assert.throws(() => read(wrong), /malformed/u);
});

test("input is cut anywhere; what is too much or too little is noticed", async () => {
  const all = concat([utf8("first"), utf8("[1,2]"), utf8("{}")]);
  for (const size of [1, 2, 3, 100]) {
    const input = new Input(
      (async function* cut() {
        for (let at = 0; at < all.length; at += size) yield all.subarray(at, at + size);
      })(),
    );
    const parts: Uint8Array[] = [];
    for await (const piece of input.bytes(5)) parts.push(piece.slice());
    assert.equal(Buffer.from(concat(parts)).toString(), "first");
    assert.deepEqual(await input.json(5), [1, 2]);
    if (size === 100) await assert.rejects(input.message(), /more input/u);
    else if (size === 2) assert.deepEqual(await input.message(), utf8("{}"));
  }
  const short = new Input((async function* none() {})());
  await assert.rejects(short.json(1), /ended early/u);
});
