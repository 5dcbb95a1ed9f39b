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
import { BACKLOG_MEMORY_BYTES, Backlog } from "./backlog.ts";
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
