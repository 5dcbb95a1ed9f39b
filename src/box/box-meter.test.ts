import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { TestClock } from "../base/clock.ts";
import type { Grant } from "../wire/grant.ts";
import type { Policy } from "../wire/policy.ts";
import { BoxMeter, FACTS_MS, NETWORK_STEP_BYTES } from "./box-meter.ts";

const POLICY = {
  total: { functions: 1, instances: 7, memoryBytes: 100, cpuPercent: 100, storageBytes: 50 },
} as Policy;

function meterOf(network: { connections: number; receivedBytes: number; sentBytes: number }) {
  const clock = new TestClock();
  let asked = 0;
  const meter = new BoxMeter({
    dataDir: tmpdir(),
    clock,
    state: () => {
      asked++;
      return { instances: asked, promisedMemoryBytes: 10, storageBytes: 5, network, policy: POLICY };
    },
  });
  return { meter, clock, asked: () => asked };
}

const QUIET = { connections: 0, receivedBytes: 0, sentBytes: 0 };
const grantOf = (...box: Grant["box"]) => ({ box, limits: { memoryBytes: 3 } }) as Grant;

test("BoxMeter: tells the granted facts and no others", async () => {
  const { meter } = meterOf(QUIET);
  assert.equal(meter.forGrant(grantOf()), undefined);
  const facts = await meter.forGrant(grantOf("instances", "limits"))?.();
  assert.deepEqual(facts, { instances: { running: 1, limit: 7 }, limits: { memoryBytes: 3 } });
});

test("BoxMeter: measures once a second for everybody", async () => {
  const { meter, clock, asked } = meterOf(QUIET);
  const one = meter.forGrant(grantOf("instances"));
  const other = meter.forGrant(grantOf("instances", "load"));
  await Promise.all([one?.(), other?.(), one?.()]);
  await clock.advance(FACTS_MS - 1);
  await other?.();
  assert.equal(asked(), 1);
  await clock.advance(1);
  assert.deepEqual(await one?.(), { instances: { running: 2, limit: 7 } });
});

test("BoxMeter: a few kilobytes more or less on the network do not show", async () => {
  const { meter } = meterOf({
    connections: 2,
    receivedBytes: NETWORK_STEP_BYTES * 3 - 1,
    sentBytes: NETWORK_STEP_BYTES,
  });
  const { network } = (await meter.forGrant(grantOf("network"))?.()) ?? {};
  assert.deepEqual(network, {
    connections: 2,
    receivedBytes: NETWORK_STEP_BYTES * 2,
    sentBytes: NETWORK_STEP_BYTES,
  });
});
