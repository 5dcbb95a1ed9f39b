// What the load balancer says to its owner, as the owner's side reads it (spec/loadbalancer 4). It runs on a box that may
// be hostile: sizes, counts and texts are bounded here, once, and what does not fit ends the session. Texts are still of
// unknown origin afterwards: whoever shows them makes them printable.

import { z } from "zod";
import { fromUtf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { LoadBalancerLimits } from "../../wire/loadbalancer.ts";
import type { OutputChunk } from "../client.ts";

/** One answer: a report of the most replicas with the most clients each has some 400 KiB. */
export const ANSWER_BYTES_MAX = 1024 * 1024;
/** Retiring replicas come on top of those that may serve. */
const REPLICAS_SHOWN_MAX = 2 * LoadBalancerLimits.replicasMax;
const POINTS_SHOWN_MAX = 4 * LoadBalancerLimits.introductionPointsMax;
const TEXT_MAX = 2000;

const amount = z.number().nonnegative().max(1e15);
const count = z.int().nonnegative();
const box = z.string().min(1).max(300);
const text = z.string().max(TEXT_MAX);
const relay = z.string().regex(/^\$?[0-9A-Fa-f]{40}$/);
const address = z.string().regex(/^[a-z2-7]{56}\.onion$/);

const watermark = z.object({
  connections: amount.optional(),
  bytesPerSecond: amount.optional(),
  cpuPercent: amount.optional(),
});

const scale = z.object({
  replicasMin: count,
  replicasMax: count,
  high: watermark,
  low: watermark,
  choice: z.enum(["least-loaded", "random"]),
});

const client = z.object({
  id: count,
  bytesPerSecond: amount,
  bytesTotal: amount,
  ageMs: amount,
});

const replica = z.object({
  id: count,
  box,
  state: z.enum(["starting", "serving", "retiring", "silent"]),
  connections: count,
  bytesPerSecond: amount,
  bytesTotal: amount,
  cpuPercent: amount,
  given: count,
  met: count,
  failed: count,
  startedAtMs: amount,
  clients: z.array(client).max(LoadBalancerLimits.clientsShownMax).optional(),
});

const report = z.object({
  id: count.optional(),
  nowMs: amount,
  address,
  role: z.enum(["primary", "standby"]),
  introductionPoints: z.array(z.object({ relay, introductions: count })).max(POINTS_SHOWN_MAX),
  introductions: z.object({
    total: count,
    perSecond: amount,
    waiting: count,
    dropped: count,
    refused: count,
  }),
  scale,
  replicas: z.array(replica).max(REPLICAS_SHOWN_MAX),
  standby: z.object({ box, isReady: z.boolean() }).nullable(),
});

const dated = { atMs: amount };
const event = z.discriminatedUnion("kind", [
  z.object({ ...dated, kind: z.literal("replica-started"), id: count, box, afterMs: amount }),
  z.object({ ...dated, kind: z.literal("replica-refused"), box, code: z.string().max(64), message: text }),
  z.object({ ...dated, kind: z.literal("replica-lost"), id: count, box, reason: text }),
  z.object({ ...dated, kind: z.literal("replica-retired"), id: count, box }),
  z.object({ ...dated, kind: z.literal("point-lost"), relay }),
  z.object({ ...dated, kind: z.literal("point-claimed"), relay }),
  z.object({ ...dated, kind: z.literal("standby-ready"), box }),
  z.object({ ...dated, kind: z.literal("standby-lost"), box, reason: text }),
  z.object({ ...dated, kind: z.literal("took-over"), afterMs: amount }),
  z.object({ ...dated, kind: z.literal("fenced-off") }),
  z.object({ ...dated, kind: z.literal("renewed") }),
  z.object({ ...dated, kind: z.literal("renew-failed"), code: z.string().max(64), message: text }),
]);

const reserve = z.object({
  box,
  invocationToken: z.string().max(100),
  shutdownToken: z.string().max(100),
  expiresAt: amount.optional(),
});
const standby = reserve.extend({ instance: z.string().max(100) });
const at = z.object({
  instance: z.string().max(100).nullable(),
  role: z.enum(["primary", "standby"]).optional(),
});

const answerSchema = z.union([
  z.strictObject({ report }),
  z.strictObject({ event }),
  z.strictObject({ started: z.object({ address }) }),
  z.strictObject({ standby }),
  z.strictObject({ reserve }),
  z.strictObject({ at }),
  z.strictObject({
    stopped: z.object({
      replicasEnded: count,
      left: z.array(box).max(REPLICAS_SHOWN_MAX).optional(),
    }),
  }),
]);

export type Report = z.infer<typeof report>;
export type ReplicaView = z.infer<typeof replica>;
export type ScaleView = z.infer<typeof scale>;
export type BalancerEvent = z.infer<typeof event>;
export type Answer = z.infer<typeof answerSchema>;

/** Throws ProtocolError "bad-answer". */
export function parseAnswer(message: Uint8Array): Answer {
  let value: unknown;
  try {
    if (message.length <= ANSWER_BYTES_MAX) value = JSON.parse(fromUtf8(message));
  } catch {
    // Falls through: undefined is no answer.
  }
  const result = answerSchema.safeParse(value);
  if (result.success) return result.data;
  throw new ProtocolError("bad-answer", "Cannot read answer: this is not how a load balancer answers", {
    cause: result.error,
    advice: "The box may run something else, or another version.",
  });
}

/**
 * Answers from a session's output, never holding more than one. What came before may have been read by somebody else up
 * to the middle of an answer: the rest of that one is passed over. So is, with `isStandby`, what is meant for the load
 * balancer whose place its owner takes. Throws ProtocolError "bad-answer".
 */
export async function* answersOf(
  chunks: AsyncIterable<OutputChunk>,
  { isStandby = false }: { readonly isStandby?: boolean } = {},
): AsyncGenerator<Answer> {
  let parts: Uint8Array[] = [];
  let length = 0;
  let mayBeForeign = true;
  for await (const { offset, bytes, last } of chunks) {
    // spec/wire 6.1: the end of a message that was read before this attachment.
    if (length === 0 && bytes.length === 0) continue;
    if (parts.length === 0 && offset === 0) mayBeForeign = isStandby;
    length += bytes.length;
    if (length > ANSWER_BYTES_MAX)
      throw new ProtocolError("bad-answer", `Cannot read answer: longer than ${ANSWER_BYTES_MAX} bytes`);
    parts.push(bytes);
    if (!last) continue;
    const message = Buffer.concat(parts);
    parts = [];
    length = 0;
    const isForeign = mayBeForeign && !isWhole(message);
    mayBeForeign = isStandby;
    if (isForeign) continue;
    yield parseAnswer(message);
  }
}

/** The rest of a JSON object never begins as one that we know. */
function isWhole(message: Uint8Array): boolean {
  return /^\{"(report|event|started|standby|reserve|at|stopped)":/.test(fromUtf8(message.subarray(0, 20)));
}
