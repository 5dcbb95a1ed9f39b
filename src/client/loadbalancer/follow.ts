// The owner's session with a load balancer that runs: says something, hears reports and events, attaches again where
// somebody else took over for a moment, and turns to the standby when the first one is gone. The boxes are untrusted; so is
// what they say about each other.

import { randomInt } from "node:crypto";
import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, messageOf, ProtocolError } from "../../base/errors.ts";
import type { Outcome } from "../../wire/api.ts";
import type { OwnerMessage } from "../../wire/loadbalancer.ts";
import type { InstanceId, ShutdownToken } from "../../wire/token.ts";
import type { BoxClient, Session } from "../client.ts";
import { orStalled } from "../dropbox/retry.ts";
import { type Answer, answersOf } from "./answers.ts";

/** Where one of the two load balancers runs. */
export interface Place {
  readonly kind: "primary" | "standby";
  /** The box, for people. */
  readonly label: string;
  readonly client: BoxClient;
  readonly instance: InstanceId;
  readonly shutdownToken: ShutdownToken;
  /** The instance that the function started in place of others: asked when `instance` has ended. undefined: none. */
  readonly findNewest?: (signal: AbortSignal) => Promise<InstanceId | undefined>;
}

export type Seen =
  | { readonly kind: "attached"; readonly place: Place }
  | { readonly kind: "answer"; readonly place: Place; readonly answer: Answer }
  /** It runs there no more, or cannot be reached there; the next place is asked. */
  | { readonly kind: "gone"; readonly place: Place; readonly reason: string };

