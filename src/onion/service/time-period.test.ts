import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { random } from "../crypto/primitives.ts";
import type { Consensus } from "../directory/consensus.ts";
import { Network } from "../directory/network.ts";
import {
  clientPlace,
  currentPeriod,
  directoriesOf,
  isAfterPeriodBeforeRandom,
  periodStartMs,
  servicePlaces,
} from "./time-period.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** Random values change at midnight: each is named by the day that it is made for. */
function consensusAt(validAfterMs: number, intervalMs = HOUR_MS, relayCount = 0): Consensus {
  const run = Math.floor(validAfterMs / (24 * intervalMs));
  const value = (number: number) => new Uint8Array(32).fill(number % 251);
  return {
    validAfterMs,
    freshUntilMs: validAfterMs + intervalMs,
    validUntilMs: validAfterMs + 3 * intervalMs,
    parameters: new Map(),
    sharedRandom: { previous: value(run - 1), current: value(run) },
    relays: Array.from({ length: relayCount }, (_, index) => ({
      nickname: `n${String(index)}`,
      rsa: new Uint8Array(20).fill(index),
      host: `10.${String(index)}.0.1`,
      port: 9001,
      flags: new Set(["Running", "Valid", ...(index % 5 === 4 ? [] : ["HSDir"])]),
      microdescriptor: String(index),
      protocols: new Map([["HSDir", [[1, 2]] as const]]),
      bandwidth: 1,
    })),
    weights: new Map(),
    signatures: [],
    digest: random(32),
  };
}

function networkAt(validAfterMs: number, relayCount: number): Network {
  return new Network(
    consensusAt(validAfterMs, HOUR_MS, relayCount),
    Array.from({ length: relayCount }, (_, index) => ({
      digest: String(index),
      ntorKey: new Uint8Array(32),
      ed25519: new Uint8Array(32).fill(index),
      family: new Set<string>(),
      familyIds: new Set<string>(),
      exitPorts: undefined,
    })),
  );
}

test("the specification's example: 2016-04-13 11:00 UTC is in period 16903, which began on the 12th at noon", () => {
  const consensus = consensusAt(Date.UTC(2016, 3, 13, 11));
  assert.deepEqual(currentPeriod(consensus), { number: 16_903, minutes: 1440 });
  assert.equal(periodStartMs(consensus, currentPeriod(consensus)), Date.UTC(2016, 3, 12, 12));
  assert.equal(currentPeriod(consensusAt(Date.UTC(2016, 3, 13, 12))).number, 16_904);
});

test("a network for tests has periods of 24 voting intervals", () => {
  const period = currentPeriod(consensusAt(DAY_MS, 20_000), { isTestingNetwork: true });
  assert.equal(period.minutes, 8);
});

test("the specification's examples of which period goes with which random value", () => {
  const noon = Date.UTC(2020, 0, 10, 12);
  assert.equal(isAfterPeriodBeforeRandom(consensusAt(noon + HOUR_MS)), true);
  assert.equal(isAfterPeriodBeforeRandom(consensusAt(noon + 13 * HOUR_MS)), false);
  // C1 at 13:00 and C2 at 01:00 of the next day use the same period and the same random value.
  const c1 = clientPlace(consensusAt(noon + HOUR_MS));
  const c2 = clientPlace(consensusAt(noon + 13 * HOUR_MS));
  assert.deepEqual(c1, c2);
});

test("a client finds what a service published, though their consensuses are up to three hours apart", () => {
  fc.assert(
    fc.property(fc.nat(24 * 40), fc.integer({ min: -3, max: 3 }), (hour, apart) => {
      const at = Date.UTC(2020, 0, 1) + hour * HOUR_MS;
      const published = servicePlaces(consensusAt(at)).map(({ period, random: value }) => [
        period.number,
        value?.[0],
      ]);
      const { period, random: value } = clientPlace(consensusAt(at + apart * HOUR_MS));
      assert.ok(
        published.some(([number, first]) => number === period.number && first === value?.[0]),
        `${String(hour)} ${String(apart)}`,
      );
    }),
  );
});

test("directories: relays with the flag, none twice, the client's among the service's", () => {
  for (let run = 0; run < 20; run++) {
    const network = networkAt(Date.UTC(2020, 0, 10, 13), 60);
    const place = clientPlace(network.consensus);
    const blinded = random(32);
    const stored = directoriesOf(network, blinded, place, "store");
    const fetched = directoriesOf(network, blinded, place, "fetch");
    assert.equal(stored.length, 8);
    assert.equal(new Set(stored).size, 8);
    assert.equal(fetched.length, 6);
    assert.ok(stored.every(({ flags }) => flags.has("HSDir")));
    assert.ok(fetched.every((relay) => stored.includes(relay)));
  }
});

test("a ring smaller than what is wanted is used whole, an empty one not at all", () => {
  const place = clientPlace(consensusAt(Date.UTC(2020, 0, 10, 13)));
  const small = networkAt(Date.UTC(2020, 0, 10, 13), 5);
  assert.equal(directoriesOf(small, random(32), place, "store").length, 4);
  assert.deepEqual(directoriesOf(networkAt(Date.UTC(2020, 0, 10, 13), 0), random(32), place, "store"), []);
  const withoutRandom = { ...place, random: undefined };
  assert.equal(directoriesOf(small, random(32), withoutRandom, "store").length, 4);
});
