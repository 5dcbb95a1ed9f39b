// `bento shard put|get|status|repair`: a file over many boxes, any k of which give it back. The receipt is all that
// is needed afterwards; it is written before anything leaves and again with every shard.

import { randomBytes } from "node:crypto";
import { stat } from "node:fs/promises";
import path from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import { openFile, SEGMENT_BYTES, SEGMENT_CAPACITY, sealedSize } from "../../wire/sealed-file.ts";
import { fileBytesOf, type ShardLayout, stripesOf } from "../../wire/shard/layout.ts";
import { SHARDS_MAX } from "../../wire/shard/matrix.ts";
import { type FileFacts, fileFacts, sealedContent } from "../dropbox/file-content.ts";
import { tokenName } from "../dropbox/put.ts";
import { loadPackage } from "../package-loader.ts";
import { ShardKeys } from "../shard/keys.ts";
import { placeShards, type Target } from "../shard/place.ts";
import { placeShardsThrough } from "../shard/place-through.ts";
import { type PlacedShard, type Receipt, readReceipt, secretOf, writeReceipt } from "../shard/receipt.ts";
import { layoutOf } from "../shard/repair.ts";
import { Retrieval } from "../shard/retrieve.ts";
import { LIES, type ShardFault } from "../shard/shard-source.ts";
import { type Cli, type ReachOptions, usage } from "./cli.ts";
import { EXIT, type ExitCode } from "./exit-code.ts";
import { printable } from "./io.ts";
import { parsePadding } from "./padding.ts";
import { PartFile } from "./part-file.ts";
import { Progress } from "./progress.ts";
import { durationOf } from "./put.ts";
import { ShardBoxes, type ShardReachOptions } from "./shard-boxes.ts";

export interface ShardPutOptions extends ShardReachOptions {
  readonly k: number;
  readonly n: number;
  readonly output: string;
  readonly expires?: string | undefined;
  readonly pad: string;
  /** A box whose `shard` function takes the file once and hands the shards on. */
  readonly through?: string | undefined;
}

/** Times the file is read again for shards that could not be placed. */
const PASSES_MAX = 3;

export async function shardPut(cli: Cli, given: string, options: ShardPutOptions): Promise<ExitCode> {
  const { k, n } = options;
  if (k > n) throw usage(`Cannot shard: -k ${k} of -n ${n}, wanted 1 <= k <= n <= ${SHARDS_MAX}`);
  const file = await fileFacts(path.resolve(given));
  const padding = parsePadding(options.pad);
  const lifetimeMs = options.expires === undefined ? undefined : durationOf(options.expires);
  await refuseOverwrite(options.output);
  await using boxes = await ShardBoxes.choose(cli, options, { count: n });
  let receipt: Receipt = {
    format: "bento shard receipt",
    version: 1,
    name: path.basename(file.path).slice(0, 255),
    k,
    n,
    size: file.size,
    sealedBytes: sealedSize(file.size, padding),
    secret: randomBytes(32).toString("base64url"),
    ...(lifetimeMs === undefined ? {} : { lifetimeMs }),
    shards: [],
  };
  await writeReceipt(options.output, receipt);
  const keys = new ShardKeys(secretOf(receipt));
  const layout = layoutOf(receipt);
  let saving = Promise.resolve();
  const save = async (shard: PlacedShard) => {
    receipt = { ...receipt, shards: [...receipt.shards, shard] };
    const saved = receipt;
    saving = saving.then(() => writeReceipt(options.output, saved));
    await saving;
  };
  const content = sealedContent(file, keys.sealKey, padding);
  const pack = (await loadPackage("dropbox")).package;
  let failed: readonly { readonly target: Target; readonly error: unknown }[] = [];
  let targets = boxes.targets(Array.from({ length: n }, (_, index) => index));
  for (let pass = 1; targets.length > 0 && pass <= PASSES_MAX; pass++) {
    const label = pass === 1 ? `Putting ${n} shards` : `Putting ${targets.length} shards again`;
    using progress = new Progress(cli.io, label, { total: layout.size });
    const stripes = stripesOf(content.read(0), layout);
    const how = {
      signal: cli.signal,
      package: pack,
      lifetimeMs,
      onPlaced: save,
      onProgress: (bytes: number) => progress.update(bytes),
      onFailed: ({ index, box }: Target, reason: string) => tellFailed(cli, index, box, reason),
    };
    // What a box could not hand on is put from here.
    const through =
      pass === 1 && options.through !== undefined ? await boxes.through(options.through) : undefined;
    const result = through
      ? await placeShardsThrough(stripes, layout, keys, targets, {
          ...how,
          ...through,
          shardPackage: (await loadPackage("shard")).package,
        })
      : await placeShards(stripes, layout, keys, targets, how);
    failed = result.failed;
    targets = boxes.otherTargets(failed.map(({ target }) => target));
  }
  return reportPut(cli, receipt, options.output, file, failed[0]?.error);
}

export function tellFailed(cli: Cli, index: number, box: string, reason: string): void {
  cli.io.event({ event: "shard-failed", index, box, reason });
  if (!cli.io.json) cli.io.note(`  shard ${index} on ${printable(box)}: ${printable(reason)}`);
}

