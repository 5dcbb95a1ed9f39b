// What a place where a load balancer may be has to say, without taking anybody's session: whether it is in charge, waits for
// another one to die, or has nothing. The boxes are untrusted; so is what they say about each other.

import type { Clock } from "../../base/clock.ts";
import { orStalled } from "../dropbox/retry.ts";
import type { Place } from "./follow.ts";

export type Probe =
  /** It says that it has the service. `place` names the instance that does. */
  | { readonly kind: "in-charge"; readonly place: Place }
  /** Something runs that nobody is attached to. */
  | { readonly kind: "free"; readonly place: Place }
  /** A standby whose load balancer is attached to it. */
  | { readonly kind: "held"; readonly place: Place }
  /** Nothing runs there. */
  | { readonly kind: "empty"; readonly place: Place }
  /** Its box did not answer. */
  | { readonly kind: "unknown"; readonly place: Place };

/** For one box to answer: milliseconds. */
const PROBE_MS = 30_000;

interface ProbeOptions {
  readonly signal: AbortSignal;
  readonly clock: Clock;
}

/** Never rejects. */
export async function probe(place: Place, { signal, clock }: ProbeOptions): Promise<Probe> {
  try {
    return await orStalled({ signal, clock, stallMs: PROBE_MS }, async (until) => ask(place, until));
  } catch {
    return { kind: "unknown", place };
  }
}

/** All at once. Resolves when one is in charge, or all have answered: with those that have, in the order of `places`. */
export async function firstInCharge(
  places: readonly Place[],
  { signal, clock }: ProbeOptions,
): Promise<readonly Probe[]> {
  const enough = new AbortController();
  const until = AbortSignal.any([signal, enough.signal]);
  return await Promise.all(
    places.map(async (place) => {
      const found = await probe(place, { signal: until, clock });
      if (found.kind === "in-charge") enough.abort(new Error("one is in charge"));
      return found;
    }),
  );
}

async function ask(place: Place, signal: AbortSignal): Promise<Probe> {
  const { client, shutdownToken, findNewest } = place;
  // Of one that says nothing of itself, its box still says whether somebody is attached.
  const newest = await findNewest?.(signal).catch(() => undefined);
  signal.throwIfAborted();
  const at: Place = { ...place, instance: newest?.instance ?? place.instance };
  if (newest?.role === "primary" && at.instance !== undefined) return { kind: "in-charge", place: at };
  const { instances } = await client.list(shutdownToken, { signal });
  const running = instances.filter(({ outcome }) => !outcome);
  if (running.some(({ attached }) => attached)) return { kind: "held", place: at };
  return { kind: running.length > 0 && at.instance !== undefined ? "free" : "empty", place: at };
}
