// Addresses as numbers. The guard in front of every connection a function asks for stands on this file, so text is
// read strictly, every spelling that a C library would take for an address is treated as that address, and every
// form that carries an IPv4 address inside an IPv6 one is opened.
// Specs: RFC 4291 (text forms), RFC 6052 (64:ff9b::/96), RFC 3056 (6to4), RFC 4380 (Teredo),
// IANA special-purpose address registries for IPv4 and IPv6.

import { BentoError } from "./errors.ts";

export interface IpAddress {
  readonly version: 4 | 6;
  /** 32 or 128 bits, network order. */
  readonly bits: bigint;
}

/**
 * Reads an address in its standard text form: dotted decimal without leading zeros, or RFC 4291 without zone.
 * Anything else is undefined; see `parseHost` for what else other programs would take for an address.
 */
export function parseIp(text: string): IpAddress | undefined {
  return parseIpv4(text) ?? parseIpv6(text);
}

// Sample: 192.0.2.1
function parseIpv4(text: string): IpAddress | undefined {
  const octets = text.split(".");
  if (octets.length !== 4) return undefined;
  let bits = 0n;
  for (const octet of octets) {
    if (!/^(?:0|[1-9][0-9]{0,2})$/u.test(octet) || Number(octet) > 255) return undefined;
    bits = (bits << 8n) | BigInt(octet);
  }
  return { version: 4, bits };
}

// Samples: 2001:db8::1, ::, ::ffff:192.0.2.1
function parseIpv6(text: string): IpAddress | undefined {
  if (text.length > 45 || !text.includes(":")) return undefined;
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const head = parseGroups(halves[0] ?? "", halves.length === 1);
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? "", true) : [];
  if (!head || !tail) return undefined;
  const missing = 8 - head.length - tail.length;
  // RFC 4291 2.2: "::" stands for one or more groups.
  if (halves.length === 2 ? missing < 1 : missing !== 0) return undefined;
  const groups = [...head, ...Array.from({ length: missing }, () => 0), ...tail];
  let bits = 0n;
  for (const group of groups) bits = (bits << 16n) | BigInt(group);
  return { version: 6, bits };
}

function parseGroups(text: string, mayEndInIpv4: boolean): number[] | undefined {
  if (text === "") return [];
  const parts = text.split(":");
  const groups: number[] = [];
  for (const [index, part] of parts.entries()) {
    const embedded = mayEndInIpv4 && index === parts.length - 1 ? parseIpv4(part) : undefined;
    if (embedded) groups.push(Number(embedded.bits >> 16n), Number(embedded.bits & 0xffffn));
    else if (/^[0-9A-Fa-f]{1,4}$/u.test(part)) groups.push(Number.parseInt(part, 16));
    else return undefined;
  }
  return groups;
}

/** Standard text: dotted decimal, or RFC 5952 (lower case, longest run of zero groups shortened). */
export function formatIp(address: IpAddress): string {
  if (address.version === 4)
    return [24n, 16n, 8n, 0n].map((shift) => String((address.bits >> shift) & 0xffn)).join(".");
  const groups = Array.from({ length: 8 }, (_, index) =>
    ((address.bits >> BigInt(112 - 16 * index)) & 0xffffn).toString(16),
  );
  let start = -1;
  let length = 1;
  for (let at = 0; at < 8; at++) {
    let end = at;
    while (end < 8 && groups[end] === "0") end++;
    if (end - at > length) [start, length] = [at, end - at];
  }
  if (start < 0) return groups.join(":");
  return `${groups.slice(0, start).join(":")}::${groups.slice(start + length).join(":")}`;
}

/** What a host in a request means. Names are lower case, without the trailing dot, and look like nothing else. */
export type Host =
  | { readonly kind: "ip"; readonly address: IpAddress }
  | { readonly kind: "name"; readonly name: string }
  | { readonly kind: "refused"; readonly reason: string };

/**
 * Decides whether `text` is an address or a name. Besides the standard forms it reads `[v6]`, a trailing dot, and the
 * short, decimal, octal and hexadecimal forms that inet_aton takes (`127.1`, `0x7f000001`, `017700000001`): each
 * means the address a C library would connect to. What ends in a number but is no such form is refused, never a name.
 */
