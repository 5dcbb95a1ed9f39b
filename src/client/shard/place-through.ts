// Placing shards through the `shard` function on one box (spec/shard 7): the file goes up once, with the MACs of all
// shards; the box computes the rest and fans out over Tor. It gets no key: what it stores wrongly is found out by
// whoever fetches. Shards that it could not place, or that it took with it when it died, are
// reported, to be placed otherwise.

import { z } from "zod";
import { orAborted } from "../../base/abort.ts";
import { fromUtf8 } from "../../base/bytes.ts";
import { systemClock } from "../../base/clock.ts";
import { BentoError, messageOf, ProtocolError } from "../../base/errors.ts";
import type { PutRequest } from "../../wire/dropbox.ts";
import type { PackageInput } from "../../wire/package.ts";
import { SELF } from "../../wire/policy.ts";
import { ShardCodec } from "../../wire/shard/codec.ts";
import type { FanOutRequest } from "../../wire/shard/fan-out.ts";
import { fileBytesOf, MAC_BYTES, type ShardLayout, type Stripe } from "../../wire/shard/layout.ts";
import type { BoxClient, Session, StoredFunction } from "../client.ts";
import { dropboxPackage } from "../dropbox/put.ts";
import { isPassing, orStalled } from "../dropbox/retry.ts";
import type { ShardKeys } from "./keys.ts";
import { type PlaceOptions, type PlaceResult, partBytesFor, type Target } from "./place.ts";

/** How long the last shards may take once everything was sent: milliseconds. */
const SEAL_MS = 300_000;
const ANSWER_BYTES_MAX = 4096;

const answerSchema = z.union([
  z.strictObject({
    placed: z.strictObject({
      index: z.int().nonnegative(),
      invocationToken: z.string().max(100),
      shutdownToken: z.string().max(100),
      expiresAt: z.int().nonnegative(),
    }),
  }),
  z.strictObject({ failed: z.strictObject({ index: z.int().nonnegative(), reason: z.string() }) }),
  z.strictObject({ stripes: z.int().positive() }),
]);

/** As `placeShards`, for all n shards, through the box of `client`; `targets` in order of their shards. */
export async function placeShardsThrough(
  stripes: AsyncIterable<Stripe>,
  layout: ShardLayout,
  keys: ShardKeys,
  targets: readonly Target[],
  options: PlaceOptions & {
    readonly client: BoxClient;
    /** That box, as `targets` name it. */
    readonly box: string;
    readonly shardPackage: PackageInput;
  },
): Promise<PlaceResult> {
  const { client, signal, clock = systemClock } = options;
  const partBytes = partBytesFor(layout, layout.n);
  const request: FanOutRequest = {
    k: layout.k,
    n: layout.n,
    size: layout.size,
    partBytes,
    targets: targets.map(({ index, generation, box }) => ({
      box: box === options.box ? SELF : box,
      writer: keys.writer(index, generation),
    })),
  };
  const pack = { ...options.shardPackage, manifest: manifestFor(options.shardPackage, layout, request) };
  const result: Mutable<PlaceResult> = { placed: [], failed: [] };
  let stored: StoredFunction | undefined;
  try {
    // What was on its way when a connection broke is missing then: nothing can be made of the rest.
    const how = { signal, endsWithConnection: true };
    await using session = await client.run({ package: pack }, { args: ["put", request] }, how);
    stored = session.stored as StoredFunction | undefined;
    const answers = readAnswers(session, targets, result, options);
    answers.catch(() => undefined);
    const sending = send(session, stripes, layout, keys, targets, { ...options, partBytes });
    sending.catch(() => undefined);
    await Promise.race([sending, answers]);
    await orStalled({ signal, clock, stallMs: SEAL_MS }, (until) => orAborted(answers, until));
  } catch (error) {
    signal.throwIfAborted();
    if (!isPassing(error)) throw error;
    giveUp(targets, result, error, options);
  } finally {
    if (stored) await removeQuietly(client, stored);
  }
  return result;
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] extends readonly (infer E)[] ? E[] : T[K] };

