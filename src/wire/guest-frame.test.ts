// Frames of the guest channel: vectors both ways, any split of the input, limits at n and n+1, garbage.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as fc from "fast-check";
import { concat, utf8 } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import {
  encodeGuestFrame,
  GUEST_FRAME,
  GUEST_HEADER_BYTES,
  GUEST_PAYLOAD_BYTES_MAX,
  type GuestFrame,
  GuestFrameSplitter,
  guestFrameCost,
} from "./guest-frame.ts";

const VECTORS = [
  { hex: "00000005210000000068656c6c6f", type: GUEST_FRAME.output, id: 0, text: "hello" },
  { hex: "000000002000000000", type: GUEST_FRAME.ready, id: 0, text: "" },
  { hex: "0000000107fffffffe78", type: GUEST_FRAME.data, id: 0xfffffffe, text: "x" },
] as const;

const frames = fc.array(
  fc.record({
    type: fc.nat(255),
    id: fc.nat(0xffffffff),
    payload: fc.uint8Array({ maxLength: 300 }),
  }),
  { maxLength: 12 },
);

/** Cuts `bytes` after each of `cuts` bytes, over and over. */
function pieces(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let at = 0, cut = 0; at < bytes.length; cut++) {
    const length = cuts[cut % cuts.length] ?? 1;
    parts.push(bytes.subarray(at, at + length));
    at += length;
  }
  return parts;
}

const plain = ({ type, id, payload }: GuestFrame) => ({ type, id, payload: [...payload] });

describe("guest frames", () => {
  test("encodeGuestFrame, GuestFrameSplitter: vectors both ways", () => {
    for (const { hex, type, id, text } of VECTORS) {
      assert.equal(Buffer.from(encodeGuestFrame(type, id, utf8(text))).toString("hex"), hex);
      const read = new GuestFrameSplitter().push(Buffer.from(hex, "hex"));
      assert.deepEqual(read.map(plain), [{ type, id, payload: [...utf8(text)] }]);
    }
  });

  test("GuestFrameSplitter: any frames survive any split", () => {
    fc.assert(
      fc.property(frames, fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }), (sent, cuts) => {
        const bytes = concat(sent.map(({ type, id, payload }) => encodeGuestFrame(type, id, payload)));
        const splitter = new GuestFrameSplitter();
        const read = pieces(bytes, cuts).flatMap((part) => splitter.push(part));
        assert.deepEqual(read.map(plain), sent.map(plain));
      }),
    );
  });

  test("GuestFrameSplitter: takes the largest payload and refuses one byte more at its header", () => {
    const largest = encodeGuestFrame(GUEST_FRAME.output, 0, new Uint8Array(GUEST_PAYLOAD_BYTES_MAX));
    assert.equal(new GuestFrameSplitter().push(largest).length, 1);
    const header = encodeGuestFrame(
      GUEST_FRAME.output,
      0,
      new Uint8Array(GUEST_PAYLOAD_BYTES_MAX + 1),
    ).subarray(0, GUEST_HEADER_BYTES);
    assert.throws(() => new GuestFrameSplitter().push(header), ProtocolError);
    assert.throws(() => new GuestFrameSplitter().push(new Uint8Array(9).fill(0xff)), ProtocolError);
  });

  test("GuestFrameSplitter: garbage gives frames or ProtocolError", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 100 })), (chunks) => {
        const splitter = new GuestFrameSplitter();
        try {
          for (const chunk of chunks) splitter.push(chunk);
        } catch (error) {
          assert.ok(error instanceof ProtocolError);
        }
      }),
    );
  });

  test("guestFrameCost: an empty fragment costs something", () => {
    assert.equal(guestFrameCost(0), GUEST_HEADER_BYTES);
    assert.equal(guestFrameCost(10), encodeGuestFrame(1, 0, new Uint8Array(10)).length);
  });
});