export function parseHost(text: string): Host {
  const bare = text.startsWith("[") && text.endsWith("]") ? text.slice(1, -1) : text;
  const standard = parseIp(bare);
  if (standard) return { kind: "ip", address: canonicalIp(standard) };
  if (bare !== text || text.includes(":")) return { kind: "refused", reason: "is no IPv6 address" };
  const name = (text.endsWith(".") ? text.slice(0, -1) : text).toLowerCase();
  // Length first: what follows splits and matches.
  if (name.length === 0 || name.length > 253) return { kind: "refused", reason: "is not 1-253 characters" };
  const labels = name.split(".");
  // URL standard, "ends in a number": resolvers try such a host as an address first.
  if (/^(?:[0-9]+|0x[0-9a-f]*)$/u.test(labels.at(-1) ?? "")) {
    const address = parseLegacyIpv4(labels);
    return address
      ? { kind: "ip", address }
      : { kind: "refused", reason: "is neither an address nor a name" };
  }
  if (!labels.every((label) => /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/u.test(label)))
    return { kind: "refused", reason: "is not letters, digits and hyphens in labels of 1-63" };
  return { kind: "name", name };
}

// inet_aton: 1-4 numbers, each decimal, 0-octal or 0x-hex; the last fills the bytes that are left.
function parseLegacyIpv4(labels: readonly string[]): IpAddress | undefined {
  if (labels.length > 4) return undefined;
  const numbers: bigint[] = [];
  for (const label of labels) {
    if (/^0x[0-9a-f]{0,16}$/u.test(label)) numbers.push(label === "0x" ? 0n : BigInt(label));
    else if (/^0[0-7]{0,20}$/u.test(label))
      numbers.push(label === "0" ? 0n : BigInt(`0o${label.slice(1) || "0"}`));
    else if (/^[1-9][0-9]{0,15}$/u.test(label)) numbers.push(BigInt(label));
    else return undefined;
  }
  const last = numbers.pop() ?? 0n;
  if (numbers.some((number) => number > 255n) || last >= 1n << BigInt(8 * (4 - numbers.length)))
    return undefined;
  const head = numbers.reduce((bits, number) => (bits << 8n) | number, 0n);
  return { version: 4, bits: (head << BigInt(8 * (4 - numbers.length))) | last };
}

/** Opens IPv4-mapped addresses (::ffff:0:0/96): the kernel connects such a socket over IPv4. Others stay as they are. */
export function canonicalIp(address: IpAddress): IpAddress {
  if (address.version === 6 && address.bits >> 32n === 0xffffn)
    return { version: 4, bits: address.bits & 0xffff_ffffn };
  return address;
}

/**
 * Every address that packets to `address` may end at: itself, and the IPv4 address that a translator or tunnel on the
 * way would take out of it. A policy must allow all of them.
 */
export function reachableAddresses(address: IpAddress): IpAddress[] {
  const outer = canonicalIp(address);
  const inner = embeddedIpv4(outer);
  return inner ? [outer, inner] : [outer];
}

function embeddedIpv4({ version, bits }: IpAddress): IpAddress | undefined {
  if (version === 4) return undefined;
  const v4 = (value: bigint): IpAddress => ({ version: 4, bits: value & 0xffff_ffffn });
  // NAT64 well-known prefix 64:ff9b::/96, and its translated form ::ffff:0:a.b.c.d (RFC 2765, still honoured by some stacks).
  if (bits >> 32n === 0x64ff9b_0000_0000_0000_0000n) return v4(bits);
  if (bits >> 32n === 0xffff_0000n) return v4(bits);
  // 64:ff9b:1::/48 (RFC 8215) may hold the address at several places; it is special-purpose and refused as such.
  if (bits >> 112n === 0x2002n) return v4(bits >> 80n);
  // Teredo: the client's address is in the last 32 bits, inverted.
  if (bits >> 96n === 0x2001_0000n) return v4(~bits & 0xffff_ffffn);
  // IPv4-compatible ::a.b.c.d (deprecated), apart from :: and ::1.
  if (bits >> 32n === 0n && bits > 1n) return v4(bits);
  return undefined;
}

