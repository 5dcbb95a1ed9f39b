import assert from "node:assert/strict";
import test from "node:test";
import { acceptsPort, parseExitSummary, parseGuards, parseRelays, pickByBandwidth } from "./relay-list.ts";

test("parseRelays: entries with and without digest, entries that cannot be read left out", () => {
  const text = [
    "r a0 cMPeFA9BmyBdF7lWj1a+tWXTH+c UjzajAd/7lwg1seU+4El8GzJTzw 2038-01-01 00:00:00 127.1.1.1 21001 0",
    "s Exit Fast Running Valid",
    "w Bandwidth=10000",
    "r broken",
    "s Fast",
    "r b1 HQAkonqzw74ydXRLJXuW2Snpm/k 2038-01-01 00:00:00 127.1.1.2 9001 0",
  ].join("\n");
  const [first, second, ...more] = parseRelays(text);
  assert.deepEqual(first, {
    fingerprint: "70C3DE140F419B205D17B9568F56BEB565D31FE7",
    nickname: "a0",
    addresses: ["127.1.1.1"],
    orPort: 21001,
    flags: ["Exit", "Fast", "Running", "Valid"],
    bandwidth: 10000,
    digest: "UjzajAd/7lwg1seU+4El8GzJTzw",
  });
  assert.deepEqual([second?.nickname, second?.digest, second?.flags, more], ["b1", undefined, [], []]);
});

test("parseGuards: those that may be used now", () => {
  const one = "A".repeat(40);
  const two = "B".repeat(40);
  assert.deepEqual(
    parseGuards(`$${one}~a up\n$${"C".repeat(40)}~c down 2026-01-01\n$${two} never-connected`),
    [one, two],
  );
});

test("acceptsPort: lists and ranges, accepted or rejected", () => {
  const summary = (line: string) => parseExitSummary(`onion-key\n${line}\nid ed25519 x`);
  const accept = summary("p accept 80,443,8000-8100");
  const reject = summary("p reject 25");
  assert.ok(accept && reject);
  assert.deepEqual(
    [80, 8000, 8050, 8100].map((port) => acceptsPort(accept, port)),
    [true, true, true, true],
  );
  assert.deepEqual(
    [81, 7999, 8101].map((port) => acceptsPort(accept, port)),
    [false, false, false],
  );
  assert.deepEqual(
    [25, 26].map((port) => acceptsPort(reject, port)),
    [false, true],
  );
  assert.equal(summary("p6 accept 80"), undefined);
});

test("pickByBandwidth: never one without bandwidth while others have some, and any when none has", () => {
  const relays = [{ bandwidth: 0 }, { bandwidth: 5 }, { bandwidth: 0 }];
  for (let n = 0; n < 50; n++) assert.equal(pickByBandwidth(relays), relays[1]);
  assert.ok(pickByBandwidth([{ bandwidth: 0 }]));
  assert.equal(pickByBandwidth([]), undefined);
});
