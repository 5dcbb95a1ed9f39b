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
import { firstInCharge, type Probe, probe } from "./probe.ts";
import type { Newest } from "./start.ts";

/** Where one of the load balancers runs, or may run. */
export interface Place {
  readonly kind: "primary" | "standby";
  /** The box, for people. */
  readonly label: string;
  readonly client: BoxClient;
  /** undefined: only the function is known to be there. */
  readonly instance: InstanceId | undefined;
  readonly shutdownToken: ShutdownToken;
  /** When the box removes the function, where that is known: Unix milliseconds. */
  readonly expiresAt?: number | undefined;
  /** What runs there now, as the function says: in place of `instance`, or of its own. */
  readonly findNewest?: (signal: AbortSignal) => Promise<Newest>;
}

export type Seen =
  | { readonly kind: "attached"; readonly place: Place }
  | { readonly kind: "answer"; readonly place: Place; readonly answer: Answer }
  /** It runs there no more, or cannot be reached there; the next place is asked. */
  | { readonly kind: "gone"; readonly place: Place; readonly reason: string };

export interface FollowOptions {
  /** Said whenever a session begins or goes on after a broken connection, after a report is asked for: things that may be said twice. */
  readonly say?: readonly OwnerMessage[];
  /** Reports: one each so many milliseconds; 0: one; undefined: none. */
  readonly everyMs?: number | undefined;
  /** What must come in time: a report when left out. */
  readonly awaits?: (answer: Answer) => boolean;
  readonly answerMs?: number;
  /** The connection broke and is being made again, or another command was let in first. */
  readonly onInterrupted?: (place: Place, reason: string) => void;
  /** All of these are asked now, because none has answered yet. */
  readonly onAsking?: (places: readonly Place[]) => void;
  readonly signal: AbortSignal;
  readonly clock?: Clock;
}

/** So long the first place is asked alone: milliseconds. */
const HEAD_START_MS = 2000;
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
 * Goes on until the caller leaves it, the signal aborts (then it ends), or no place is left: then it throws why. While the
 * first place does not answer the others are asked which of them is in charge. Reports that waited for somebody else are
 * left out.
 */
export async function* follow(places: readonly Place[], options: FollowOptions): AsyncGenerator<Seen> {
  let place = places[0];
  let failure: unknown;
  /** By their labels: a place that was found again is another object. */
  const failed = new Set<string>();
  while (place) {
    const at: Place = place;
    const others = places.filter(({ label }) => label !== at.label && !failed.has(label));
    try {
      for await (const seen of followUnlessTaken(at, others, options)) {
        if (seen.kind === "answer") failed.clear();
        yield seen;
      }
      return;
    } catch (error) {
      if (options.signal.aborted) return;
      if (!isGone(error)) throw error;
      // What the first of them said is what is wrong.
      if (failed.size === 0) failure = error;
      failed.add(at.label);
      place = error instanceof TakenOver ? error.by : await nextPlace(others, error, options);
      if (options.signal.aborted) return;
      if (place) yield { kind: "gone", place: at, reason: messageOf(error) };
    }
  }
  throw failure;
}

/** Another place is in charge, it says so itself. */
class TakenOver extends BentoError {
  readonly by: Place;

  constructor(by: Place) {
    super("already-ended", `${by.label} has the service now`);
    this.by = by;
  }
}

/** One place, until it ends; or until another one proves to be in charge before this one has said anything. */
async function* followUnlessTaken(
  place: Place,
  others: readonly Place[],
  options: FollowOptions,
): AsyncGenerator<Seen> {
  const turn = new AbortController();
  const signal = AbortSignal.any([options.signal, turn.signal]);
  const all = followRenewed(place, { ...options, signal }, others.length > 0);
  const taken = Promise.withResolvers<never>();
  taken.promise.catch(() => undefined);
  const cancel = lookForTaker(others, { ...options, place }, (by) => taken.reject(new TakenOver(by)));
  try {
    for (;;) {
      const { done, value } = await Promise.race([all.next(), taken.promise]);
      if (done === true) return;
      if (value.kind === "answer") cancel();
      yield value;
    }
  } finally {
    cancel();
    turn.abort(new Error("turned to another place"));
    void all.return(undefined).catch(() => undefined);
  }
}

/** After a head start of the first place, asks the others. Returns what ends it. */
function lookForTaker(
  others: readonly Place[],
  options: FollowOptions & { readonly place: Place },
  onTaker: (place: Place) => void,
): () => void {
  const { clock = systemClock, onAsking, place } = options;
  const ended = new AbortController();
  const signal = AbortSignal.any([options.signal, ended.signal]);
  const stop = clock.after(others.length > 0 ? HEAD_START_MS : 0, () => {
    if (others.length === 0 || signal.aborted) return;
    onAsking?.([place, ...others]);
    const look = async (other: Place) => {
      const found = await probe(other, { signal, clock });
      if (found.kind === "in-charge" && !signal.aborted) onTaker(found.place);
    };
    for (const other of others) void look(other);
  });
  return () => {
    stop();
    ended.abort(new Error("answered"));
  };
}

/**
 * Where to turn after a place has failed: to one that says that it is in charge, or to one that nobody is attached to. A
 * standby has one session: its load balancer's, while that one lives. To take it would make the standby believe that the
 * first one is gone. Where the first one said itself that it has ended there is nothing to break.
 * undefined: nowhere. Throws BentoError "balancer-out-of-reach".
 */
async function nextPlace(
  others: readonly Place[],
  failure: unknown,
  options: FollowOptions,
): Promise<Place | undefined> {
  const { signal, clock = systemClock, onAsking } = options;
  if (others.length === 0) return undefined;
  onAsking?.(others);
  const found = await firstInCharge(others, { signal, clock });
  const pick = (kind: Probe["kind"]) => found.find((one) => one.kind === kind)?.place;
  const held = pick("held");
  const known = pick("in-charge") ?? (held && !hasEnded(failure) ? undefined : pick("free"));
  if (known) return known;
  if (held && hasEnded(failure)) return held;
  if (held)
    throw new BentoError(
      "balancer-out-of-reach",
      "Cannot reach the load balancer: its box does not answer here, but its standby hears from it",
      { advice: "Try again later.", cause: failure },
    );
  return undefined;
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
      const newest = await at.findNewest?.(signal).catch(() => undefined);
      signal.throwIfAborted();
      const instance = newest?.instance;
      // One that stands by for somebody else is not to be disturbed.
      if (instance === undefined || instance === at.instance || newest?.role === "standby") throw error;
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
  const { instance } = place;
  if (instance === undefined) throw new BentoError("already-ended", "No load balancer runs there");
  const id = randomInt(1, 2 ** 31);
  const say = async (to: Session | undefined) => {
    if (everyMs !== undefined) await to?.send(encodeOwnerMessage({ watch: { everyMs, id } }));
    for (const message of options.say ?? []) await to?.send(encodeOwnerMessage(message));
  };
  const held: { session?: Session } = {};
  const stallMs = hasOther ? ATTACH_MS : undefined;
  const opened = await orStalled({ signal, clock, stallMs }, (until) =>
    place.client.open(instance, {
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
