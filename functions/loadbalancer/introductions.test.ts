import assert from "node:assert/strict";
import { test } from "node:test";
import { TestClock } from "../../src/base/clock.ts";
import type { RendezvousMaterial } from "../../src/onion/service/handover.ts";
import { LoadBalancerLimits as Limits } from "../../src/wire/loadbalancer.ts";
import { type Introduction, Introductions, TRIES_MAX } from "./introductions.ts";

const MATERIAL = {} as RendezvousMaterial;

function made(clock = new TestClock()) {
  const given: Introduction[] = [];
  const room = { left: Number.POSITIVE_INFINITY };
  const introductions = new Introductions(clock, (introduction) => {
    if (room.left <= 0) return false;
    room.left--;
    introduction.tries++;
    given.push(introduction);
    return true;
  });
  return { clock, given, room, introductions };
}

test("so many wait and no more; the rest are dropped and counted", () => {
  const { introductions, room, given } = made();
  room.left = 0;
  for (let count = 0; count < Limits.waitingMax; count++) introductions.take(MATERIAL);
  assert.deepEqual([introductions.waiting, introductions.dropped], [Limits.waitingMax, 0]);
  introductions.take(MATERIAL);
  assert.deepEqual([introductions.waiting, introductions.dropped], [Limits.waitingMax, 1]);
  room.left = 2;
  introductions.retry();
  assert.deepEqual(
    given.map(({ number }) => number),
    [1, 2],
  );
  assert.equal(introductions.waiting, Limits.waitingMax - 2);
});

test("those that waited too long are dropped: their clients have given up", async () => {
  const { introductions, room, given, clock } = made();
  room.left = 0;
  introductions.take(MATERIAL);
  await clock.advance(1);
  introductions.take(MATERIAL);
  room.left = 9;
  await clock.advance(Limits.waitingMs);
  introductions.retry();
  assert.deepEqual(
    given.map(({ number }) => number),
    [2],
  );
  assert.equal(introductions.dropped, 1);
});

test("one that nobody could meet is tried so often", () => {
  const { introductions, given } = made();
  introductions.take(MATERIAL);
  for (let tries = 1; tries < TRIES_MAX; tries++) introductions.again(given.at(-1) as Introduction);
  assert.deepEqual([given.length, introductions.dropped], [TRIES_MAX, 0]);
  introductions.again(given.at(-1) as Introduction);
  assert.deepEqual([given.length, introductions.dropped], [TRIES_MAX, 1]);
});

test("each time by a number of its own: a replica takes none twice, and may be the only one", () => {
  const { clock, introductions, given } = made();
  const numbers: number[] = [];
  introductions.take(MATERIAL);
  numbers.push(given[0]?.number ?? 0);
  introductions.take(MATERIAL);
  numbers.push(given[1]?.number ?? 0);
  introductions.again(given[0] as Introduction);
  numbers.push(given[2]?.number ?? 0);
  assert.equal(given[2]?.bornMs, clock.now());
  assert.equal(new Set(numbers).size, 3);
});

test("the rate is that of the last ten seconds", async () => {
  const { introductions, clock } = made();
  for (let count = 0; count < 50; count++) introductions.take(MATERIAL);
  assert.equal(introductions.perSecond, 5);
  await clock.advance(9999);
  assert.equal(introductions.perSecond, 5);
  await clock.advance(1);
  assert.equal(introductions.perSecond, 0);
  assert.equal(introductions.total, 50);
});
