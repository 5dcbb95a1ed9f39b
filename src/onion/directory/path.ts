// Choosing paths: relays at random by bandwidth, none twice, no two that one operator runs, no two of one network.
// Pure but for the randomness that the caller may give.
// Spec: path-spec 2.2 (constraints), 5 and guard-spec (the first hop comes from GuardSet), dir-spec 3.8.3 (weights).

import { BentoError } from "../../base/errors.ts";
import type { CircuitRelay } from "../circuit/circuit.ts";
import { random } from "../crypto/primitives.ts";
import { type Network, type Position, type Relay, sameFamily, sameSubnet } from "./network.ts";

export interface PathRequest {
  readonly guard: Relay;
  /** Relays between the first and the last. */
  readonly middles: number;
  /** The last relay: given, or any exit that lets this port out, or any relay at all. */
  readonly end: CircuitRelay | { readonly exitPort: number } | "any";
  readonly rules?: PathRules;
}

export interface PathRules {
  /** False in networks whose relays share one address (EnforceDistinctSubnets). Default true. */
  readonly distinctSubnets?: boolean;
  /** Relays that must not be in the path, by fingerprint. */
  readonly avoid?: ReadonlySet<string>;
  /** A number in [0, 1). */
  readonly uniform?: () => number;
}

/**
 * A path from `guard` to the end. When the end is given and is the guard itself, one more relay comes between: relays
 * refuse to extend a circuit back to the hop that it came from. Throws BentoError `onion-path` when too few relays fit.
 */
export function pickPath(network: Network, { guard, middles, end, rules = {} }: PathRequest): CircuitRelay[] {
  const last = end === "any" || "exitPort" in end ? pickEnd(network, guard, end, rules) : end;
  // An end that others chose need not be in the consensus; then there is nothing to compare.
  const known = network.relayOf(last.identity);
  const isLoop = known === guard;
  const count = isLoop ? Math.max(2, middles) : middles;
  const path = [guard];
  for (let left = count; left > 0; left--) {
    const others = known ? [...path, known] : path;
    path.push(pickRelay(network, network.relays, "middle", others, rules));
  }
  return [...path, last];
}

function pickEnd(
  network: Network,
  guard: Relay,
  end: "any" | { readonly exitPort: number },
  rules: PathRules,
): Relay {
  return end === "any"
    ? pickRelay(network, network.relays, "middle", [guard], rules)
    : pickRelay(network, network.exitsTo(end.exitPort), "exit", [guard], rules);
}

/** One of `candidates` that gets along with `others`, by its weight at `position`. Throws BentoError `onion-path`. */
export function pickRelay(
  network: Network,
  candidates: readonly Relay[],
  position: Position,
  others: readonly Relay[],
  rules: PathRules = {},
): Relay {
  const fitting = candidates.filter(
    (relay) =>
      rules.avoid?.has(relay.fingerprint) !== true &&
      others.every((other) => mayShare(relay, other, rules.distinctSubnets ?? true)),
  );
  const chosen = pickWeighted(fitting, (relay) => network.weight(relay, position), rules.uniform);
  if (!chosen)
    throw new BentoError(
      "onion-path",
      `Cannot choose a path: none of ${String(candidates.length)} relays fits as ${position}`,
    );
  return chosen;
}

/** Whether two relays may stand in one path. */
export function mayShare(a: Relay, b: Relay, distinctSubnets: boolean): boolean {
  return a.fingerprint !== b.fingerprint && !sameFamily(a, b) && !(distinctSubnets && sameSubnet(a, b));
}

/** By weight; evenly when all weights are zero, as in a network that nobody has measured yet. */
export function pickWeighted<T>(
  candidates: readonly T[],
  weightOf: (candidate: T) => number,
  uniform: () => number = uniformRandom,
): T | undefined {
  const weights = candidates.map(weightOf);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (total <= 0) return candidates[Math.floor(uniform() * candidates.length)];
  let left = uniform() * total;
  for (const [index, weight] of weights.entries()) {
    left -= weight;
    if (left < 0) return candidates[index];
  }
  return candidates.at(-1);
}

/** 48 random bits: which path is taken must not be guessed. */
function uniformRandom(): number {
  let value = 0;
  for (const byte of random(6)) value = value * 256 + byte;
  return value / 2 ** 48;
}
