import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { ProtocolError } from "../base/errors.ts";
import {
  CELL_SIZES,
  CellReader,
  CellWriter,
  CoverCredit,
  type CoverFrame,
  coverSettings,
  RATE_MAX,
  RATE_MIN,
  WINDOW_BYTES,
} from "./cover.ts";

const frame = fc.oneof(
  fc
    .uint8Array({ minLength: 1, maxLength: 3000 })
    .map((bytes) => ({ kind: "session" as const, frame: bytes })),
  fc.nat({ max: 2 ** 32 - 1 }).map((bytes) => ({ kind: "credit" as const, bytes })),
  fc.constant({ kind: "end" as const }),
  fc.constant({ kind: "begin" as const, begin: { token: "t", start: { invocation: { args: [1, "a"] } } } }),
);

test("CellWriter and CellReader: any frames pass, in cells that are all of one size", () => {
  fc.assert(
    fc.property(fc.array(frame), fc.constantFrom(...CELL_SIZES), fc.nat(5), (frames, cellBytes, idle) => {
      const writer = new CellWriter(cellBytes);
      const reader = new CellReader(cellBytes);
      const received: CoverFrame[] = [];
      const move = () => {
        const cell = writer.next();
        assert.equal(cell.length, cellBytes);
        received.push(...reader.push(cell));
      };
      for (const one of frames) {
        writer.push(one);
        move();
      }
      while (writer.queued > 0) move();
      for (let at = 0; at < idle; at++) move();
      assert.deepEqual(received, frames);
    }),
  );
});

test("CellWriter: an idle cell is the cell of a busy session but for what is in it", () => {
  const writer = new CellWriter(470);
  const idle = writer.next();
  assert.deepEqual([...idle.subarray(0, 6)], [0, 0, 0, 0, 0, 0]);
  assert.ok(idle.subarray(6).every((byte) => byte === 0));
});

test("CellReader: lost, repeated, cut and malformed cells", () => {
  const cellOf = (...bytes: number[]) => {
    const cell = new Uint8Array(470);
    cell.set([0, 0, 0, 0, 0, bytes.length, ...bytes]);
    return cell;
  };
  const wrong: Record<string, Uint8Array[]> = {
    "a cell of 469 bytes": [new Uint8Array(469)],
    "cell 1 in place of 0": [Uint8Array.from({ length: 470 }, (_, at) => (at === 3 ? 1 : 0))],
    "cell 0 in place of 1": [new Uint8Array(470), new Uint8Array(470)],
    "says it holds 475": [Uint8Array.from({ length: 470 }, (_, at) => [0, 0, 0, 0, 1, 219][at] ?? 0)],
    "frame of 0 bytes": [cellOf(0, 0, 0, 0)],
    "frame of 4294967295 bytes": [cellOf(255, 255, 255, 255)],
    "unknown kind": [cellOf(0, 0, 0, 1, 9)],
    "session frame of 0 bytes": [cellOf(0, 0, 0, 1, 1)],
    "an end with a body": [cellOf(0, 0, 0, 2, 3, 0)],
    "credit of 1 bytes": [cellOf(0, 0, 0, 2, 2, 0)],
    "not JSON": [cellOf(0, 0, 0, 2, 0, 123)],
    "not one of token and package": [cellOf(0, 0, 0, 3, 0, 123, 125)],
  };
  for (const [found, cells] of Object.entries(wrong)) {
    const reader = new CellReader(470);
    assert.throws(
      () => {
        for (const cell of cells) reader.push(cell);
      },
      (error: unknown) => error instanceof ProtocolError && error.message.includes(found),
      found,
    );
  }
});

test("CellReader: garbage throws ProtocolError or waits, whatever it is", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ minLength: 470, maxLength: 470 }), { maxLength: 4 }), (cells) => {
      const reader = new CellReader(470);
      try {
        for (const cell of cells) reader.push(cell);
      } catch (error) {
        assert.ok(error instanceof ProtocolError, String(error));
      }
    }),
  );
});

test("CoverCredit: closes when the window is spent, and takes back no more than was spent", () => {
  const credit = new CoverCredit();
  credit.spend(new Uint8Array(WINDOW_BYTES - 1));
  assert.ok(credit.isOpen);
  credit.spend(new Uint8Array());
  assert.ok(!credit.isOpen);
  credit.restore(WINDOW_BYTES);
  assert.throws(() => credit.restore(1), ProtocolError);
});

test("coverSettings: rates from 4 KiB/s to 4 MiB/s, and cells of which a second has a hundred where it can", () => {
  assert.throws(() => coverSettings(RATE_MIN - 1), RangeError);
  assert.throws(() => coverSettings(RATE_MAX + 1), RangeError);
  assert.deepEqual(coverSettings(RATE_MIN), { rate: RATE_MIN, cellBytes: 470 });
  assert.deepEqual(coverSettings(64 * 1024), { rate: 64 * 1024, cellBytes: 470 });
  assert.deepEqual(coverSettings(256 * 1024), { rate: 256 * 1024, cellBytes: 1964 });
  assert.deepEqual(coverSettings(RATE_MAX), { rate: RATE_MAX, cellBytes: 7940 });
});
