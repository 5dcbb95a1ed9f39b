// `bento bench shard-code`: how fast the shard code works on one core, in bytes of the file, and what sealing and
// authenticating the shards cost beside it.

import { randomBytes } from "node:crypto";
import { ShardKeys } from "../../client/shard/keys.ts";
import { sealFile } from "../../wire/sealed-file.ts";
import { ShardCodec } from "../../wire/shard/codec.ts";
import { multiplyBlocksPlain } from "../../wire/shard/kernel.ts";
import { BLOCK_BYTES } from "../../wire/shard/layout.ts";
import { type BenchContext, type Benchmark, type Figure, median } from "./benchmark.ts";
import { interleaved } from "./support/samples.ts";

const [K, N] = [10, 16];
const STRIPES = 200;
const PLAIN_STRIPES = 10;
const SAMPLES = 9;
const MB = 1e6;
const STRIPE_BYTES = K * BLOCK_BYTES;

export const benchmark: Benchmark = {
  name: "shard-code",
  description: `Reed-Solomon code of Shard at (${K}, ${N}) on one core`,
  run: measure,
};

async function measure(context: BenchContext): Promise<readonly Figure[]> {
  const data = Array.from({ length: K }, () => randomBytes(BLOCK_BYTES));
  const codec = new ShardCodec(K, N);
  const plain = new ShardCodec(K, N, multiplyBlocksPlain);
  const parity = codec.parity(data);
  // As many data blocks lost as may be: the dearest case.
  const survivors = new Map([...data, ...parity].entries().filter(([index]) => index >= N - K));
  const lost = Array.from({ length: N - K }, (_, index) => index);
  const keys = new ShardKeys(randomBytes(32));
  const samples = await interleaved(
    {
      encode: async () => repeat(STRIPES, () => codec.parity(data)),
      decode: async () => repeat(STRIPES, () => codec.rebuild(survivors, lost)),
      plain: async () => repeat(PLAIN_STRIPES, () => plain.parity(data)),
      macs: async () =>
        repeat(STRIPES / 4, (stripe) => {
          for (const [index, block] of [...data, ...parity].entries()) keys.mac(index, 1, stripe, block);
        }),
      seal: () => seal(data),
    },
    {
      warmUp: 2,
      samples: SAMPLES,
      signal: context.signal,
      onRound: (done, all) => context.phase(`round ${done} of ${all}`),
    },
  );
  const rate = (of: number[], stripes: number) => (stripes * STRIPE_BYTES) / MB / (median(of) / 1000);
  const note = `MB of the file, n ${SAMPLES}, median`;
  return [
    { name: "encode", value: rate(samples.encode, STRIPES), unit: "MB/s", target: { least: 200 }, note },
    {
      name: `decode, ${N - K} data blocks of ${K} lost`,
      value: rate(samples.decode, STRIPES),
      unit: "MB/s",
      target: { least: 200 },
      note,
    },
    { name: "encode without vectors", value: rate(samples.plain, PLAIN_STRIPES), unit: "MB/s", note },
    { name: `MACs of ${N} shards`, value: rate(samples.macs, STRIPES / 4), unit: "MB/s", note },
    { name: "sealing", value: rate(samples.seal, 1), unit: "MB/s", note },
  ];
}

function repeat(times: number, work: (at: number) => unknown): void {
  for (let at = 0; at < times; at++) work(at);
}

async function seal(blocks: readonly Uint8Array[]): Promise<void> {
  const content = async function* () {
    yield* blocks;
  };
  for await (const _ of sealFile(content(), randomBytes(32), { padding: { kind: "none" } }));
}
