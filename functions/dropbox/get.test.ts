import assert from "node:assert/strict";
import { mock, test } from "node:test";
import type { Self, Session, Storage } from "bento/function";
import { DropboxLimits } from "../../src/wire/dropbox.ts";
import { MemoryStorage } from "../../test/support/in-process-boxes.ts";
import { get } from "./get.ts";
import { hashOf, META, partKey, SEALED } from "./request.ts";

const OWNER = "A".repeat(43);
const PART = 3 * 2 ** 20 + 1000;

interface Sent {
  readonly key: string;
  readonly offset: number;
  readonly bytes: number;
}

/** A Dropbox of `size` bytes whose client takes a message when the test says so. */
async function begun(
  size: number,
  request: { readonly from?: number; readonly bytes?: number; readonly writer?: string },
  attached = true,
) {
  const storage = new MemoryStorage();
  await storage.put(
    META,
    JSON.stringify({ owner: await hashOf(OWNER), gets: 1, bytes: 2 ** 40, partBytes: PART }),
  );
  await storage.put(SEALED, String(size));
  const sent: Sent[] = [];
  const waiting: (() => void)[] = [];
  const sending: Storage = Object.assign(storage, {
    async send(key: string, { offset = 0, bytes = 0 }: { offset?: number; bytes?: number } = {}) {
      sent.push({ key, offset, bytes });
      await new Promise<void>((resolve) => waiting.push(resolve));
      return bytes;
    },
  });
  let removals = 0;
  const session = {
    attached,
    signal: new AbortController().signal,
    send: async () => undefined,
    async *[Symbol.asyncIterator]() {
      yield new Uint8Array(1);
    },
  } as unknown as Session;
  const self: Self = { remove: async () => void removals++ };
  const done = get(session, sending, self, request);
  done.catch(() => undefined);
  return { done, sent, waiting, storage, removals: () => removals };
}

async function turns(condition: () => boolean): Promise<void> {
  for (let left = 10_000; !condition(); left--) {
    assert.ok(left > 0, "it happens");
    await new Promise((resolve) => setImmediate(resolve));
  }
}

test("get: every byte that was asked for once and in order, in messages of at most 1 MiB, few at a time", async () => {
  for (const [from, bytes] of [
    [0, 0],
    [0, 1],
    [PART - 1, 2],
    [12_345, 3 * PART],
    [0, 5 * PART - 7],
  ] as const) {
    const { done, sent, waiting, removals } = await begun(5 * PART - 7, { from, bytes });
    let most = 0;
    const state = { isOver: false };
    void done.finally(() => {
      state.isOver = true;
    });
    for (let taken = 0; !state.isOver; ) {
      await turns(() => state.isOver || sent.length > taken);
      // As many as it ever sends ahead.
      for (let left = 20; left > 0; left--) await new Promise((resolve) => setImmediate(resolve));
      most = Math.max(most, sent.length - taken);
      const next = waiting.shift();
      if (next) taken++;
      next?.();
    }
    await done;
    let at: number = from;
    for (const { key, offset, bytes: length } of sent) {
      assert.deepEqual({ key, offset }, { key: partKey(Math.floor(at / PART)), offset: at % PART });
      assert.ok(length > 0 && length <= DropboxLimits.sentBytes && offset + length <= PART);
      at += length;
    }
    assert.equal(at, from + bytes);
    assert.ok(most <= 8);
    // The download that asks for the last byte, and is confirmed, is the only one that this Dropbox has.
    assert.equal(removals(), from + bytes === 5 * PART - 7 ? 1 : 0);
  }
});

test("get: a part that is missing, and a client that is away for long, end it; what is not taken is not complete", async (t) => {
  const damaged = await begun(10, {});
  Object.assign(damaged.storage, { send: async () => undefined });
  await assert.rejects(damaged.done, /a part is missing/);
  assert.equal(damaged.removals(), 0);
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const [gone, there] = [await begun(10, {}, false), await begun(10, {})];
  await turns(() => gone.sent.length + there.sent.length === 2);
  for (let passed = 0; passed < 2 * DropboxLimits.absentMs; passed += DropboxLimits.absentMs / 10) {
    mock.timers.tick(DropboxLimits.absentMs / 10);
    await new Promise((resolve) => setImmediate(resolve));
  }
  await assert.rejects(gone.done, /nobody reads/);
  assert.deepEqual([gone.removals(), there.removals()], [0, 0]);
  there.waiting[0]?.();
  await there.done;
  assert.equal(there.removals(), 1);
});

test("get: the owner's download ends when the box has all of it to send, and does not wait for a client that has left", async () => {
  const owners = await begun(2 * PART, { writer: OWNER });
  await owners.done;
  assert.equal(
    owners.sent.reduce((sum, { bytes }) => sum + bytes, 0),
    2 * PART,
  );
  assert.deepEqual([owners.waiting.length, owners.removals()], [owners.sent.length, 0]);
});
