// The time that pacers go by where they run, in a function's sandbox and in a client alike: in fractions of a
// millisecond, and no jump when somebody sets the machine's clock. Tests pass one of their own (pace.ts).

import type { PaceClock } from "./pace.ts";

export const pacingClock: PaceClock = {
  now: () => performance.now(),
  sleep: async (delayMs, signal) => {
    signal?.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, delayMs);
    const onAbort = () => {
      reject(signal?.reason as Error);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      // A session sleeps once for each cell: what stayed on its signal would grow with every one.
      signal?.removeEventListener("abort", onAbort);
    }
  },
};
