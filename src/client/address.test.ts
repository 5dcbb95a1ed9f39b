import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { formatAddress, parseAddress, tryParseAddress } from "./address.ts";

const ONION = `${"a".repeat(56)}.onion`;

test("tryParseAddress: the forms it takes", () => {
  assert.deepEqual(tryParseAddress("127.0.0.1:8000"), { host: "127.0.0.1", port: 8000 });
  assert.deepEqual(tryParseAddress("[::1]:1"), { host: "::1", port: 1 });
  assert.deepEqual(tryParseAddress("Box.Example:65535"), { host: "box.example", port: 65_535 });
  assert.deepEqual(tryParseAddress(ONION), { host: ONION, port: 80 });
  assert.deepEqual(tryParseAddress(`${ONION}:81`), { host: ONION, port: 81 });
});

test("tryParseAddress: what it refuses", () => {
  for (const text of [
    "",
    "box1",
    "host:",
    "host:0",
    "host:65536",
    ":80",
    "a b:80",
    "http://x:80",
    "x.onion",
    "[::1]",
  ]) {
    assert.equal(tryParseAddress(text), undefined, text);
  }
  assert.throws(() => parseAddress("nowhere"), /wanted host:port/);
});

test("formatAddress: parses back to the same address", () => {
  fc.assert(
    fc.property(
      fc.oneof(fc.domain(), fc.ipV4(), fc.ipV6()),
      fc.integer({ min: 1, max: 65_535 }),
      (host, port) => {
        const address = { host: host.toLowerCase(), port };
        assert.deepEqual(tryParseAddress(formatAddress(address)), address);
      },
    ),
  );
});
