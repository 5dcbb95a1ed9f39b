// Exit policies: which addresses and ports a relay lets its circuits reach. Pure.
// The text comes from the operator's own tor; we enforce it on every connection that a function asks for.
// Spec: dir-spec 2.1.3 "exitpattern", tor(1) ExitPolicy.

import { ProtocolError } from "./errors.ts";
import {
  type IpAddress,
  type IpRange,
  inRange,
  parseIp,
  parseRange,
  range,
  reachableAddresses,
} from "./ip-address.ts";

export interface PolicyRule {
  readonly accept: boolean;
  /** undefined: every address of both versions. */
  readonly ranges: readonly IpRange[] | undefined;
  readonly portMin: number;
  readonly portMax: number;
}

/** Rules in order; the first that matches decides. */
export type ExitPolicy = readonly PolicyRule[];

/** Rules in one policy. Real ones have tens; block lists a few thousand. */
export const POLICY_RULES_MAX = 20_000;

const EVERY_IPV4 = parseRange("0.0.0.0/0");
const EVERY_IPV6 = parseRange("::/0");
// What tor's own `private` alias stands for (policies.c, private_nets), without the relay's own addresses.
const PRIVATE = [
  "0.0.0.0/8",
  "169.254.0.0/16",
  "127.0.0.0/8",
  "192.168.0.0/16",
  "10.0.0.0/8",
  "172.16.0.0/12",
  "::/8",
  "fc00::/7",
  "fe80::/10",
  "fec0::/10",
  "ff00::/8",
  "::/127",
].map(parseRange);

// Samples, as `GETINFO exit-policy/full` gives them, one per line or separated by commas:
//   reject 0.0.0.0/8:*
//   reject *6:*
//   accept6 [2001:db8::]/32:80-443
//   reject 18.0.0.0/255.0.0.0:25
//   accept *:*
//   exitpattern = addrspec ":" portspec
//   addrspec = "*" / "*4" / "*6" / "private" / ip4 ["/" (bits / mask)] / "[" ip6 "]" ["/" bits]
//   portspec = "*" / port ["-" port]
/** Reads a whole policy. Throws ProtocolError `tor-exit-policy` naming the line. */
export function parseExitPolicy(text: string): ExitPolicy {
  const lines = text
    .split(/[,\n]/u)
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
  if (lines.length > POLICY_RULES_MAX)
    throw new ProtocolError(
      "tor-exit-policy",
      `Cannot read exit policy: ${String(lines.length)} rules, at most ${String(POLICY_RULES_MAX)}`,
    );
  return lines.map(parseRule);
}

function parseRule(line: string): PolicyRule {
  const match = /^(accept|reject)(6?)\s+(\S+):(\*|[0-9]{1,5}(?:-[0-9]{1,5})?)$/u.exec(line);
  if (!match) throw malformed(line);
  const [, action, six, spec = "", ports = ""] = match;
  const [portMin, portMax] = parsePorts(ports, line);
  const ranges = parseRanges(spec, line);
  return {
    accept: action === "accept",
    // tor(1): accept6 and reject6 apply to IPv6 only, whatever the address part says.
    ranges: six === "6" ? (ranges ?? [EVERY_IPV6]).filter(({ version }) => version === 6) : ranges,
    portMin,
    portMax,
  };
}

function parsePorts(text: string, line: string): [number, number] {
  if (text === "*") return [1, 65_535];
  const [low = "", high = low] = text.split("-");
  const [min, max] = [Number(low), Number(high)];
  if (min > max || max > 65_535) throw malformed(line);
  return [min, max];
}

function parseRanges(spec: string, line: string): readonly IpRange[] | undefined {
  switch (spec) {
    case "*":
      return undefined;
    case "*4":
      return [EVERY_IPV4];
    case "*6":
      return [EVERY_IPV6];
    case "private":
      return PRIVATE;
    default: {
      const [base = "", mask, ...more] = spec.split("/");
      const isBracketed = base.startsWith("[") && base.endsWith("]");
      const address = parseIp(isBracketed ? base.slice(1, -1) : base);
      if (!address || isBracketed !== (address.version === 6) || more.length > 0) throw malformed(line);
      const width = address.version === 4 ? 32 : 128;
      const prefixBits = mask === undefined ? width : parseMask(mask, address.version);
      if (prefixBits === undefined || prefixBits > width) throw malformed(line);
      return [range(address, prefixBits)];
    }
  }
}

function parseMask(mask: string, version: 4 | 6): number | undefined {
  if (/^[0-9]{1,3}$/u.test(mask)) return Number(mask);
  const address = version === 4 ? parseIp(mask) : undefined;
  if (address?.version !== 4) return undefined;
  const bits = address.bits.toString(2).padStart(32, "0");
  return /^1*0*$/u.test(bits) ? bits.lastIndexOf("1") + 1 : undefined;
}

/**
 * Whether the policy lets a stream reach `address` at `port` (1-65535), for every address that packets to it may end
 * at (see `reachableAddresses`). Where no rule matches, the answer is no: tor would say yes, but writes a last rule for
 * everything into each policy it reports, so a policy without one was cut off.
 */
export function allows(policy: ExitPolicy, address: IpAddress, port: number): boolean {
  if (!Number.isInteger(port) || port < 1 || port > 65_535) return false;
  return reachableAddresses(address).every(
    (reachable) => policy.find((rule) => matches(rule, reachable, port))?.accept ?? false,
  );
}

/**
 * Whether the policy leaves anything of a destination: some port of `portMin` to `portMax` at `address`, or at some
 * address when undefined. Never false where `allows` could be true; an accepting rule counts although narrower
 * rejections before it may leave nothing of it.
 */
export function leaves(
  policy: ExitPolicy,
  address: IpAddress | undefined,
  portMin: number,
  portMax: number,
): boolean {
  if (!address) return leavesPort(policy, portMin, portMax);
  return reachableAddresses(address).every((reachable) =>
    leavesPort(
      policy.filter(({ ranges }) => ranges === undefined || ranges.some((some) => inRange(reachable, some))),
      portMin,
      portMax,
      reachable.version,
    ),
  );
}

/** @param version of the one address that all of `policy` matches */
function leavesPort(policy: ExitPolicy, portMin: number, portMax: number, version?: 4 | 6): boolean {
  // Between two borders of rules every port fares alike.
  const borders = policy.flatMap((rule) => [rule.portMin, rule.portMax + 1]);
  const ports = new Set([portMin, ...borders.filter((port) => port > portMin && port <= portMax)]);
  return [...ports].some((port) => {
    const open = new Set<4 | 6>(version ? [version] : [4, 6]);
    for (const rule of policy) {
      if (port < rule.portMin || port > rule.portMax) continue;
      const ranges = rule.ranges ?? [EVERY_IPV4, EVERY_IPV6];
      if (rule.accept && ranges.some((some) => open.has(some.version))) return true;
      for (const some of ranges)
        if (version !== undefined || some.prefixBits === 0) open.delete(some.version);
    }
    return false;
  });
}

function matches(rule: PolicyRule, address: IpAddress, port: number): boolean {
  if (port < rule.portMin || port > rule.portMax) return false;
  return rule.ranges === undefined || rule.ranges.some((some) => inRange(address, some));
}

function malformed(line: string): ProtocolError {
  return new ProtocolError("tor-exit-policy", `Cannot read exit policy: "${line.slice(0, 100)}" is no rule`);
}
