import assert from "node:assert/strict";
import { mock, test } from "node:test";
import type { Session, Storage } from "bento/function";
import { DropboxLimits } from "../../src/wire/dropbox.ts";
import { put } from "./put.ts";

const REQUEST = { writer: "w".repeat(43), gets: 1, bytes: 100, partBytes: 65_536 };

/** A put whose client has sent half a part and nothing more. */
function begun(attached: boolean) {
  const sent: string[] = [];
  const input = async function* () {
    yield new Uint8Array(1000);
    await new Promise(() => undefined);
  };
  const session = {
    attached,
    send: async (message: string) => void sent.push(message),
    [Symbol.asyncIterator]: input,
  } as unknown as Session;
  let broken: unknown;
  const storage = {
    async get() {},
    async *list() {},
    async put(key: string, value: string | AsyncIterable<Uint8Array>) {
      if (key === "meta") return { bytes: 1 };
      try {
        for await (const _ of value as AsyncIterable<Uint8Array>);
      } catch (error) {
        broken = error;
        throw error;
      }
      throw new Error("the part has no end");
    },
  } as unknown as Storage;
  let isOver = false;
  const done = put(session, storage, REQUEST).finally(() => {
    isOver = true;
  });
  return { done, sent, broken: () => broken, isOver: () => isOver };
}

async function pass(durationMs: number): Promise<void> {
  const stepMs = DropboxLimits.senderAbsentMs / 10;
  for (let atMs = 0; atMs < durationMs; atMs += stepMs) {
    mock.timers.tick(stepMs);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

test("put: gives up on a client that vanished, and on the part that it had begun; waits for one that is there", async (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const [gone, there] = [begun(false), begun(true)];
  // Its hash of the owner's secret comes from another thread.
  while (gone.sent.length + there.sent.length < 2) await new Promise((resolve) => setImmediate(resolve));
  await pass(DropboxLimits.senderAbsentMs / 2);
  assert.equal(gone.isOver(), false);
  await pass(DropboxLimits.senderAbsentMs);
  await gone.done;
  assert.match(String(gone.broken()), /the client is gone/);
  assert.deepEqual(gone.sent, ['{"at":0}'], "nothing is sealed");
  assert.equal(there.isOver(), false);
});
