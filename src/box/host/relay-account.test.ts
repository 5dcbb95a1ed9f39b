import assert from "node:assert/strict";
import test from "node:test";
import { TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { EARLY_PER_CIRCUIT, LINK_BYTES, LINKS_PER_MINUTE, RelayAccount } from "./relay-account.ts";

const GRANT = { links: 2, circuitsPerMinute: 3, bytes: 100 * LINK_BYTES };
const limit = (error: unknown) => error instanceof BentoError && error.code === "relays-limit";
const times = (count: number, act: () => unknown) => {
  for (let time = 0; time < count; time++) act();
};

test("RelayAccount: links at once, given back once", () => {
  const account = new RelayAccount(GRANT, new TestClock());
  const giveBack = account.takeLink();
  account.takeLink();
  assert.throws(() => account.takeLink(), limit);
  giveBack();
  giveBack();
  assert.equal(account.links, 1);
  account.takeLink();
  assert.throws(() => account.takeLink(), limit);
});

test("RelayAccount: links opened within a minute, however soon they are closed", async () => {
  const clock = new TestClock();
  const account = new RelayAccount(GRANT, clock);
  times(LINKS_PER_MINUTE, () => account.takeLink()());
  assert.throws(() => account.takeLink(), limit);
  await clock.advance(61_000);
  account.takeLink();
});

test("RelayAccount: circuits and RELAY_EARLY cells by the minute, each forgotten when it is over", async () => {
  const clock = new TestClock();
  const account = new RelayAccount(GRANT, clock);
  times(2, () => account.takeCircuit());
  await clock.advance(30_000);
  account.takeCircuit();
  assert.throws(() => account.takeCircuit(), limit);
  await clock.advance(29_000);
  assert.throws(() => account.takeCircuit(), limit);
  await clock.advance(2_000);
  times(2, () => account.takeCircuit());
  assert.throws(() => account.takeCircuit(), limit);
  await clock.advance(3_600_000);
  times(3, () => account.takeCircuit());
  assert.throws(() => account.takeCircuit(), limit);
  times(3 * EARLY_PER_CIRCUIT, () => account.takeEarly());
  assert.throws(() => account.takeEarly(), limit);
});

test("RelayAccount: bytes to the last one, links included", () => {
  const account = new RelayAccount({ ...GRANT, bytes: LINK_BYTES + 10 }, new TestClock());
  account.takeLink()();
  account.spend(10);
  account.spend(0);
  assert.throws(() => account.spend(1), limit);
  assert.throws(() => account.takeLink(), limit);
});
