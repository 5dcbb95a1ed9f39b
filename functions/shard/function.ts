// Takes an encrypted file once and puts its n shards into Dropboxes on n boxes. It computes the parity blocks, holds
// no key, and keeps nothing: what it hands on was authenticated by the client. Protocol: docs/spec/shard.md 7.

import { type Bento, defineFunction, type Json, type Package, type Session } from "bento/function";
import { ShardCodec } from "../../src/wire/shard/codec.ts";
import type { FanOutAnswer, FanOutRequest } from "../../src/wire/shard/fan-out.ts";
import { MAC_BYTES, ShardLayout } from "../../src/wire/shard/layout.ts";
import { Input } from "./input.ts";
import { ShardLane } from "./shard-lane.ts";

/** Progress is told after so many stripes. */
const STEP_STRIPES = 4;

export default defineFunction({
  async invoke(session, env, operation: Json = null, request: Json = null) {
    if (!env.bento) throw new Error("Cannot spread anything: no use of other boxes was granted");
    if (operation !== "put") throw new Error('Cannot do this: expected "put"');
    await spread(session, env.bento, checked(request));
  },
});

async function spread(session: Session, bento: Bento, request: FanOutRequest): Promise<void> {
  const { k, n, size, partBytes, targets } = request;
  const layout = new ShardLayout(k, n, size);
  const codec = new ShardCodec(k, n);
  const input = new Input(session);
  const pack = (await input.json()) as Package;
  const answer = (message: FanOutAnswer) => session.send(JSON.stringify(message));
  const lanes = targets.map(
    ({ box, writer }, index) => new ShardLane(bento, { index, box, writer, partBytes, pack }),
  );
  const settled = lanes.map(async (lane) => {
    try {
      await answer({ placed: await lane.run() });
    } catch (error) {
      await answer({
        failed: { index: lane.index, reason: String(error instanceof Error ? error.message : error) },
      });
    }
  });
  try {
    for (let stripe = 0; stripe < layout.stripes; stripe++) {
      const macs = await input.bytes(n * MAC_BYTES);
      const blocks = await blocksOf(input, layout, stripe);
      blocks.push(...codec.parity(blocks));
      await Promise.all(
        lanes.map((lane) => {
          const record = new Uint8Array(layout.recordBytes(stripe));
          record.set(blocks[lane.index] as Uint8Array);
          record.set(
            macs.subarray(lane.index * MAC_BYTES, (lane.index + 1) * MAC_BYTES),
            layout.blockBytes(stripe),
          );
          return lane.push(record);
        }),
      );
      if ((stripe + 1) % STEP_STRIPES === 0) await answer({ stripes: stripe + 1 });
    }
    await input.end();
    for (const lane of lanes) lane.seal();
  } catch (error) {
    // The client is gone or broke the protocol: half a file is of no use anywhere.
    for (const lane of lanes) lane.fail(error);
    throw error;
  } finally {
    await Promise.all(settled);
  }
}

async function blocksOf(input: Input, layout: ShardLayout, stripe: number): Promise<Uint8Array[]> {
  const blockBytes = layout.blockBytes(stripe);
  const data = new Uint8Array(layout.k * blockBytes);
  data.set(await input.bytes(layout.dataBytes(stripe)));
  return Array.from({ length: layout.k }, (_, index) =>
    data.subarray(index * blockBytes, (index + 1) * blockBytes),
  );
}

/** The request, as far as this function relies on it. Boxes and secrets are checked by whom they are for. */
function checked(request: Json): FanOutRequest {
  const { k, n, size, partBytes, targets } = (request ?? {}) as Partial<FanOutRequest>;
  const isWhole =
    typeof k === "number" &&
    typeof n === "number" &&
    typeof size === "number" &&
    typeof partBytes === "number" &&
    Array.isArray(targets) &&
    targets.length === n &&
    targets.every(({ box, writer }) => typeof box === "string" && typeof writer === "string");
  if (!isWhole) throw new Error("Cannot spread: the request is malformed");
  return { k, n, size, partBytes, targets };
}
