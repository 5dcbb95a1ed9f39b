import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { BoxClient, directDial } from "../client.ts";
import { ShardSink } from "../shard/shard-sink.ts";
import { TestBox, type TestScript } from "../test-box.ts";
import { newWriter, type PutContent, putContent, putRequest } from "./put.ts";

const KIB = 1024;
const PACK = { manifest: { name: "dropbox", image: "deno" as const }, source: "export default {}" };

/** Keeps what is put, a part at a time, as the function does; tells nothing before `silent` bytes have come. */
function keeping(silentBytes: number): { script: TestScript; received: () => Buffer } {
  const messages: Uint8Array[] = [];
  const script: TestScript = async (call) => {
    let bytes = 0;
    const say = (answer: object) => {
      call.output(Buffer.from(JSON.stringify(answer)), true);
    };
    if (silentBytes === 0) say({ at: 0 });
    for await (const message of call.input) {
      if (message.length === 0) break;
      messages.push(message);
      bytes += message.length;
      if (bytes >= silentBytes) say({ at: Math.floor(bytes / (64 * KIB)) * 64 * KIB });
    }
    say({ sealed: bytes });
    return { kind: "returned" };
  };
  return { script, received: () => Buffer.concat(messages) };
}

function ofPieces(bytes: Buffer, pieceBytes: number): PutContent {
  return {
    size: bytes.length,
    async *read(from) {
      for (let at = from; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
    },
  };
}

test("putContent: content comes whole and in order, whatever its size and however it is cut", async () => {
  for (const size of [0, 1, 512 * KIB, 512 * KIB + 1, 1500 * KIB]) {
    for (const pieceBytes of [7 * KIB + 1, 64 * KIB, 4096 * KIB]) {
      const { script, received } = keeping(0);
      await using box = await TestBox.start({ script });
      using client = new BoxClient({ address: box.address, dial: directDial });
      const content = randomBytes(size);
      const request = putRequest(newWriter(), size, { gets: 1 });
      const sealed = await putContent(client, { package: PACK }, request, ofPieces(content, pieceBytes), {
        signal: AbortSignal.timeout(60_000),
      });
      assert.equal(sealed, size);
      assert.ok(received().equals(content), `${size} bytes in pieces of ${pieceBytes}`);
    }
  }
});

test("putContent: the first content is on its way before the box has answered", async () => {
  let goneUpBytes = 0;
  await using box = await TestBox.start({
    // A box that never answers, and counts what comes.
    intercept: (incoming) => {
      if (incoming.method !== "POST") return false;
      incoming.on("data", (chunk: Buffer) => {
        goneUpBytes += chunk.length;
        if (goneUpBytes > 256 * KIB) incoming.destroy();
      });
      return true;
    },
  });
  using client = new BoxClient({ address: box.address, dial: directDial });
  const content = randomBytes(1024 * KIB);
  const request = putRequest(newWriter(), content.length, { gets: 1 });
  const put = putContent(client, { package: PACK }, request, ofPieces(content, 64 * KIB), {
    signal: AbortSignal.timeout(60_000),
    attemptsMax: 1,
  });
  await assert.rejects(put, (error) => (error as { code?: string }).code === "box-unreachable");
  assert.ok(goneUpBytes > 256 * KIB);
});

test("putContent: reads no more than a part ahead, since more may wait for what is kept", async () => {
  const { script, received } = keeping(0);
  await using box = await TestBox.start({ script });
  using client = new BoxClient({ address: box.address, dial: directDial });
  const content = randomBytes(512 * KIB);
  // Two parts beyond what is kept, and no more.
  const sink = new ShardSink(content.length, 128 * KIB);
  const encoding = (async () => {
    for (let at = 0; at < content.length; at += 16 * KIB)
      await sink.push(content.subarray(at, at + 16 * KIB));
  })();
  const request = { ...putRequest(newWriter(), content.length, { gets: 0 }), partBytes: 64 * KIB };
  await putContent(client, { package: PACK }, request, sink, {
    signal: AbortSignal.timeout(60_000),
    onKept: (bytes) => {
      sink.confirm(bytes);
    },
  });
  await encoding;
  assert.ok(received().equals(content));
});

test("putContent: aborted while it waits for content that does not come", async () => {
  await using box = await TestBox.start({});
  using client = new BoxClient({ address: box.address, dial: directDial });
  const abort = new AbortController();
  let isAsked = false;
  const silent: PutContent = {
    size: 1,
    async *read() {
      isAsked = true;
      setImmediate(() => {
        abort.abort(new Error("the user gave up"));
      });
      await new Promise(() => undefined);
      yield new Uint8Array();
    },
  };
  const request = putRequest(newWriter(), 1, { gets: 1 });
  await assert.rejects(putContent(client, { package: PACK }, request, silent, { signal: abort.signal }), {
    message: "the user gave up",
  });
  assert.ok(isAsked);
});
