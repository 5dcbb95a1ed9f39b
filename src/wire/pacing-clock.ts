// The time that pacers go by where they run, in a function's sandbox and in a client alike: in fractions of a
// millisecond, and no jump when somebody sets the machine's clock. Tests pass one of their own (pace.ts).

import { systemClock } from "../base/clock.ts";
import type { PaceClock } from "./pace.ts";

export const pacingClock: PaceClock = {
  now: () => performance.now(),
  sleep: (delayMs, signal) => systemClock.sleep(delayMs, signal),
};
