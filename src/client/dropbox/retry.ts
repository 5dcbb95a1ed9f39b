// Trying again after a lost circuit, and only then: what a box or a function says does not change by asking again.

import type { Clock } from "../../base/clock.ts";
import { BentoError, ProtocolError, systemCode } from "../../base/errors.ts";
import { BoxError } from "../../wire/error-code.ts";

/** Pauses between attempts: the first, doubling up to the second. */
const PAUSE_MS = 500;
const PAUSE_MS_MAX = 16_000;

export interface RetryOptions {
  readonly clock: Clock;
  readonly signal: AbortSignal;
  /** Attempts in a row that made no progress. */
  readonly attemptsMax: number;
  readonly onRetry?: ((retry: { readonly reason: string; readonly delayMs: number }) => void) | undefined;
}

/** Calls `attempt` until it succeeds, fails for good, or failed too often without having called `progress`. */
export async function withRetries<T>(
  attempt: (progress: () => void) => Promise<T>,
  options: RetryOptions,
): Promise<T> {
  const { clock, signal, attemptsMax } = options;
  for (let failures = 0; ; ) {
    try {
      return await attempt(() => {
        failures = 0;
      });
    } catch (error) {
      signal.throwIfAborted();
      failures++;
      if (failures >= attemptsMax || !isPassing(error)) throw error;
      const delayMs = Math.min(PAUSE_MS_MAX, PAUSE_MS * 2 ** (failures - 1));
      options.onRetry?.({ reason: error instanceof Error ? error.message : String(error), delayMs });
      await clock.sleep(delayMs, signal);
    }
  }
}

const PASSING_BOX_CODES: ReadonlySet<string> = new Set([
  "box-full",
  "too-many-instances",
  "slow-request",
  "taken-over",
]);

/** Whether the next attempt may go better: connections, never answers. */
export function isPassing(error: unknown): boolean {
  if (error instanceof BoxError) return PASSING_BOX_CODES.has(error.code);
  if (error instanceof ProtocolError) return false;
  if (!(error instanceof BentoError)) return systemCode(error) !== undefined;
  return (
    error.code.startsWith("tor-") ||
    ["connection-lost", "input-lost", "box-unreachable", "box-timeout", "stalled"].includes(error.code)
  );
}

/** Runs `attempt` with a signal that aborts it, with "stalled", after `stallMs`; without a bound when that is absent. */
export async function orStalled<T>(
  bounds: { readonly signal: AbortSignal; readonly clock: Clock; readonly stallMs: number | undefined },
  attempt: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const { signal, clock, stallMs } = bounds;
  if (stallMs === undefined) return attempt(signal);
  const late = new AbortController();
  const cancel = clock.after(stallMs, () => {
    late.abort(new BentoError("stalled", `No answer within ${stallMs / 1000} s`));
  });
  try {
    return await attempt(AbortSignal.any([signal, late.signal]));
  } finally {
    cancel();
  }
}
