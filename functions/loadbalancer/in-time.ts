// Waiting for a box, and not for ever: Tor tries for minutes to reach one that is dead.

import type { Bento, FarSession } from "bento/function";
import { orAborted } from "../../src/base/abort.ts";
import type { Clock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";

/** For a box to end what it has there, while the service is being stopped: milliseconds. */
export const END_MS = 15_000;

/** The promise's result; rejects with "box-timeout" after `limitMs`. The promise itself goes on. */
export async function inTime<T>(promise: Promise<T>, limitMs: number, clock: Clock): Promise<T> {
  const late = Promise.withResolvers<never>();
  const stop = clock.after(limitMs, () =>
    late.reject(new BentoError("box-timeout", `Cannot wait longer: no answer within ${limitMs / 1000} s`)),
  );
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    stop();
  }
}

/** A session with an instance that runs. One that is opened too late is left again. Throws what the box says, or "box-timeout". */
export async function openInTime(
  bento: Bento,
  { box, instance }: { readonly box: string; readonly instance: string },
  {
    clock,
    limitMs,
    signal,
  }: { readonly clock: Clock; readonly limitMs: number; readonly signal?: AbortSignal },
): Promise<FarSession> {
  const opening = bento.open(box, instance);
  try {
    const opened = inTime(opening, limitMs, clock);
    return await (signal ? orAborted(opened, signal) : opened);
  } catch (error) {
    opening.then(
      async (far) => far.detach(),
      () => undefined,
    );
    throw error;
  }
}
