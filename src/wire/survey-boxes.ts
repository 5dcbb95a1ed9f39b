// Asks several boxes at once what they are and what they grant, for a choice among them (choose-boxes.ts). How they are
// asked is the caller's; here is how many at once, how long, and when to stop waiting for the slow ones.

import type { Clock } from "../base/clock.ts";
import { messageOf } from "../base/errors.ts";
import type { Info } from "./api.ts";
import type { Candidate } from "./choose-boxes.ts";
import type { Policy } from "./policy.ts";

/** Boxes that are asked at the same time. */
const AT_ONCE = 8;
/** How long one box may take: an onion service may need new circuits at both ends. */
const DEADLINE_MS = 60_000;
/** How long the others are still waited for when there are enough: as long again, and at least this. */
const GRACE_MS = 1_000;

export interface BoxQuestions {
  info(signal: AbortSignal): Promise<Info>;
  policy(signal: AbortSignal): Promise<Policy>;
}

export interface SurveyOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Whether what was answered so far will do. Without it all are waited for. */
  readonly enough?: (candidates: readonly Candidate[]) => boolean;
}

/** One candidate for each box, in no order. Rejects with the signal's reason only. */
export async function surveyBoxes(
  boxes: readonly string[],
  ask: (box: string) => BoxQuestions,
  { clock, signal, enough }: SurveyOptions,
): Promise<Candidate[]> {
  const startedMs = clock.now();
  const late = new AbortController();
  const cancels: (() => void)[] = [];
  const found: Candidate[] = [];
  const waiting = [...new Set(boxes)];
  const worker = async () => {
    for (let box = waiting.shift(); box !== undefined; box = waiting.shift()) {
      found.push(await askOne(box, ask(box), clock, AbortSignal.any([signal, late.signal])));
      if (cancels.length > 0 || !enough?.(found)) continue;
      const graceMs = Math.max(GRACE_MS, clock.now() - startedMs);
      cancels.push(clock.after(graceMs, () => late.abort(new Error("others were faster"))));
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  } finally {
    for (const cancel of cancels) cancel();
  }
  signal.throwIfAborted();
  return found;
}

async function askOne(
  box: string,
  questions: BoxQuestions,
  clock: Clock,
  stop: AbortSignal,
): Promise<Candidate> {
  const late = new AbortController();
  const cancel = clock.after(DEADLINE_MS, () => late.abort(new Error("it did not answer in time")));
  const signal = AbortSignal.any([stop, late.signal]);
  try {
    signal.throwIfAborted();
    // The first question pays for the circuit; the second is timed.
    const info = await questions.info(signal);
    const askedMs = clock.now();
    const policy = await questions.policy(signal);
    return { box, info, policy, roundTripMs: clock.now() - askedMs };
  } catch (error) {
    const reason: unknown = signal.aborted ? signal.reason : error;
    return { box, failure: messageOf(reason).slice(0, 300) };
  } finally {
    cancel();
  }
}
