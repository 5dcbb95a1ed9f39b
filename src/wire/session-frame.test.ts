import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { concat } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import { Limits } from "./limits.ts";
import {
  type BoxFrame,
  type ClientFrame,
  decodeBoxFrame,
  decodeClientFrame,
  encodeBoxFrame,
  encodeClientFrame,
  FrameSplitter,
  outputHead,
  prefixLength,
} from "./session-frame.ts";

const offset = fc.maxSafeNat();
const bytes = fc.uint8Array({ maxLength: 300 });
const clientFrame: fc.Arbitrary<ClientFrame> = fc.oneof(
  fc.record({ kind: fc.constant("input" as const), bytes, last: fc.boolean() }),
  fc.constant({ kind: "input-end" as const }),
  fc.record({ kind: fc.constant("ack" as const), offset }),
  fc.record({
    kind: fc.constant("start" as const),
    start: fc.record({
      invocation: fc.record({ args: fc.array(fc.oneof(fc.string(), fc.boolean()), { maxLength: 5 }) }),
    }),
  }),
);
const boxFrame: fc.Arbitrary<BoxFrame> = fc.oneof(
  fc.record({ kind: fc.constant("output" as const), offset, bytes, last: fc.boolean() }),
  fc.record({ kind: fc.constant("attached" as const), attached: fc.record({ instance: fc.uuid(), offset }) }),
  fc.constant({ kind: "ended" as const, outcome: { kind: "returned" as const } }),
  fc.constant({ kind: "problem" as const, problem: { code: "taken-over", title: "t" } }),
);

test("session frames: known bytes both ways", () => {
  const hello = Uint8Array.of(0x01, 0x68, 0x65, 0x6c, 0x6c, 0x6f);
  const input: ClientFrame = { kind: "input", bytes: Buffer.from("hello"), last: true };
  assert.deepEqual(encodeClientFrame(input), hello);
  assert.deepEqual(prefixLength(hello).subarray(0, 4), Uint8Array.of(0, 0, 0, 6));
  assert.deepEqual(
    encodeClientFrame({ kind: "ack", offset: 0x0102030405 }),
    Uint8Array.of(4, 0, 0, 0, 1, 2, 3, 4, 5),
  );
  const output: BoxFrame = { kind: "output", offset: 258, bytes: Uint8Array.of(9), last: false };
  assert.deepEqual(encodeBoxFrame(output), Uint8Array.of(0x12, 0, 0, 0, 0, 0, 0, 1, 2, 9));
});

test("session frames: a start with the hash of a source is as long whatever the source", () => {
  const start = (sourceHash: string) => ({
    invocation: { args: [] },
    package: { manifest: { name: "f" }, sourceHash },
  });
  const frames = ["0", "a"].map((digit) => {
    const frame = { kind: "start", start: start(digit.repeat(64)) } as const;
    const bytes = encodeClientFrame(frame);
    assert.deepEqual(decodeClientFrame(bytes), frame);
    return bytes;
  });
  assert.equal(frames[0]?.length, frames[1]?.length);
  assert.throws(
    () => decodeClientFrame(encodeClientFrame({ kind: "start", start: start("0") })),
    ProtocolError,
  );
});

test("session frames: what is encoded decodes to the same", () => {
  const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
  fc.assert(
    fc.property(clientFrame, (frame) => {
      assert.deepEqual(plain(decodeClientFrame(encodeClientFrame(frame))), plain(frame));
    }),
  );
  fc.assert(
    fc.property(boxFrame, (frame) => {
      assert.deepEqual(plain(decodeBoxFrame(encodeBoxFrame(frame))), plain(frame));
    }),
  );
});

test("outputHead: with the bytes behind it, the frame as it is otherwise", () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.uint8Array({ maxLength: 300 }), fc.boolean(), (offset, bytes, last) => {
      const whole = prefixLength(encodeBoxFrame({ kind: "output", offset, bytes, last }));
      assert.deepEqual(concat([outputHead(offset, bytes.length, last), bytes]), whole);
    }),
  );
});

test("FrameSplitter: any cut of the stream gives the same frames", () => {
  fc.assert(
    fc.property(
      fc.array(clientFrame, { maxLength: 8 }),
      fc.array(fc.nat(50), { minLength: 1 }),
      (frames, cuts) => {
        const encoded = frames.map(encodeClientFrame);
        const stream = concat(encoded.map(prefixLength));
        const splitter = new FrameSplitter();
        const found: Uint8Array[] = [];
        for (let at = 0, turn = 0; at < stream.length; turn++) {
          const until = at + 1 + (cuts[turn % cuts.length] ?? 0);
          found.push(...splitter.push(stream.subarray(at, until)));
          at = until;
        }
        splitter.end();
        assert.deepEqual(
          found.map((frame) => Buffer.from(frame)),
          encoded.map((frame) => Buffer.from(frame)),
        );
      },
    ),
  );
});

test("FrameSplitter: refuses a length of none and above the limit as soon as it is read, and an unfinished end", () => {
  const splitter = () => new FrameSplitter(100);
  assert.throws(() => splitter().push(Uint8Array.of(0, 0, 0, 0)), ProtocolError);
  assert.deepEqual(splitter().push(Uint8Array.of(0, 0, 0, 100)), []);
  assert.throws(() => splitter().push(Uint8Array.of(0, 0, 0, 101)), ProtocolError);
  const unfinished = splitter();
  unfinished.push(Uint8Array.of(0, 0, 0, 5, 1));
  assert.throws(() => unfinished.end(), ProtocolError);
});

test("decodeClientFrame: a fragment of n bytes passes, n + 1 does not", () => {
  const input = (length: number) => concat([Uint8Array.of(1), new Uint8Array(length)]);
  assert.equal(decodeClientFrame(input(Limits.fragmentBytesMax)).kind, "input");
  assert.throws(() => decodeClientFrame(input(Limits.fragmentBytesMax + 1)), ProtocolError);
});

test("session frames: offsets beyond what a number holds exactly are refused", () => {
  const ack = Uint8Array.of(4, 0, 0x20, 0, 0, 0, 0, 0, 0);
  assert.throws(() => decodeClientFrame(ack), ProtocolError);
  assert.throws(() => decodeClientFrame(ack.subarray(0, 5)), ProtocolError);
});

test("session frames: arbitrary bytes give a frame or a ProtocolError, never anything else", () => {
  for (const decode of [decodeClientFrame, decodeBoxFrame]) {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), (garbage) => {
        try {
          decode(garbage);
        } catch (error) {
          assert.ok(error instanceof ProtocolError);
        }
      }),
      { numRuns: 2_000 },
    );
  }
});
