// Ending a load balancer and all that belongs to it: the function itself is asked, because it alone can end its replicas;
// then each box is asked whether it still knows the function, and made to forget it where it does. Where the first load
// balancer is gone, its standby is asked.

import { BentoError, messageOf } from "../../base/errors.ts";
import { follow, isGone, type Place } from "./follow.ts";

/** Replicas are on other boxes, which may be slow or gone: milliseconds. */
const STOP_MS = 120_000;
/** For one box to say whether it still knows the function. */
const CHECK_MS = 60_000;

export interface Stopped {
  /** What the function said; undefined where no load balancer could be asked. */
  readonly told: { readonly replicasEnded: number; readonly left: readonly string[] } | undefined;
  /** Of each box that had a load balancer: whether it says that it has none any more. */
  readonly places: readonly { readonly place: Place; readonly failure: string | undefined }[];
  /** Why no load balancer could be asked. */
  readonly failure: string | undefined;
}

/** Throws what the boxes break of the protocol, or the signal's reason. */
export async function stopBalancer(
  places: readonly Place[],
  options: { readonly signal: AbortSignal; readonly onGone?: (place: Place, reason: string) => void },
): Promise<Stopped> {
  const { signal } = options;
  let told: Stopped["told"];
  let failure: string | undefined;
  const say = [{ stop: true }] as const;
  const awaits = (answer: object) => "stopped" in answer;
  try {
    for await (const seen of follow(places, { say, awaits, answerMs: STOP_MS, signal })) {
      if (seen.kind === "gone") options.onGone?.(seen.place, seen.reason);
      if (seen.kind !== "answer" || !("stopped" in seen.answer)) continue;
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
  const ended = await Promise.all(
    places.map(async (place) => ({ place, failure: await ensureEnded(place, signal) })),
  );
  return { told, places: ended, failure };
}

/** undefined when the box says that it knows no such function; else what is in the way. */
export async function ensureEnded(
  { client, shutdownToken }: Pick<Place, "client" | "shutdownToken">,
  signal: AbortSignal,
): Promise<string | undefined> {
  const until = AbortSignal.any([signal, AbortSignal.timeout(CHECK_MS)]);
  try {
    await client.shutdown(shutdownToken, { signal: until });
    // An answer is a claim; that the token is unknown from now on is one that can be seen.
    await client.list(shutdownToken, { signal: until });
    return "it still knows the function";
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof BentoError && error.code === "bad-token") return undefined;
    return messageOf(error);
  }
}
