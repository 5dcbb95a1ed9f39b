// Ending a load balancer and all that belongs to it: the function itself is asked, because it alone can end its replicas;
// each box is asked whether it still knows the function, and made to forget it where it does. Where the first load
// balancer is gone, its standby is asked. What can be asked at the same time is: a dead box must not hold up the others.

import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, messageOf } from "../../base/errors.ts";
import { orStalled } from "../dropbox/retry.ts";
import { follow, isGone, type Place } from "./follow.ts";

/** Replicas are on other boxes, which may be slow or gone: milliseconds. */
const STOP_MS = 60_000;
/** For one box to say whether it still knows the function. */
const CHECK_MS = 20_000;

export interface Stopped {
  /** What the function said; undefined where no load balancer could be asked. */
  readonly told: { readonly replicasEnded: number; readonly left: readonly string[] } | undefined;
  /** Of each box that had a load balancer: whether it says that it has none any more. */
  readonly places: readonly { readonly place: Place; readonly failure: string | undefined }[];
  /** Why no load balancer could be asked. */
  readonly failure: string | undefined;
}

export interface StopOptions {
  readonly signal: AbortSignal;
  readonly clock?: Clock;
  readonly onGone?: (place: Place, reason: string) => void;
  /** All of these are asked now, because none has answered yet. */
  readonly onAsking?: (places: readonly Place[]) => void;
  /** This one is in charge, and ends its replicas. */
  readonly onStopping?: (place: Place) => void;
  /** What is left to be waited for: these boxes, for their word. */
  readonly onChecking?: (places: readonly Place[]) => void;
}

/** Throws what the boxes break of the protocol, or the signal's reason. */
export async function stopBalancer(places: readonly Place[], options: StopOptions): Promise<Stopped> {
  const { signal, clock = systemClock } = options;
  const checks = new Checks(places, { signal, clock });
  let told: Stopped["told"];
  let failure: string | undefined;
  const say = [{ stop: true }] as const;
  const awaits = (answer: object) => "stopped" in answer;
  const { onAsking } = options;
  try {
    for await (const seen of follow(places, {
      say,
      // A report says that it is the one in charge: then the others are not needed any more.
      everyMs: 0,
      awaits,
      answerMs: STOP_MS,
      signal,
      clock,
      ...(onAsking ? { onAsking } : {}),
    })) {
      if (seen.kind === "gone") {
        options.onGone?.(seen.place, seen.reason);
        checks.begin(seen.place);
      }
      if (seen.kind !== "answer") continue;
      if ("report" in seen.answer) {
        options.onStopping?.(seen.place);
        checks.beginOthers(seen.place);
      }
      if (!("stopped" in seen.answer)) continue;
      const { replicasEnded, left = [] } = seen.answer.stopped;
      told = { replicasEnded, left };
      break;
    }
  } catch (error) {
    // Among them: it lives, out of our reach. Its standby must not be ended behind its back.
    if (!isGone(error)) throw error;
    failure = messageOf(error);
  }
  signal.throwIfAborted();
  for (const place of places) checks.begin(place);
  if (checks.pending.length > 0) options.onChecking?.(checks.pending);
  return { told, places: await checks.results(), failure };
}

interface CheckOptions {
  readonly signal: AbortSignal;
  readonly clock: Clock;
}

/** Boxes that are made to forget the function, each by itself. */
class Checks {
  readonly #places: readonly Place[];
  readonly #options: CheckOptions;
  readonly #running = new Map<string, Promise<string | undefined>>();
  readonly #done = new Set<string>();

  constructor(places: readonly Place[], options: CheckOptions) {
    this.#places = places;
    this.#options = options;
  }

  begin(place: Place): void {
    const { label } = place;
    if (this.#running.has(label)) return;
    const check = ensureEnded(place, this.#options).finally(() => this.#done.add(label));
    check.catch(() => undefined);
    this.#running.set(label, check);
  }

  beginOthers(but: Place): void {
    for (const place of this.#places) if (place.label !== but.label) this.begin(place);
  }

  /** Those that have not answered yet. */
  get pending(): Place[] {
    return this.#places.filter(({ label }) => !this.#done.has(label));
  }

  async results(): Promise<Stopped["places"]> {
    return await Promise.all(
      this.#places.map(async (place) => ({ place, failure: await this.#running.get(place.label) })),
    );
  }
}

/** undefined when the box says that it knows no such function; else what is in the way. */
async function ensureEnded(
  { client, shutdownToken }: Pick<Place, "client" | "shutdownToken">,
  { signal, clock }: CheckOptions,
): Promise<string | undefined> {
  try {
    return await orStalled({ signal, clock, stallMs: CHECK_MS }, async (until) => {
      await client.shutdown(shutdownToken, { signal: until });
      // An answer is a claim; that the token is unknown from now on is one that can be seen.
      await client.list(shutdownToken, { signal: until });
      return "it still knows the function";
    });
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof BentoError && error.code === "bad-token") return undefined;
    return messageOf(error);
  }
}
