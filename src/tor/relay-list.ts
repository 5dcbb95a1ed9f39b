// What the consensus says about relays, as tor's control port gives it, and choosing among them. Pure, no I/O.
// The text comes from tor, which has checked its signatures; it is public.
// Spec: dir-spec 3.4.1 (router status entries), 3.3 and 5.2 (microdescriptors), control-spec 3.9 (ns/all, entry-guards).

import { randomInt } from "node:crypto";
import { inRange, parseIp, range } from "../base/ip-address.ts";

export interface ListedRelay {
  /** 40 hex digits, upper case. */
  readonly fingerprint: string;
  readonly nickname: string;
  /** IPv4, then IPv6 where it has one, as text. */
  readonly addresses: readonly string[];
  readonly orPort: number;
  readonly flags: readonly string[];
  /** Consensus weight; kilobytes a second where nobody measured. */
  readonly bandwidth: number;
  /** First 20 bytes of the digest that names its descriptor, base64 without padding. */
  readonly digest: string | undefined;
}

/** Relays of one answer: the public network has about 9,000. */
const RELAYS_MAX = 100_000;

// Sample of ns/all:
//   r a0 cMPeFA9BmyBdF7lWj1a+tWXTH+c xVdM..(27) 2026-11-20 19:25:40 127.1.1.1 21001 0
//   a [2001:db8::1]:9001
//   s Exit Fast Guard HSDir Running Stable V2Dir Valid
//   w Bandwidth=10000
/** Entries that cannot be read are left out. */
export function parseRelays(text: string): ListedRelay[] {
  const relays: ListedRelay[] = [];
  for (const entry of text.split(/^(?=r )/mu)) {
    const r =
      /^r ([A-Za-z0-9]{1,19}) ([A-Za-z0-9+/]{27}) (?:([A-Za-z0-9+/]{27}) )?\S+ \S+ ([0-9.]+) ([0-9]+) [0-9]+$/mu.exec(
        entry,
      );
    if (!r || relays.length >= RELAYS_MAX) continue;
    const ipv6 = /^a \[([0-9a-fA-F:.]+)\]:/mu.exec(entry)?.[1];
    relays.push({
      fingerprint: Buffer.from(r[2] ?? "", "base64")
        .toString("hex")
        .toUpperCase(),
      nickname: r[1] ?? "",
      addresses: [r[4] ?? "", ...(ipv6 === undefined ? [] : [ipv6])],
      orPort: Number(r[5]),
      flags: /^s (.*)$/mu.exec(entry)?.[1]?.split(" ") ?? [],
      bandwidth: Number(/^w Bandwidth=([0-9]+)/mu.exec(entry)?.[1] ?? 0),
      digest: r[3],
    });
  }
  return relays;
}

/** Whether tor itself would put the relay into a circuit. */
export function isUsable({ flags }: Pick<ListedRelay, "flags">): boolean {
  return ["Fast", "Running", "Valid"].every((flag) => flags.includes(flag));
}

// Sample of entry-guards: "$F3A1..(40 hex)~r0 up" or "... never-connected", "... down 2026-..", "... unusable ..."
/** Fingerprints of tor's guards that may be used now, first choice first. */
export function parseGuards(text: string): string[] {
  return [...text.matchAll(/^\$?([0-9A-F]{40})\S* (?:up|never-connected)/gmu)].map((match) => match[1] ?? "");
}

/** What a relay lets out of Tor, in short: the `p` line of its microdescriptor. */
export interface ExitSummary {
  readonly kind: "accept" | "reject";
  /** Ports and ranges, as `80,443,8000-8100`. */
  readonly ports: string;
}

// Sample: "p accept 80,443,8000-8100" or "p reject 25"
/** undefined where the microdescriptor has none: nothing is let out. */
export function parseExitSummary(microdescriptor: string): ExitSummary | undefined {
  const [, kind, ports] = /^p (accept|reject) ([0-9,-]+)$/mu.exec(microdescriptor) ?? [];
  return ports === undefined ? undefined : { kind: kind === "accept" ? "accept" : "reject", ports };
}

