import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { byteCount, duration, formatDuration, parseBytes, parseDuration, percent } from "./quantity.ts";

test("parseBytes: reads each unit", () => {
  assert.deepEqual(["0B", "1KiB", "64MiB", "2GiB", "1 TiB"].map(parseBytes), [
    0,
    1024,
    2 ** 26,
    2 ** 31,
    2 ** 40,
  ]);
});

test("parseBytes: refuses everything else", () => {
  const bad = [
    "",
    "1",
    "MiB",
    "1MB",
    "1mib",
    "-1B",
    "1.5MiB",
    "1e3B",
    " 1B",
    "1B ",
    "1B\n",
    "9999999999999B",
    "999999999999TiB",
    "0x1B",
    "\u0661B",
  ];
  for (const text of bad) assert.equal(parseBytes(text), undefined, JSON.stringify(text));
});

test("parseDuration: reads each unit", () => {
  assert.deepEqual(
    ["1ms", "2s", "10m", "3h", "30d"].map(parseDuration),
    [1, 2000, 600_000, 10_800_000, 2_592_000_000],
  );
  for (const text of ["", "1", "1y", "1 w", "-1s", "1m30s"])
    assert.equal(parseDuration(text), undefined, text);
});

test("formatDuration: is read back as it was", () => {
  fc.assert(fc.property(fc.nat(), (durationMs) => parseDuration(formatDuration(durationMs)) === durationMs));
  assert.equal(formatDuration(600_000), "10m");
  assert.equal(formatDuration(90_000), "90s");
});

test("quantity schemas: turn text into numbers and say what they wanted", () => {
  assert.equal(byteCount.parse("1KiB"), 1024);
  assert.equal(duration.parse("1s"), 1000);
  assert.equal(percent.parse("50%"), 50);
  for (const value of [1024, "1K", null, "999999999999TiB"]) {
    const result = byteCount.safeParse(value);
    assert.ok(!result.success);
    assert.match(
      result.error.issues[0]?.message ?? "",
      typeof value === "string" ? /such as "64MiB"/ : /string/,
    );
  }
});
