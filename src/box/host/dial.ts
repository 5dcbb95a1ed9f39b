// Opens one TCP connection to the first of several addresses that answers (RFC 8305, "Happy Eyeballs"): the next
// address is tried when one fails or takes long. Every address was checked before; none is looked up here.

import { connect, type Socket } from "node:net";
import type { Clock } from "../../base/clock.ts";
import { BentoError, systemCode } from "../../base/errors.ts";
import { formatIp, type IpAddress } from "../../base/ip-address.ts";

const DIAL_LIMITS = {
  /** Addresses tried for one connection. */
  attemptsMax: 6,
  /** Milliseconds before the next address gets its turn while one is silent: RFC 8305 section 5. */
  nextAttemptMs: 250,
  /** Milliseconds for all attempts together. */
  timeoutMs: 30_000,
} as const;

/**
 * A connected socket, half-open ends allowed, nothing read yet. Throws BentoError "net-unreachable" when every
 * address refused, "net-timeout", or the signal's reason. No attempt outlives the call.
 */
export async function dial(
  addresses: readonly IpAddress[],
  port: number,
  options: { readonly signal: AbortSignal; readonly clock: Clock },
): Promise<Socket> {
  const { signal, clock } = options;
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const waiting = addresses.slice(0, DIAL_LIMITS.attemptsMax);
  const pending = new Set<Socket>();
  let reason = "there is no address";
  let stopNext: () => void = () => undefined;

  const tryNext = () => {
    stopNext();
    const address = waiting.shift();
    if (!address) {
      if (pending.size === 0) reject(new BentoError("net-unreachable", `Cannot connect: ${reason}`));
      return;
    }
    const socket = connect({ host: formatIp(address), port, allowHalfOpen: true, noDelay: true });
    pending.add(socket);
    socket.once("error", (error) => {
      pending.delete(socket);
      reason = systemCode(error) === "ECONNREFUSED" ? "the far end refuses" : "the far end cannot be reached";
      tryNext();
    });
    socket.once("connect", () => {
      pending.delete(socket);
      resolve(socket);
    });
    if (waiting.length > 0) stopNext = clock.after(DIAL_LIMITS.nextAttemptMs, tryNext);
  };
  const onAbort = () => {
    reject(signal.reason as Error);
  };
  const stopTimeout = clock.after(DIAL_LIMITS.timeoutMs, () => {
    reject(new BentoError("net-timeout", "Cannot connect: no address answers in time"));
  });
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    tryNext();
    const socket = await promise;
    socket.removeAllListeners("error");
    return socket;
  } finally {
    stopNext();
    stopTimeout();
    signal.removeEventListener("abort", onAbort);
    // Their errors, and a connect that comes a moment too late, concern nobody any more.
    waiting.length = 0;
    for (const socket of pending) {
      socket.removeAllListeners();
      socket.on("error", () => undefined);
      socket.destroy();
    }
  }
}