function reportPut(cli: Cli, receipt: Receipt, output: string, file: FileFacts, error: unknown): ExitCode {
  const { io } = cli;
  const { k, n, shards } = receipt;
  const expiresAt = Math.min(...shards.map((shard) => shard.expiresAt));
  io.event({ event: "sharded", file: file.path, receipt: output, k, n, placed: shards.length, expiresAt });
  if (shards.length < k) {
    throw error instanceof BentoError
      ? error
      : new BentoError(
          "too-few-shards",
          `Cannot shard: ${shards.length} of ${n} shards were placed, it takes ${k}`,
        );
  }
  if (!io.json) {
    io.note(
      `${shards.length} of ${n} shards are placed, any ${k} give ${printable(receipt.name)} back, until ${new Date(expiresAt).toISOString()}.`,
    );
    io.note(`Receipt: ${output}. It is a secret, and all that is needed: bento shard get ${output} -o FILE`);
    if (shards.length < n) io.note(`  Put the missing ones later: bento shard repair ${output}`);
  }
  return shards.length < n ? EXIT.partial : EXIT.ok;
}

/** The only key to something must not be written over. */
async function refuseOverwrite(file: string): Promise<void> {
  const exists = await stat(file).then(
    () => true,
    () => false,
  );
  if (exists) throw usage(`Cannot write receipt: ${file} exists`, "Choose another name with -o.");
}

export interface ShardGetOptions extends Omit<ReachOptions, "box"> {
  readonly output?: string | undefined;
}

export async function shardGet(cli: Cli, given: string, options: ShardGetOptions): Promise<ExitCode> {
  const receipt = await readReceipt(given);
  const layout = layoutOf(receipt);
  const keys = new ShardKeys(secretOf(receipt));
  const target =
    options.output === undefined ? undefined : await PartFile.open(options.output, tokenName(receipt.secret));
  const firstSegment = Math.floor((target?.bytes ?? 0) / SEGMENT_CAPACITY);
  await target?.cut(firstSegment * SEGMENT_CAPACITY);
  await target?.saveTicket(undefined);
  await using boxes = new ShardBoxes(cli, options);
  await boxes.reach(receipt.shards.map(({ box }) => box));
  using progress = new Progress(cli.io, `Fetching ${printable(receipt.name)}`, { total: receipt.size });
  await using retrieval = new Retrieval(receipt.shards, layout, keys, {
    signal: cli.signal,
    clientOf: (shard) => boxes.clientOf(shard),
    from: layout.stripeOf(firstSegment * SEGMENT_BYTES),
    onFault: (shard, fault, detail) => tellFault(cli, shard, fault, detail),
  });
  let written = target?.bytes ?? 0;
  const sealed = bytesFrom(retrieval, layout, firstSegment * SEGMENT_BYTES);
  try {
    for await (const piece of openFile(sealed, keys.sealKey, { first: firstSegment })) {
      if (target) await target.write(piece);
      else await cli.io.write(piece);
      written += piece.length;
      progress.update(written);
    }
  } catch (error) {
    await target?.close();
    if (target && written > 0)
      cli.io.note(
        `${formatBytes(written)} are kept in ${options.output}.part; the same command goes on from there.`,
      );
    throw error;
  }
  if (written !== receipt.size)
    throw new BentoError("integrity", `Cannot trust receipt: ${written} bytes, expected ${receipt.size}`);
  await target?.finish();
  progress[Symbol.dispose]();
  reportGet(cli, retrieval, written, options.output);
  return EXIT.ok;
}

/** The sharded bytes from `offset` on. */
async function* bytesFrom(
  retrieval: Retrieval,
  layout: ShardLayout,
  offset: number,
): AsyncGenerator<Uint8Array> {
  let skip = offset - layout.stripeOf(offset) * layout.dataBytes(0);
  for await (const stripe of retrieval.stripes()) {
    for (const piece of fileBytesOf(stripe, layout)) {
      if (skip < piece.length) yield piece.subarray(skip);
      skip = Math.max(0, skip - piece.length);
    }
  }
}

export function tellFault(cli: Cli, shard: PlacedShard, fault: ShardFault, detail: string): void {
  const { index, box } = shard;
  cli.io.event({ event: "shard-fault", index, box, fault, lied: LIES.has(fault), detail });
  if (cli.io.json) return;
  const verdict = LIES.has(fault) ? cli.io.red("lied") : "is out";
  cli.io.note(`  shard ${index} on ${printable(box)} ${verdict} (${fault}): ${printable(detail)}`);
}

function reportGet(cli: Cli, retrieval: Retrieval, bytes: number, file: string | undefined): void {
  const { io } = cli;
  const used = retrieval.reports.filter(({ blocks }) => blocks > 0);
  const lied = retrieval.reports.filter(({ fault }) => fault !== undefined && LIES.has(fault));
  io.event({
    event: "got",
    bytes,
    file,
    shards: used.map(({ shard, blocks }) => ({ index: shard.index, box: shard.box, blocks })),
    lied: lied.map(({ shard, fault }) => ({ index: shard.index, box: shard.box, fault })),
  });
  if (io.json) return;
  io.note(`${formatBytes(bytes)}, ${io.green("whole and as it was put")}, from ${used.length} shards.`);
  if (lied.length > 0) io.note(`  ${lied.length} lied: bento shard repair puts theirs on other boxes.`);
  if (file !== undefined) io.note(`Written to ${file}`);
}
