// Sends what the box reveals about itself: one JSON line per measurement, with its time.

import { defineFunction } from "bento/function";

/** The box measures once a second: asking more often brings nothing new. */
const INTERVAL_MS_MIN = 1000;
const INTERVAL_MS_MAX = 3_600_000;

export default defineFunction({
  /** `count` measurements (0 = until the client ends its input), `intervalMs` apart. */
  async invoke(session, env, count: unknown = 1, intervalMs: unknown = INTERVAL_MS_MIN) {
    if (!env.box) throw new Error("Cannot monitor: the box grants no facts about itself");
    const times = wholeNumber("count", count, 0, 1_000_000) || Number.POSITIVE_INFINITY;
    const pauseMs = wholeNumber("intervalMs", intervalMs, INTERVAL_MS_MIN, INTERVAL_MS_MAX);
    const stop = new AbortController();
    const signal = AbortSignal.any([session.signal, stop.signal]);
    if (times === Number.POSITIVE_INFINITY) void endOfInput(session).then(() => stop.abort());
    for (let at = 0; at < times; at++) {
      if (at > 0) await pause(pauseMs, signal);
      if (signal.aborted) return;
      await session.send(`${JSON.stringify({ time: Date.now(), ...(await env.box.facts()) })}\n`);
    }
  },
});

async function endOfInput(messages: AsyncIterable<unknown>): Promise<void> {
  for await (const _message of messages);
}

/** Arguments come as numbers, or as strings from a command line. */
function wholeNumber(name: string, value: unknown, min: number, max: number): number {
  const number = typeof value === "string" && /^\d{1,12}$/.test(value) ? Number(value) : value;
  if (typeof number === "number" && Number.isInteger(number) && number >= min && number <= max) return number;
  throw new Error(`Cannot monitor: ${name} is ${String(value).slice(0, 40)}, expected ${min} to ${max}`);
}

/** Ends early when the signal does. */
function pause(durationMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, durationMs);
    const end = () => {
      clearTimeout(timer);
      resolve();
    };
    if (signal.aborted) end();
    else signal.addEventListener("abort", end, { once: true });
  });
}