export interface IpRange {
  readonly version: 4 | 6;
  readonly bits: bigint;
  readonly prefixBits: number;
}

/** Reads `address/prefix`. Bits after the prefix are cleared. Throws BentoError `tor-bad-address`. */
export function parseRange(text: string): IpRange {
  const [base = "", prefix = "", ...more] = text.split("/");
  const address = parseIp(base);
  const width = address?.version === 4 ? 32 : 128;
  if (!address || more.length > 0 || !/^(?:0|[1-9][0-9]{0,2})$/u.test(prefix) || Number(prefix) > width)
    throw new BentoError("tor-bad-address", `Cannot read address range: "${text}", wanted address/prefix`);
  return range(address, Number(prefix));
}

/** The range of all addresses that share the first `prefixBits` bits with `address`. */
export function range(address: IpAddress, prefixBits: number): IpRange {
  const hostBits = BigInt((address.version === 4 ? 32 : 128) - prefixBits);
  return { version: address.version, bits: (address.bits >> hostBits) << hostBits, prefixBits };
}

export function inRange(address: IpAddress, { version, bits, prefixBits }: IpRange): boolean {
  if (address.version !== version) return false;
  const hostBits = BigInt((version === 4 ? 32 : 128) - prefixBits);
  return address.bits >> hostBits === bits >> hostBits;
}

// IANA IPv4 and IPv6 Special-Purpose Address Registries, multicast, and what IANA has not given out. The first match
// decides; undefined marks the exceptions that are globally reachable.
const SPECIAL: readonly (readonly [range: IpRange, name: string | undefined])[] = (
  [
    ["0.0.0.0/8", "this network"],
    ["10.0.0.0/8", "private"],
    ["100.64.0.0/10", "carrier-grade NAT"],
    ["127.0.0.0/8", "loopback"],
    ["169.254.0.0/16", "link-local"],
    ["172.16.0.0/12", "private"],
    ["192.0.0.9/32", undefined],
    ["192.0.0.10/32", undefined],
    ["192.0.0.0/24", "IETF protocol assignments"],
    ["192.0.2.0/24", "documentation"],
    ["192.88.99.0/24", "6to4 relay"],
    ["192.168.0.0/16", "private"],
    ["198.18.0.0/15", "benchmarking"],
    ["198.51.100.0/24", "documentation"],
    ["203.0.113.0/24", "documentation"],
    ["224.0.0.0/4", "multicast"],
    ["240.0.0.0/4", "reserved"],
    ["::/128", "unspecified"],
    ["::1/128", "loopback"],
    ["::ffff:0:0/96", "IPv4-mapped"],
    ["64:ff9b::/96", undefined],
    ["2001:1::1/128", undefined],
    ["2001:1::2/128", undefined],
    ["2001:1::3/128", undefined],
    ["2001:3::/32", undefined],
    ["2001:4:112::/48", undefined],
    ["2001:20::/28", undefined],
    ["2001:30::/28", undefined],
    ["2001::/23", "IETF protocol assignments"],
    ["2001:db8::/32", "documentation"],
    ["2002::/16", "6to4"],
    ["3fff::/20", "documentation"],
    ["2000::/3", undefined],
    ["100::/64", "discard"],
    ["64:ff9b:1::/48", "local-use translation"],
    ["5f00::/16", "segment routing"],
    ["fc00::/7", "unique local"],
    ["fe80::/10", "link-local"],
    ["fec0::/10", "site-local"],
    ["ff00::/8", "multicast"],
    ["::/0", "not allocated"],
  ] as const
).map(([text, name]) => [parseRange(text), name]);

/**
 * The name of the special-purpose range that makes `address`, or an address inside it, not a public unicast address;
 * undefined when it is public.
 */
export function specialRange(address: IpAddress): string | undefined {
  for (const reachable of reachableAddresses(address)) {
    const name = SPECIAL.find(([special]) => inRange(reachable, special))?.[1];
    if (name !== undefined) return name;
  }
  return undefined;
}
