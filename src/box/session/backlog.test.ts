import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import * as fc from "fast-check";
import { concat } from "../../base/bytes.ts";
import { BoxError } from "../../wire/error-code.ts";
import { guestFrameCost } from "../../wire/guest-frame.ts";
import { Limits } from "../../wire/limits.ts";
import type { HeldValue } from "../host/services.ts";
import { BACKLOG_MEMORY_BYTES, BACKLOG_VALUES_MAX, Backlog, type OutputChunk } from "./backlog.ts";
import { SPOOLED_BLOCK_BYTES_MAX } from "./backlog-block.ts";
import { Spool } from "./spool.ts";

const WINDOW = Limits.streamWindowBytes;
const FRAGMENT = Limits.fragmentBytesMax;
const COST = guestFrameCost(FRAGMENT);
const never = new AbortController().signal;

let directory: string;
let spool: Spool;

before(async () => {
  directory = await mkdtemp(join(tmpdir(), "bento-backlog-"));
  spool = await Spool.open({ directory, blockBytes: SPOOLED_BLOCK_BYTES_MAX, bytesMax: 64 * 2 ** 20 });
});

after(async () => {
  await spool[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

/** A backlog with a producer that keeps to its credit. */
function setUp(capacityBytes: number, on: Spool = spool) {
  let credit = WINDOW;
  const backlog = new Backlog({
    capacityBytes,
    spool: on,
    onCredit: (bytes) => {
      credit += bytes;
    },
  });
  return {
    backlog,
    credit: () => credit,
    append: (bytes: Uint8Array, last = true) => {
      const cost = guestFrameCost(bytes.length);
      assert.ok(cost <= credit, "the test's producer keeps to its credit");
      credit -= cost;
      backlog.append(bytes, last);
    },
  };
}

function pattern(length: number, seed = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 31 + seed + (index >> 8)) & 255);
}

async function readMessages(backlog: Backlog, from = 0): Promise<Uint8Array[]> {
  const messages: Uint8Array[] = [];
  let parts: Uint8Array[] = [];
  let position = from;
  let open = from > 0;
  for (;;) {
    const chunk = await backlog.read(position, { open, signal: never });
    if (!chunk) break;
    assert.equal(chunk.offset, position);
    position += chunk.bytes.length;
    parts.push(chunk.bytes);
    open = !chunk.last;
    if (!chunk.last) continue;
    const message = concat(parts);
    // The end alone, of a message that the reader never saw: nothing to deliver.
    if (message.length > 0) messages.push(message);
    parts = [];
  }
  assert.deepEqual(parts, []);
  return messages;
}

test("Backlog: keeps messages whole and in order, however they were cut, in memory and beyond", async () => {
  const messages = fc.array(
    fc.record({ length: fc.integer({ min: 1, max: 90_000 }), cut: fc.integer({ min: 1, max: FRAGMENT }) }),
    { maxLength: 12 },
  );
  await fc.assert(
    fc.asyncProperty(messages, fc.boolean(), async (plan, lateEnds) => {
      const { backlog, append } = setUp(8 * 2 ** 20);
      const expected: Uint8Array[] = [];
      for (const [seed, { length, cut }] of plan.entries()) {
        const message = pattern(length, seed);
        expected.push(message);
        for (let at = 0; at < length; at += cut) {
          const isLast = at + cut >= length;
          append(message.slice(at, at + cut), isLast && !lateEnds);
          // The spool works while nobody reads.
          await new Promise((resolve) => setImmediate(resolve));
        }
        if (lateEnds) append(new Uint8Array(), true);
      }
      backlog.finish();
      assert.deepEqual(await readMessages(backlog), expected);
      await backlog[Symbol.asyncDispose]();
    }),
    { numRuns: 60 },
  );
  assert.equal(spool.used, 0);
});

test("Backlog: withholds credit when the capacity is held, and gives it back as output is discarded", async () => {
  const capacity = 2 * 2 ** 20;
  const { backlog, append, credit } = setUp(capacity);
  await settle(() => {
    if (credit() >= COST) append(pattern(FRAGMENT));
    // Credit also pauses while a block is on its way to the spool.
    return credit() < COST && backlog.isFull;
  });
  assert.ok(spool.used > 0);
  assert.ok(backlog.heldBytes <= capacity && backlog.heldBytes > capacity - WINDOW);
  assert.throws(() => backlog.append(pattern(FRAGMENT), true), { code: "guest-frame" });
  await backlog[Symbol.asyncDispose]();
  assert.equal(spool.used, 0);
});

test("Backlog: a full spool loses nothing and stops the guest", async () => {
  await using small = await Spool.open({
    directory,
    blockBytes: SPOOLED_BLOCK_BYTES_MAX,
    bytesMax: 2 * (SPOOLED_BLOCK_BYTES_MAX + 16),
  });
  const { backlog, append, credit } = setUp(8 * 2 ** 20, small);
  let sent = 0;
  for (let round = 0; round < 200 && credit() >= COST; round++) {
    append(pattern(FRAGMENT, round));
    sent++;
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(credit() < COST, "the guest is stopped");
  assert.ok(sent * FRAGMENT <= 2 * BACKLOG_MEMORY_BYTES + WINDOW + 2 * FRAGMENT);
  backlog.finish();
  const messages = await readMessages(backlog);
  assert.deepEqual(
    messages,
    Array.from({ length: sent }, (_, seed) => pattern(FRAGMENT, seed)),
  );
  await backlog[Symbol.asyncDispose]();
});

test("Backlog: many small messages cost no more memory than their bytes and one bit each", async () => {
  const { backlog, append } = setUp(2 ** 20);
  for (let index = 0; index < 100_000; index++) append(Uint8Array.of(index & 255));
  backlog.finish();
  const messages = await readMessages(backlog);
  assert.equal(messages.length, 100_000);
  assert.deepEqual(messages[99_999], Uint8Array.of(99_999 & 255));
  await backlog[Symbol.asyncDispose]();
});

test("Backlog.discard: what was acknowledged is gone, what was not is still there, at n and n+1", async () => {
  const { backlog, append } = setUp(2 ** 20);
  append(pattern(10));
  append(pattern(10, 7));
  backlog.discard(10);
  assert.throws(
    () => backlog.readNow(9, false),
    (error) => error instanceof BoxError && error.code === "offset-gone",
  );
  assert.deepEqual(backlog.readNow(10, true), { offset: 10, bytes: new Uint8Array(), last: true });
  assert.deepEqual(backlog.readNow(10, false)?.bytes, pattern(10, 7));
  assert.throws(() => backlog.discard(21), { code: "bad-request" });
  backlog.discard(20);
  assert.equal(backlog.heldBytes, 0);
  await backlog[Symbol.asyncDispose]();
});

test("Backlog.readNow: the end of a message reaches a reader that has all its bytes already", async () => {
  const { backlog, append } = setUp(2 ** 20);
  append(pattern(100), false);
  assert.equal(backlog.readNow(0, false)?.last, false);
  assert.equal(backlog.readNow(100, true), undefined);
  backlog.discard(100);
  append(new Uint8Array(), true);
  assert.deepEqual(backlog.readNow(100, true), { offset: 100, bytes: new Uint8Array(), last: true });
  append(pattern(3), true);
  assert.deepEqual(backlog.readNow(100, true), { offset: 100, bytes: new Uint8Array(), last: true });
  await backlog[Symbol.asyncDispose]();
});

test("Backlog.messageEnd: finds the end across blocks, in memory and in the spool", async () => {
  const { backlog, append } = setUp(4 * 2 ** 20);
  const length = 1_000_000;
  for (let at = 0; at < length; at += FRAGMENT) {
    append(pattern(Math.min(FRAGMENT, length - at)), false);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(await backlog.messageEnd(0), undefined);
  append(new Uint8Array(), true);
  assert.equal(await backlog.messageEnd(0), length);
  assert.equal(await backlog.messageEnd(length - 1), length);
  await backlog[Symbol.asyncDispose]();
});

test("Backlog.read: waits for output, and stops waiting when aborted", async () => {
  const { backlog, append } = setUp(2 ** 20);
  const waiting = backlog.read(0, { open: false, signal: never });
  append(pattern(5));
  assert.deepEqual(await waiting, { offset: 0, bytes: pattern(5), last: true });
  const abort = new AbortController();
  const aborted = backlog.read(5, { open: false, signal: abort.signal });
  abort.abort(new Error("enough"));
  await assert.rejects(aborted, { message: "enough" });
  await backlog[Symbol.asyncDispose]();
});

/** A stored value in memory, read in pieces of `piece` bytes. */
function valueOf(bytes: Uint8Array, piece = 1000) {
  const state = {
    rests: 0,
    reads: 0,
    released: 0,
    failure: undefined as Error | undefined,
    end: new AbortController(),
  };
  const value: HeldValue = {
    bytes: bytes.length,
    signal: state.end.signal,
    async read(from) {
      state.reads++;
      if (state.failure) throw state.failure;
      return bytes.slice(from, from + piece);
    },
    rest: () => void state.rests++,
    release: () => void state.released++,
  };
  return { value, state };
}

test("Backlog.appendValue: values are whole messages in their place, from any offset, however they are read", async () => {
  const messages = fc.array(
    fc.record({
      length: fc.integer({ min: 1, max: 90_000 }),
      piece: fc.integer({ min: 500, max: FRAGMENT }),
      isValue: fc.boolean(),
    }),
    { maxLength: 12 },
  );
  await fc.assert(
    fc.asyncProperty(messages, fc.nat(), async (plan, at) => {
      const { backlog, append } = setUp(8 * 2 ** 20);
      const expected: Uint8Array[] = [];
      const values: { state: { released: number }; taken: Promise<void> }[] = [];
      for (const [seed, { length, piece, isValue }] of plan.entries()) {
        const message = pattern(length, seed);
        expected.push(message);
        if (isValue) {
          const { value, state } = valueOf(message, piece);
          values.push({ state, taken: backlog.appendValue(value) });
        } else {
          for (let from = 0; from < length; from += piece)
            append(message.slice(from, from + piece), from + piece >= length);
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
      backlog.finish();
      assert.deepEqual(await readMessages(backlog), expected);
      const all = concat(expected);
      const from = at % (all.length + 1);
      assert.deepEqual(concat(await readMessages(backlog, from)), all.subarray(from));
      backlog.discard(backlog.end);
      for (const { state, taken } of values) {
        await taken;
        assert.equal(state.released, 1);
      }
      assert.equal(backlog.keptBytes, 0);
      await backlog[Symbol.asyncDispose]();
    }),
    { numRuns: 60 },
  );
});

test("Backlog.appendValue: costs neither credit nor room, and nothing is read before its turn", async () => {
  const { backlog, credit, append } = setUp(2 * WINDOW);
  const large = { ...valueOf(pattern(10)).value, bytes: 2 ** 40 };
  const before = credit();
  for (let index = 0; index < 200; index++) void backlog.appendValue(large).catch(() => undefined);
  assert.equal(backlog.heldBytes, 200 * 2 ** 40);
  assert.equal(backlog.keptBytes, 0);
  assert.equal(credit(), before);
  assert.equal(spool.used, 0);
  // Output behind it gets as much room as without it.
  for (let sent = 0; sent < 2 * WINDOW - 2 * FRAGMENT; sent += FRAGMENT) {
    await settle(() => credit() >= COST);
    append(pattern(FRAGMENT));
  }
  assert.equal(backlog.keptBytes, 2 * WINDOW - 2 * FRAGMENT);
  await backlog[Symbol.asyncDispose]();
  assert.equal(spool.used, 0);
});

test("Backlog.appendValue: taken with its last byte, not with the one before", async () => {
  const { backlog } = setUp(2 ** 20);
  const { value, state } = valueOf(pattern(100));
  let taken = false;
  const waiting = (async () => {
    await backlog.appendValue(value);
    taken = true;
  })();
  assert.equal(await backlog.messageEnd(0), 100);
  assert.deepEqual((await chunkAt(backlog, 0)).bytes, pattern(100));
  backlog.discard(99);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(taken, false);
  assert.deepEqual(await chunkAt(backlog, 99), {
    offset: 99,
    bytes: pattern(100).subarray(99),
    last: true,
  });
  backlog.discard(100);
  await waiting;
  assert.equal(state.released, 1);
  assert.deepEqual(backlog.readNow(100, true), { offset: 100, bytes: new Uint8Array(), last: true });
  assert.equal(backlog.readNow(100, false), undefined);
  await backlog[Symbol.asyncDispose]();
});

test("Backlog.appendValue: a message that the guest left open ends before it", async () => {
  const { backlog, append } = setUp(2 ** 20);
  append(pattern(5), false);
  void backlog.appendValue(valueOf(pattern(7, 1)).value);
  await backlog.appendValue(valueOf(new Uint8Array()).value);
  append(pattern(3, 2));
  backlog.finish();
  assert.deepEqual(await readMessages(backlog), [pattern(5), pattern(7, 1), pattern(3, 2)]);
  backlog.discard(backlog.end);
  await backlog[Symbol.asyncDispose]();
});

test("Backlog.appendValue: one value at a time takes memory, wherever readers jump", async () => {
  const { backlog, append } = setUp(2 ** 20);
  const [first, second] = [valueOf(pattern(3000)), valueOf(pattern(3000, 1))];
  for (const { value } of [first, second]) void backlog.appendValue(value).catch(() => undefined);
  append(pattern(10));
  assert.deepEqual((await chunkAt(backlog, 2500)).bytes, pattern(3000).subarray(2500));
  await chunkAt(backlog, 0);
  assert.deepEqual([first.state.rests, second.state.rests], [0, 0]);
  assert.deepEqual((await chunkAt(backlog, 3000)).bytes, pattern(3000, 1).subarray(0, 1000));
  assert.deepEqual([first.state.rests, second.state.rests], [1, 0]);
  await chunkAt(backlog, 1000);
  assert.deepEqual([first.state.rests, second.state.rests], [1, 1]);
  assert.deepEqual((await chunkAt(backlog, 6000)).bytes, pattern(10));
  await backlog[Symbol.asyncDispose]();
});

test("Backlog.appendValue: one that cannot be read breaks the output there, and its sender learns why", async () => {
  const { backlog, append } = setUp(2 ** 20);
  append(pattern(5));
  const { value, state } = valueOf(pattern(2000));
  const sent = backlog.appendValue(value);
  append(pattern(5));
  await chunkAt(backlog, 5);
  // What has been read is still there.
  state.failure = new Error("erased");
  assert.equal((await chunkAt(backlog, 5)).bytes.length, 1000);
  await assert.rejects(
    backlog.read(1005, { open: true, signal: never }),
    (error) => error instanceof BoxError && error.code === "already-ended",
  );
  await assert.rejects(sent, { message: "erased" });
  assert.deepEqual((await chunkAt(backlog, 0)).bytes, pattern(5));
  await backlog[Symbol.asyncDispose]();
  assert.equal(state.released, 1);
});

test("Backlog.appendValue: as many as the limit wait, one more is refused and let go, and there is room again", async () => {
  const { backlog } = setUp(2 ** 20);
  const sent: Promise<void>[] = [];
  for (let count = 0; count < BACKLOG_VALUES_MAX; count++)
    sent.push(backlog.appendValue(valueOf(pattern(2)).value));
  const further = valueOf(pattern(2));
  await assert.rejects(backlog.appendValue(further.value), { code: "too-many-calls" });
  assert.equal(further.state.released, 1);
  assert.equal(backlog.end, 2 * BACKLOG_VALUES_MAX);
  backlog.discard(2);
  sent.push(backlog.appendValue(valueOf(pattern(2)).value));
  backlog.discard(backlog.end);
  await Promise.all(sent);
  await backlog[Symbol.asyncDispose]();
});

test("Backlog.appendValue: its sender learns at once that it was erased, read or not", async () => {
  const { backlog } = setUp(2 ** 20);
  const { value, state } = valueOf(pattern(10));
  const sent = assert.rejects(backlog.appendValue(value), { message: "erased" });
  state.end.abort(new Error("erased"));
  await sent;
  await backlog[Symbol.asyncDispose]();
  assert.equal(state.released, 1);
});

test("Backlog.appendValue: released when nobody can take it any more", async () => {
  const { backlog } = setUp(2 ** 20);
  const [early, late] = [valueOf(pattern(10)), valueOf(pattern(10))];
  const waiting = backlog.appendValue(early.value);
  backlog.finish();
  await backlog.appendValue(late.value);
  assert.deepEqual([early.state.released, late.state.released], [0, 1]);
  assert.equal(backlog.end, 10);
  const rejected = assert.rejects(waiting, { code: "closed" });
  await backlog[Symbol.asyncDispose]();
  await rejected;
  assert.equal(early.state.released, 1);
});

async function chunkAt(backlog: Backlog, from: number): Promise<OutputChunk> {
  return (await backlog.read(from, { open: false, signal: never })) ?? assert.fail("no output");
}

test("Spool: leaves no name on disk, and nothing readable in its file", async () => {
  assert.deepEqual(await readdir(directory), []);
});

async function settle(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 5_000;
  while (!condition()) {
    assert.ok(Date.now() < deadline, "the condition holds in time");
    await new Promise((resolve) => setImmediate(resolve));
  }
}