export function acceptsPort({ kind, ports }: ExitSummary, port: number): boolean {
  const isListed = ports.split(",").some((part) => {
    const [low = "", high = low] = part.split("-");
    return port >= Number(low) && port <= Number(high);
  });
  return (kind === "accept") === isListed;
}

// Sample: "id ed25519 Yj4RDR3wTLT1gHjoe9SyRbA+..(43)", dir-spec 3.3
/** A relay's Ed25519 identity, 64 hex digits; undefined where the microdescriptor has none. */
export function parseEd25519(microdescriptor: string): string | undefined {
  const base64 = /^id ed25519 ([A-Za-z0-9+/]{43})$/mu.exec(microdescriptor)?.[1];
  return base64 === undefined ? undefined : Buffer.from(base64, "base64").toString("hex");
}

/** Whom a relay names as of its own operator. */
export interface Family {
  /** Fingerprints (40 hex digits) and nicknames in lower case. */
  readonly members: ReadonlySet<string>;
  readonly ids: ReadonlySet<string>;
}

export const NO_FAMILY: Family = { members: new Set(), ids: new Set() };

// Samples: "family $F3A1..(40 hex) $0B2C..=nick other" and "family-ids ed25519:AAAA.. ed25519:BBBB.."
/** From a microdescriptor or a whole descriptor. */
export function parseFamily(descriptor: string): Family {
  const line = (keyword: string) => new RegExp(`^${keyword} (.*)$`, "mu").exec(descriptor)?.[1] ?? "";
  const members = membersOf(line("family"));
  const ids = new Set(line("family-ids").split(" ").filter(Boolean));
  return members.size === 0 && ids.size === 0 ? NO_FAMILY : { members, ids };
}

/** `$HEX`, `$HEX~nick`, `$HEX=nick`, `HEX` or `nick`, between spaces or (torrc) commas. */
export function membersOf(text: string): ReadonlySet<string> {
  const members = text.split(/[\s,]+/u).filter(Boolean);
  return new Set(
    members.map((member) => {
      const hex = /^\$?([0-9A-Fa-f]{40})(?:[=~].*)?$/u.exec(member)?.[1];
      return hex ? hex.toUpperCase() : member.toLowerCase();
    }),
  );
}

type Named = Pick<ListedRelay, "fingerprint" | "nickname">;

export function names(members: ReadonlySet<string>, relay: Named): boolean {
  return members.has(relay.fingerprint) || members.has(relay.nickname.toLowerCase());
}

export function areFamily(
  one: Named & { readonly family: Family },
  other: Named & { readonly family: Family },
): boolean {
  if ([...one.family.ids].some((id) => other.family.ids.has(id))) return true;
  // A family holds where both say so: nobody can push others out of paths by naming them.
  return names(one.family.members, other) && names(other.family.members, one);
}

/** Whether both lie in one /16, or IPv6 /32: tor takes no two such relays for a circuit. */
export function shareSubnet(
  one: Pick<ListedRelay, "addresses">,
  other: Pick<ListedRelay, "addresses">,
): boolean {
  return one.addresses.some((text) => {
    const address = parseIp(text);
    if (!address) return false;
    const subnet = range(address, address.version === 4 ? 16 : 32);
    return other.addresses.some((otherText) => {
      const otherAddress = parseIp(otherText);
      return otherAddress !== undefined && inRange(otherAddress, subnet);
    });
  });
}

/** One of them, more often the more bandwidth it has; undefined of none. */
export function pickByBandwidth<T extends { readonly bandwidth: number }>(
  relays: readonly T[],
): T | undefined {
  const total = relays.reduce((sum, { bandwidth }) => sum + bandwidth, 0);
  if (total === 0) return relays[relays.length === 0 ? 0 : randomInt(relays.length)];
  let at = randomInt(total);
  return relays.find(({ bandwidth }) => {
    at -= bandwidth;
    return at < 0;
  });
}