/** The box in between is gone: what it did not report as placed has failed. */
function giveUp(
  targets: readonly Target[],
  result: Mutable<PlaceResult>,
  error: unknown,
  options: PlaceOptions,
): void {
  const settled = new Set(
    [...result.placed, ...result.failed.map(({ target }) => target)].map(({ index }) => index),
  );
  for (const target of targets.filter(({ index }) => !settled.has(index))) {
    result.failed.push({ target, error });
    options.onFailed?.(target, `the box that was to hand it on is out of reach (${messageOf(error)})`);
  }
}

/** Grants for n Dropboxes and the bytes that go there and back. */
function manifestFor(
  pack: PackageInput,
  layout: ShardLayout,
  request: FanOutRequest,
): PackageInput["manifest"] {
  const boxes = [...new Set(request.targets.map(({ box }) => box))];
  const bytes = layout.n * (layout.shardBytes + 256 * 1024);
  const { n } = layout;
  return {
    ...pack.manifest,
    bento: { boxes, functions: n, invocations: 2 * n, sessions: n, depth: 1, bytes: `${bytes}B` },
  };
}

async function send(
  session: Session,
  stripes: AsyncIterable<Stripe>,
  layout: ShardLayout,
  keys: ShardKeys,
  targets: readonly Target[],
  options: PlaceOptions & { readonly partBytes: number },
): Promise<void> {
  const codec = new ShardCodec(layout.k, layout.n);
  const put: PutRequest = { writer: "", gets: 0, bytes: 0, partBytes: options.partBytes };
  const { lifetimeMs } = options;
  await session.send(
    JSON.stringify(dropboxPackage(options.package, put, { size: layout.shardBytes, lifetimeMs })),
  );
  for await (const stripe of stripes) {
    const blocks = [...stripe.data, ...codec.parity(stripe.data)];
    const macs = new Uint8Array(layout.n * MAC_BYTES);
    for (const { index, generation } of targets)
      macs.set(keys.mac(index, generation, stripe.index, blocks[index] as Uint8Array), index * MAC_BYTES);
    await session.send(macs);
    for (const piece of fileBytesOf(stripe, layout)) await session.send(piece);
    options.onProgress?.(Math.min(layout.size, (stripe.index + 1) * layout.dataBytes(0)));
  }
  await session.send(new Uint8Array());
}

async function readAnswers(
  session: Session,
  targets: readonly Target[],
  { placed, failed }: Mutable<PlaceResult>,
  options: PlaceOptions,
): Promise<void> {
  for await (const message of session) {
    const answer = parse(message);
    if ("placed" in answer) {
      const { index, ...tokens } = answer.placed;
      const target = targetOf(targets, index);
      const { generation, box, relay } = target;
      const shard = { index, generation, box, ...(relay === undefined ? {} : { relay }), ...tokens };
      placed.push(shard);
      await options.onPlaced?.(shard);
    } else if ("failed" in answer) {
      const target = targetOf(targets, answer.failed.index);
      const reason = answer.failed.reason.slice(0, 300);
      failed.push({ target, error: new BentoError("function-failed", reason) });
      options.onFailed?.(target, reason);
    }
  }
  const outcome = await session.ended;
  const settled = new Set([...placed, ...failed.map(({ target }) => target)].map(({ index }) => index));
  if (outcome.kind !== "returned" && settled.size < targets.length) {
    const why = outcome.kind === "failed" ? outcome.message : outcome.reason;
    throw new BentoError("function-failed", `Cannot place shards: the function on the box failed (${why})`);
  }
}

function targetOf(targets: readonly Target[], index: number): Target {
  const target = targets.find((known) => known.index === index);
  if (target) return target;
  throw new ProtocolError("bad-answer", `Cannot read answer: there is no shard ${index}`);
}

function parse(message: Uint8Array): z.infer<typeof answerSchema> {
  try {
    if (message.length > ANSWER_BYTES_MAX) throw new RangeError("too long");
    return answerSchema.parse(JSON.parse(fromUtf8(message)));
  } catch (cause) {
    throw new ProtocolError("bad-answer", "Cannot read answer: this is not how `shard` answers", { cause });
  }
}

async function removeQuietly(client: BoxClient, stored: StoredFunction): Promise<void> {
  try {
    await client.shutdown(stored.shutdownToken, { signal: AbortSignal.timeout(10_000) });
  } catch {
    // It expires by itself.
  }
}
