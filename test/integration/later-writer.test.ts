// The writer of the `later` function against a Dropbox that loses connections, is not reached, refuses or lies: what it
// keeps is what was written, or nothing is said to be there.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import type { Bento, FarSession } from "bento/function";
import { DropboxWriter } from "../../functions/later/dropbox-writer.ts";

const PART_BYTES = 64 * 1024;
const PUT = { writer: "w", gets: 1, bytes: 1e9, partBytes: PART_BYTES };

interface Attempt {
  /** Messages that it takes before the connection breaks. */
  readonly breakAfter?: number;
  /** What it says first, in place of where it is. */
  readonly first?: object;
  /** What it says it keeps when the first message has come. */
  readonly claims?: number;
  readonly error?: Error;
}

/** A Dropbox behind `env.bento`, as far as a put sees it; `plan` says what happens to each attempt. */
class FakeDropbox {
  kept = Buffer.alloc(0);
  sealed: Buffer | undefined;
  attempts = 0;
  readonly #plan: (attempt: number) => Attempt;

  constructor(plan: (attempt: number) => Attempt) {
    this.#plan = plan;
  }

  readonly bento = {
    run: async () => this.#session(this.#plan(++this.attempts)),
  } as unknown as Bento;

  #session({ breakAfter, first, claims, error }: Attempt): FarSession {
    if (error) throw error;
    const answers = new TransformStream<object, Uint8Array>(
      {
        transform: (answer, controller) => controller.enqueue(Buffer.from(JSON.stringify(answer))),
      },
      { highWaterMark: 1000 },
      { highWaterMark: 1000 },
    );
    const out = answers.writable.getWriter();
    let part = Buffer.alloc(0);
    let messages = 0;
    void out.write(first ?? { at: this.kept.length });
    return {
      interruptions: 0,
      send: async (message: Uint8Array) => {
        if (messages++ === breakAfter) {
          await out.close();
          throw Object.assign(new Error("lost"), { code: "input-lost" });
        }
        if (messages === 1 && claims !== undefined) {
          // Once the writer holds as much as it may, and so that it hears of it before it sends more.
          await new Promise((resolve) => setImmediate(resolve));
          await out.write({ at: claims });
          await new Promise((resolve) => setImmediate(resolve));
        }
        part = Buffer.concat([part, message]);
        for (; part.length >= PART_BYTES; part = part.subarray(PART_BYTES)) {
          this.kept = Buffer.concat([this.kept, part.subarray(0, PART_BYTES)]);
          await out.write({ at: this.kept.length });
        }
        if (message.length > 0) return;
        this.sealed = Buffer.concat([this.kept, part]);
        await out.write({ sealed: this.sealed.length });
        await out.close();
      },
      close: async () => true,
      detach: async () => undefined,
      [Symbol.asyncIterator]: () => answers.readable[Symbol.asyncIterator](),
    } as unknown as FarSession;
  }
}

async function write(dropbox: FakeDropbox, content: Buffer): Promise<void> {
  const writer = new DropboxWriter(dropbox.bento, { box: "b", token: "t", put: PUT });
  await writer.opened;
  for (let at = 0; at < content.length; at += 50_001) await writer.write(content.subarray(at, at + 50_001));
  await writer.seal();
}

test("DropboxWriter: a put that breaks goes on where the Dropbox is, byte for byte", async () => {
  const content = randomBytes(600_000);
  const dropbox = new FakeDropbox((attempt) => (attempt <= 2 ? { breakAfter: 3 } : {}));
  await write(dropbox, content);
  assert.ok(dropbox.sealed?.equals(content));
  assert.equal(dropbox.attempts, 3);
});

test("DropboxWriter: not reached is tried again, refused is not", async () => {
  const unreachable = Object.assign(new Error("not there"), { code: "box-unreachable" });
  const late = new FakeDropbox((attempt) => (attempt === 1 ? { error: unreachable } : {}));
  await write(late, Buffer.from("content"));
  assert.equal(late.sealed?.toString(), "content");

  const gone = new FakeDropbox(() => ({ error: Object.assign(new Error("no"), { code: "bad-token" }) }));
  await assert.rejects(write(gone, Buffer.from("content")), { code: "bad-token" });
  const full = new FakeDropbox(() => ({ first: { refused: "quota" } }));
  await assert.rejects(write(full, Buffer.from("content")), /refuses: quota/);
  assert.deepEqual([gone.attempts, full.attempts], [1, 1]);
});

test("DropboxWriter: a Dropbox that claims what was never sent is not believed", async () => {
  const liar = new FakeDropbox(() => ({ first: { at: 1_000_000 } }));
  await assert.rejects(write(liar, Buffer.from("content")), /does not have what was put/);
  assert.equal(liar.attempts, 1);
});

test("DropboxWriter: nor one that claims what is held here, and not sent yet", async () => {
  const liar = new FakeDropbox(() => ({ claims: 130_000 }));
  await assert.rejects(write(liar, randomBytes(600_000)), /claims what was not sent/);
  assert.deepEqual([liar.attempts, liar.sealed], [1, undefined]);
});
