// From what an owner wants of a circuit's hops to a path of fingerprints. Pure. The wishes are an untrusted program's,
// parsed and bounded by the caller; the relays are the consensus'.
// A first hop that the owner leaves open is one of tor's own guards and is never told to the owner. Where the machine
// hides (`firstHop: "guard"`), the owner cannot choose it: else its own relay would learn the machine's address.
// Spec: docs/spec/tor-firewall.md 4; path-spec 2.2 (no relay twice, one relay of a family and of a /16).

import { BentoError } from "../../base/errors.ts";
import { acceptsPort, areFamily, isUsable, pickByBandwidth, shareSubnet } from "../relay-list.ts";
import type { DirectoryRelay as Relay } from "./relay-directory.ts";

/** Hops of one circuit: relays take 8 RELAY_EARLY cells, one for each hop after the first (tor-spec 5.6). */
export const HOPS_MAX = 8;

export interface HopWish {
  /** All of these. */
  readonly flags?: readonly string[] | undefined;
  /** One of these, two letters in lower case. A relay whose country is unknown is in none. */
  readonly countries?: readonly string[] | undefined;
  /** A port that its exit summary accepts. */
  readonly exitPort?: number | undefined;
}

/** null: one of tor's own guards, for the first hop. A fingerprint: this relay. Else any that is as wished. */
export type Hop = null | string | HopWish;

export interface PathChoice {
  readonly relays: readonly Relay[];
  /** Fingerprints of tor's guards, first choice first. */
  readonly guards: readonly string[];
  readonly distinctSubnets: boolean;
  readonly firstHop: "any" | "guard";
  /** Hops that the circuit has already. */
  readonly after?: readonly string[];
}

/** Throws BentoError `tor-refused` for what is not allowed, `tor-no-path` where no relay is as wished. */
export function choosePath(hops: readonly Hop[], choice: PathChoice): string[] {
  const before = choice.after ?? [];
  if (hops.length < 1 || before.length + hops.length > HOPS_MAX)
    throw noPath(`${String(before.length + hops.length)} hops, expected 1 to ${String(HOPS_MAX)}`);
  const byFingerprint = new Map(choice.relays.map((relay) => [relay.fingerprint, relay]));
  // Those that the owner names stand first: the others are chosen around them.
  const path: (Relay | undefined)[] = hops.map((hop) =>
    typeof hop === "string" ? named(hop, byFingerprint) : undefined,
  );
  const isFirst = (index: number) => before.length + index === 0;
  const taken = () => [
    ...before.flatMap((fingerprint) => byFingerprint.get(fingerprint) ?? []),
    ...path.filter((relay) => relay !== undefined),
  ];
  for (const [index, hop] of [...hops.entries()].sort(
    ([, one], [, other]) => orderOf(one) - orderOf(other),
  )) {
    if (typeof hop === "string") {
      if (isFirst(index) && choice.firstHop === "guard") throw firstHopRefused();
      continue;
    }
    if (hop === null && !isFirst(index))
      throw new BentoError("tor-refused", "Cannot build circuit: only the first hop can be left to tor");
    if (isFirst(index) && hop !== null && choice.firstHop === "guard") throw firstHopRefused();
    const others = taken();
    const fits = (relay: Relay) => others.every((other) => isApart(relay, other, choice.distinctSubnets));
    path[index] = hop === null ? guard(choice, byFingerprint, fits) : wished(hop, choice.relays, fits);
  }
  const fingerprints = path.map((relay) => relay?.fingerprint ?? "");
  for (const [index, fingerprint] of fingerprints.entries()) {
    // Relays refuse to extend back to where the cell came from.
    if (fingerprint === (fingerprints[index - 1] ?? (index === 0 ? before.at(-1) : undefined)))
      throw noPath("the same relay twice in a row");
  }
  return fingerprints;
}

/** The rarer what is wished, the earlier: of guards there are some, and where nothing is wished any relay does. */
function orderOf(hop: Hop): number {
  if (hop === null) return 4;
  if (typeof hop === "string") return 0;
  if (hop.exitPort !== undefined) return 1;
  if (hop.countries !== undefined) return 2;
  return hop.flags === undefined ? 5 : 3;
}

function named(fingerprint: string, relays: ReadonlyMap<string, Relay>): Relay {
  const relay = relays.get(fingerprint.toUpperCase());
  if (!relay) throw noPath(`the consensus has no relay ${fingerprint.slice(0, 40)}`);
  return relay;
}

function guard(
  { guards }: PathChoice,
  relays: ReadonlyMap<string, Relay>,
  fits: (relay: Relay) => boolean,
): Relay {
  const found = guards
    .map((fingerprint) => relays.get(fingerprint))
    .find((relay) => relay !== undefined && fits(relay));
  // Does not say which: the owner is not to learn of tor's guards.
  if (!found) throw noPath("none of tor's guards goes together with the other hops");
  return found;
}

function wished(
  { flags = [], countries, exitPort }: HopWish,
  relays: readonly Relay[],
  fits: (relay: Relay) => boolean,
): Relay {
  const found = pickByBandwidth(
    relays.filter(
      (relay) =>
        isUsable(relay) &&
        flags.every((flag) => relay.flags.includes(flag)) &&
        (countries === undefined || (relay.country !== null && countries.includes(relay.country))) &&
        (exitPort === undefined ||
          (relay.exit !== null && !relay.flags.includes("BadExit") && acceptsPort(relay.exit, exitPort))) &&
        fits(relay),
    ),
  );
  if (!found) throw noPath("no relay is as wished");
  return found;
}

function isApart(one: Relay, other: Relay, distinctSubnets: boolean): boolean {
  return (
    one.fingerprint !== other.fingerprint &&
    !areFamily(one, other) &&
    (!distinctSubnets || !shareSubnet(one, other))
  );
}

function firstHopRefused(): BentoError {
  return new BentoError(
    "tor-refused",
    "Cannot build circuit: this box chooses the first hop itself; leave it open (null)",
  );
}

function noPath(why: string): BentoError {
  return new BentoError("tor-no-path", `Cannot build circuit: ${why}`);
}
