// Guards: the few relays that all circuits of a long-lived client or service begin at, so that an adversary who runs
// many relays does not become a first hop sooner or later. Kept over restarts: `toJSON` and `restore`.
// Spec: guard-spec 4 (sampled and primary guards, lifetimes, retries), path-spec 5. Left out: bridges, restricted sets.

import { BentoError } from "../../base/errors.ts";
import type { Network, Relay } from "./network.ts";
import { type PathRules, pickWeighted } from "./path.ts";

interface Guard {
  readonly fingerprint: string;
  readonly addedMs: number;
  confirmedMs: number | undefined;
  /** Since when it could not be reached; undefined: reachable, or never tried. */
  failingMs: number | undefined;
  triedMs: number;
}

const DAY_MS = 86_400_000;
const MINUTE_MS = 60_000;
/** guard-spec A: {MIN_FILTERED_SAMPLE} 20, {N_PRIMARY_GUARDS} 3, {GUARD_LIFETIME} 120 days, {GUARD_CONFIRMED_MIN_LIFETIME} 60. */
const SAMPLE_MAX = 20;
const PRIMARY = 3;
const LIFETIME_MS = 120 * DAY_MS;
const CONFIRMED_LIFETIME_MS = 60 * DAY_MS;
/** guard-spec 4.6: how soon a guard that failed is tried again, by how long it has been failing. */
const RETRY: readonly (readonly [failingMs: number, retryMs: number])[] = [
  [6 * 60 * MINUTE_MS, 10 * MINUTE_MS],
  [4 * DAY_MS, 90 * MINUTE_MS],
  [7 * DAY_MS, 4 * 60 * MINUTE_MS],
  [Number.POSITIVE_INFINITY, 9 * 60 * MINUTE_MS],
];

export class GuardSet {
  #guards: Guard[] = [];
  readonly #rules: PathRules;

  constructor(rules: PathRules = {}) {
    this.#rules = rules;
  }

  /** Takes back what `toJSON` gave. Throws BentoError `onion-guards` when it is no such thing. */
  static restore(state: unknown, rules: PathRules = {}): GuardSet {
    const set = new GuardSet(rules);
    if (!Array.isArray(state) || state.length > SAMPLE_MAX || !state.every(isGuard))
      throw new BentoError("onion-guards", "Cannot restore guards: the state is of another kind");
    set.#guards = state.map((guard) => ({ ...guard }));
    return set;
  }

  toJSON(): readonly Guard[] {
    return this.#guards;
  }

  /**
   * The guard to use now: the first of the primary ones that is not failing; else any of the sample. Adds to the sample
   * as needed. `except`: not this one, for circuits that end there. Throws BentoError `onion-path` in a network without guards.
   */
  choose(network: Network, nowMs: number, except?: Relay): Relay {
    this.#expire(network, nowMs);
    for (let tries = 0; tries <= SAMPLE_MAX; tries++) {
      const usable = this.#ordered().flatMap((guard) => {
        const relay = network.relay(guard.fingerprint);
        return relay && relay !== except && isTryable(guard, nowMs) ? [relay] : [];
      });
      const [first] = usable;
      if (first && (usable.length >= PRIMARY || !this.#sample(network, nowMs))) return first;
      if (!first && !this.#sample(network, nowMs)) break;
    }
    // All have failed lately: try the one that was tried longest ago, rather than new ones for ever.
    const oldest = this.#guards
      .filter(({ fingerprint }) => network.relay(fingerprint) && network.relay(fingerprint) !== except)
      .toSorted((a, b) => a.triedMs - b.triedMs)[0];
    const relay = oldest && network.relay(oldest.fingerprint);
    if (!relay) throw new BentoError("onion-path", "Cannot choose a guard: the consensus has none");
    return relay;
  }

  /** A circuit through it worked. */
  succeeded(relay: Relay, nowMs: number): void {
    const guard = this.#guards.find(({ fingerprint }) => fingerprint === relay.fingerprint);
    if (!guard) return;
    guard.confirmedMs ??= nowMs;
    guard.failingMs = undefined;
    guard.triedMs = nowMs;
  }

  /** It could not be reached, or refused the first hop. */
  failed(relay: Relay, nowMs: number): void {
    const guard = this.#guards.find(({ fingerprint }) => fingerprint === relay.fingerprint);
    if (!guard) return;
    guard.failingMs ??= nowMs;
    guard.triedMs = nowMs;
  }

  /** guard-spec 4.4: confirmed ones first, in the order of their confirmation, then as sampled. */
  #ordered(): Guard[] {
    return this.#guards.toSorted(
      (a, b) =>
        (a.confirmedMs ?? Number.MAX_SAFE_INTEGER) - (b.confirmedMs ?? Number.MAX_SAFE_INTEGER) ||
        this.#guards.indexOf(a) - this.#guards.indexOf(b),
    );
  }

  /** guard-spec 4.2. False when there is nothing to add. */
  #sample(network: Network, nowMs: number): boolean {
    if (this.#guards.length >= SAMPLE_MAX) return false;
    const known = new Set(this.#guards.map(({ fingerprint }) => fingerprint));
    const candidates = network.relays.filter(
      ({ flags, fingerprint }) =>
        flags.has("Guard") &&
        flags.has("Fast") &&
        flags.has("Stable") &&
        !known.has(fingerprint) &&
        this.#rules.avoid?.has(fingerprint) !== true,
    );
    const chosen = pickWeighted(candidates, (relay) => network.weight(relay, "guard"), this.#rules.uniform);
    if (!chosen) return false;
    this.#guards.push({
      fingerprint: chosen.fingerprint,
      // guard-spec 4.2: a random earlier day, so that the day says nothing and not all expire at once.
      addedMs: nowMs - Math.floor(Math.random() * (LIFETIME_MS / 10)),
      confirmedMs: undefined,
      failingMs: undefined,
      triedMs: 0,
    });
    return true;
  }

  /** guard-spec 4.2: too old, or gone from the consensus when there is room for others. */
  #expire(network: Network, nowMs: number): void {
    this.#guards = this.#guards.filter(({ fingerprint, addedMs, confirmedMs }) => {
      const isOld =
        nowMs - addedMs > LIFETIME_MS &&
        (confirmedMs === undefined || nowMs - confirmedMs > CONFIRMED_LIFETIME_MS);
      const isGone = this.#guards.length >= SAMPLE_MAX && !network.relay(fingerprint);
      return !isOld && !isGone;
    });
  }
}

function isTryable({ failingMs, triedMs }: Guard, nowMs: number): boolean {
  if (failingMs === undefined) return true;
  const retryMs = RETRY.find(([limit]) => nowMs - failingMs < limit)?.[1] ?? 0;
  return nowMs - triedMs >= retryMs;
}

function isGuard(value: unknown): value is Guard {
  if (typeof value !== "object" || value === null) return false;
  const { fingerprint, addedMs, confirmedMs, failingMs, triedMs } = value as Record<string, unknown>;
  const isTime = (time: unknown) => typeof time === "number" && Number.isFinite(time);
  return (
    typeof fingerprint === "string" &&
    /^[0-9A-F]{40}$/u.test(fingerprint) &&
    isTime(addedMs) &&
    isTime(triedMs) &&
    (confirmedMs === undefined || isTime(confirmedMs)) &&
    (failingMs === undefined || isTime(failingMs))
  );
}
