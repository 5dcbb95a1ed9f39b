// Waiting for a box, and not for ever: Tor tries for minutes to reach one that is dead.

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
