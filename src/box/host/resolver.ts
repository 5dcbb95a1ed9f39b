// Names to addresses, for functions (spec/policy 6.2): asks DNS servers directly, never /etc/hosts or the system's
// resolver, which would answer for the operator's private names. One answer is final: what it holds is checked and
// connected to, and no second question is asked. DNS servers of the function's own zone are hostile.

import { Resolver } from "node:dns/promises";
import type { Clock } from "../../base/clock.ts";
import { BentoError, systemCode } from "../../base/errors.ts";
import { canonicalIp, type IpAddress, parseIp } from "../../base/ip-address.ts";
import type { TcpAddress } from "../config.ts";

const RESOLVER_LIMITS = {
  /** Addresses taken from one answer of each family: more are never tried. */
  addressesMax: 8,
  /** Milliseconds until a name counts as not answering. Tor's own exits wait about as long. */
  timeoutMs: 15_000,
  /** Milliseconds until a server is asked again, or the next one. */
  retryMs: 3_000,
} as const;

const NOT_FOUND = new Set(["ENOTFOUND", "ENODATA", "EBADRESP", "EFORMERR", "EBADNAME", "ENOTIMP"]);

export class NameResolver {
  readonly #servers: readonly string[];
  readonly #clock: Clock;

  /** @param servers empty: those of /etc/resolv.conf */
  constructor(servers: readonly TcpAddress[], clock: Clock) {
    this.#servers = servers.map(({ host, port }) =>
      host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`,
    );
    this.#clock = clock;
  }

  /**
   * The addresses of a name, IPv6 first and in turns. Throws BentoError "net-unreachable" when it has none,
   * "net-timeout", or the signal's reason.
   * @param name as `parseHost` gives it: lower case, no trailing dot
   */
  async resolve(name: string, signal: AbortSignal): Promise<readonly IpAddress[]> {
    signal.throwIfAborted();
    // One resolver a question: its own source port, no cache shared between functions, and cancel ends this only.
    const resolver = new Resolver({ timeout: RESOLVER_LIMITS.retryMs, tries: 3 });
    if (this.#servers.length > 0) resolver.setServers(this.#servers);
    let timedOut = false;
    const stop = () => {
      resolver.cancel();
    };
    const stopTimer = this.#clock.after(RESOLVER_LIMITS.timeoutMs, () => {
      timedOut = true;
      stop();
    });
    signal.addEventListener("abort", stop, { once: true });
    try {
      const answers = await Promise.allSettled([resolver.resolve6(name), resolver.resolve4(name)]);
      signal.throwIfAborted();
      const [six = [], four = []] = answers.map((answer) =>
        answer.status === "fulfilled" ? addressesOf(answer.value) : [],
      );
      if (six.length + four.length > 0) return inTurns(six, four);
      throw failureOf(name, timedOut, answers);
    } finally {
      stopTimer();
      signal.removeEventListener("abort", stop);
    }
  }
}

function addressesOf(texts: readonly string[]): IpAddress[] {
  return texts
    .slice(0, RESOLVER_LIMITS.addressesMax)
    .flatMap((text) => parseIp(text) ?? [])
    .map(canonicalIp);
}

/** RFC 8305 section 4: families alternate, so that one that does not work costs one attempt. */
function inTurns<T>(first: readonly T[], second: readonly T[]): T[] {
  const length = Math.max(first.length, second.length);
  return Array.from({ length }, (_, index) => [
    ...first.slice(index, index + 1),
    ...second.slice(index, index + 1),
  ]).flat();
}

function failureOf(
  name: string,
  timedOut: boolean,
  answers: readonly PromiseSettledResult<unknown>[],
): BentoError {
  const codes = answers.flatMap((answer) =>
    answer.status === "rejected" ? [systemCode(answer.reason)] : [],
  );
  if (timedOut || codes.includes("ETIMEOUT")) {
    return new BentoError("net-timeout", `Cannot connect: no answer for the name ${name}`);
  }
  const isMissing = codes.every((code) => code !== undefined && NOT_FOUND.has(code));
  const what = isMissing ? `the name ${name} has no address` : `the name ${name} cannot be resolved`;
  return new BentoError("net-unreachable", `Cannot connect: ${what}`);
}