export interface FollowOptions {
  /** Said whenever a session begins or goes on after a broken connection: things that may be said twice. */
  readonly say?: readonly OwnerMessage[];
  /** Reports: one each so many milliseconds; 0: one; undefined: none. */
  readonly everyMs?: number | undefined;
  /** What must come in time: a report when left out. */
  readonly awaits?: (answer: Answer) => boolean;
  readonly answerMs?: number;
  /** The connection broke and is being made again, or another command was let in first. */
  readonly onInterrupted?: (place: Place, reason: string) => void;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

/** For attaching while there is another place to turn to, and between two awaited answers: milliseconds. */
const ATTACH_MS = 30_000;
const ANSWER_MS = 30_000;
/** Another command of the same owner takes a session for a moment: then it is taken back, so often in a row. */
const TAKEN_OVER_MS = 3000;
const TAKEN_OVER_MAX = 5;
/** An instance lives for hours: a box that names another one each time is not believed. */
const RENEWED_MAX = 3;
/** Whoever kept it for so long does not contend for it. */
const KEPT_MS = 60_000;

/**
 * Goes on until the caller leaves it, the signal aborts (then it ends), or no place is left: then it throws why. Reports
 * that waited for somebody else are left out.
 */
export async function* follow(places: readonly Place[], options: FollowOptions): AsyncGenerator<Seen> {
  let failure: unknown;
  for (const [index, place] of places.entries()) {
    const hasOther = index + 1 < places.length;
    try {
      if (index > 0) await checkAbandoned(place, failure, options);
      yield* followRenewed(place, options, hasOther);
      return;
    } catch (error) {
      if (options.signal.aborted) return;
      if (!isGone(error)) throw error;
      failure ??= error;
      if (hasOther) yield { kind: "gone", place, reason: messageOf(error) };
    }
  }
  throw failure;
}

/** Its instance, and where that one has ended those that came in its place. */
async function* followRenewed(place: Place, options: FollowOptions, hasOther: boolean): AsyncGenerator<Seen> {
  const { signal, clock = systemClock } = options;
  let renewed = 0;
  for (let at = place; ; ) {
    const sinceMs = clock.now();
    try {
      yield* followOne(at, options, hasOther);
      return;
    } catch (error) {
      if (clock.now() - sinceMs > KEPT_MS) renewed = 0;
      if (signal.aborted || !hasEnded(error) || ++renewed > RENEWED_MAX) throw error;
      const instance = await at.findNewest?.(signal).catch(() => undefined);
      signal.throwIfAborted();
      if (instance === undefined || instance === at.instance) throw error;
      options.onInterrupted?.(at, "a new instance is in its place");
      at = { ...at, instance };
    }
  }
}

async function* followOne(place: Place, options: FollowOptions, hasOther: boolean): AsyncGenerator<Seen> {
  const { signal, clock = systemClock } = options;
  let takenOver = 0;
  for (;;) {
    const sinceMs = clock.now();
    try {
      yield* attached(place, options, hasOther);
      return;
    } catch (error) {
      if (clock.now() - sinceMs > KEPT_MS) takenOver = 0;
      const isTaken = error instanceof BentoError && error.code === "taken-over";
      if (!isTaken || ++takenOver > TAKEN_OVER_MAX) throw error;
      options.onInterrupted?.(place, "another command of yours was let in");
      // Two that watch must not take it from each other in step.
      await clock.sleep(TAKEN_OVER_MS + randomInt(TAKEN_OVER_MS), signal);
    }
  }
}

/** One attachment. Returns when the signal aborted, throws when the instance has ended or the session broke for good. */
async function* attached(place: Place, options: FollowOptions, hasOther: boolean): AsyncGenerator<Seen> {
  const { signal, clock = systemClock, everyMs, awaits = isReport, answerMs = ANSWER_MS } = options;
  const id = randomInt(1, 2 ** 31);
  const say = async (to: Session | undefined) => {
    for (const message of options.say ?? []) await to?.send(encodeOwnerMessage(message));
    if (everyMs !== undefined) await to?.send(encodeOwnerMessage({ watch: { everyMs, id } }));
  };
  const held: { session?: Session } = {};
  const stallMs = hasOther ? ATTACH_MS : undefined;
  const opened = await orStalled({ signal, clock, stallMs }, (until) =>
    place.client.open(place.instance, {
      signal: until,
      onEvent: (event) => {
        if (event.kind === "interrupted") options.onInterrupted?.(place, event.reason);
        // What was said shortly before may be lost, and whoever loses its client stops reporting.
        if (event.kind === "resumed") say(held.session).catch(() => undefined);
      },
    }),
  );
  held.session = opened;
  const leave = () => void opened.detach();
  signal.addEventListener("abort", leave, { once: true });
  let isLate = false;
  const wait = () =>
    clock.after(answerMs, () => {
      isLate = true;
      leave();
    });
  let cancel = wait();
  try {
    yield { kind: "attached", place };
    await say(opened).catch((error: unknown) => {
      // What an ended instance said last is still to be read.
      if (!(error instanceof BentoError && error.code === "already-ended")) throw error;
    });
    for await (const answer of answersOf(opened.chunks(), { isStandby: place.kind === "standby" })) {
      if ("report" in answer && answer.report.id !== id) continue;
      if (awaits(answer)) {
        cancel();
        if (everyMs) cancel = wait();
      }
      yield { kind: "answer", place, answer };
    }
    throw ended(await opened.ended);
  } catch (error) {
    if (signal.aborted) return;
    if (isLate) throw new BentoError("stalled", `No answer within ${answerMs / 1000} s`);
    throw error;
  } finally {
    cancel();
    signal.removeEventListener("abort", leave);
    await opened.detach();
  }
}

function isReport(answer: Answer): boolean {
  return "report" in answer;
}

function ended(outcome: Outcome): BentoError {
  const { kind } = outcome;
  const why = kind === "failed" ? outcome.message : kind === "killed" ? outcome.reason : "it returned";
  return new BentoError("already-ended", `The load balancer has ended: ${why}`.slice(0, 2000), {
    advice: "`bento lb resume` goes on where it was; `bento lb stop` ends what is left.",
  });
}

/**
 * A standby has one session: its load balancer's, while that one lives. To take it would make the standby believe that the
 * first one is gone. Where the first one said itself that it has ended there is nothing to break.
 */
async function checkAbandoned(standby: Place, failure: unknown, { signal }: FollowOptions): Promise<void> {
  if (hasEnded(failure)) return;
  const { instances } = await standby.client.list(standby.shutdownToken, { signal });
  if (!instances.some(({ attached: isAttached, outcome }) => isAttached && !outcome)) return;
  throw new BentoError(
    "balancer-out-of-reach",
    "Cannot reach the load balancer: its box does not answer here, but its standby hears from it",
    { advice: "Try again later.", cause: failure },
  );
}

/** Its box says that the instance has ended, or is unknown. */
function hasEnded(error: unknown): boolean {
  return error instanceof BentoError && ["bad-token", "already-ended"].includes(error.code);
}

/** Whether the load balancer may be found elsewhere. What breaks the protocol is not: that is to be seen. */
export function isGone(error: unknown): boolean {
  if (error instanceof ProtocolError || !(error instanceof BentoError)) return false;
  return error.code.startsWith("tor-") || GONE.has(error.code);
}

const GONE: ReadonlySet<string> = new Set([
  "already-ended",
  "bad-token",
  "box-failed",
  "box-timeout",
  "box-unreachable",
  "connection-lost",
  "input-lost",
  "internal",
  "shutting-down",
  "stalled",
]);

export function encodeOwnerMessage(message: OwnerMessage): string {
  return JSON.stringify(message);
}
