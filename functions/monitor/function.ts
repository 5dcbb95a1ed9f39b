// Sends what the box reveals about its load: one JSON line per measurement.

import { defineFunction } from "bento/function";

export default defineFunction({
  /** `count` measurements, `intervalMs` apart. */
  async invoke(session, env, count: number = 1, intervalMs: number = 1000) {
    if (!env.box) throw new Error("Cannot monitor: the box grants no facts about itself");
    for (let at = 0; at < count && !session.signal.aborted; at++) {
      if (at > 0) await pause(intervalMs, session.signal);
      await session.send(`${JSON.stringify(await env.box.facts())}\n`);
    }
  },
});

/** Ends early when the instance must stop. */
function pause(durationMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, durationMs);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
