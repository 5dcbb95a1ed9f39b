// Torrc texts of a private network. Pure. Each line that is not plain says which trap it avoids.
// Spec: tor(1), "TESTING NETWORK OPTIONS".

import type { PlannedNode, TestnetPlan } from "./plan.ts";

export interface TorrcInput {
  readonly plan: TestnetPlan;
  /** `DirAuthority ...` lines. */
  readonly authorityLines: readonly string[];
  readonly dataDir: string;
  /** Equal measured bandwidths for all relays, see `bandwidthFile`. */
  readonly bandwidthPath: string;
  /** A client's SOCKS port as a Unix socket, besides TCP. */
  readonly socksPath?: string | undefined;
  /** resolv.conf for the exits. */
  readonly resolverPath: string;
}

/** Before the first consensus: seconds between attempts, and for votes and for signatures each. The least tor takes. */
export const FIRST_VOTING_INTERVAL_S = 5;
export const FIRST_VOTING_DELAY_S = 2;
/** Seconds between consensuses from then on. Onion services' time periods are 24 of them. */
const VOTING_INTERVAL_S = 20;

/** Of a relay for which nothing else was asked: kilobytes per second, as measured for the consensus. */
const BANDWIDTH = 10_000;

/** The torrc without control port lines, which the process adds. */
export function torrcOf(node: PlannedNode, input: TorrcInput): string {
  const lines = [
    "TestingTorNetwork 1",
    ...input.authorityLines,
    `DataDirectory ${input.dataDir}`,
    `Nickname ${node.name}`,
    "Log notice stdout",
    "SafeLogging 0",
    "ShutdownWaitLength 0",
    "PathsNeededToBuildCircuits 0.67",
    // Layer-2 guards out of few relays make paths that relays refuse ("extend back to the previous hop").
    "VanguardsLiteEnabled 0",
    // KIST, the default, adds up to 10 ms per hop; on loopback that would be all of the latency.
    "Schedulers Vanilla",
    // Everything this node sends, exit traffic too, leaves from its own loopback address and so stays on the machine.
    `OutboundBindAddress ${node.address}`,
    "AddressDisableIPv6 1",
  ];
  switch (node.kind) {
    case "client":
      lines.push(
        `SocksPort ${node.address}:${String(node.socksPort)} ExtendedErrors`,
        ...(input.socksPath === undefined ? [] : [`SocksPort unix:${input.socksPath} ExtendedErrors`]),
        // Tor 0.4.9 holds optimistic data back on conflux circuits, so every exit stream would cost a round trip more.
        "ConfluxEnabled 0",
      );
      break;
    case "authority":
      lines.push(...relayLines(node), ...authorityOptions(node, input), "ExitRelay 0");
      break;
    case "relay":
      lines.push(...relayLines(node), "ExitRelay 0");
      break;
    case "exit":
      lines.push(...relayLines(node), ...exitLines(node, input));
      break;
  }
  return `${[...lines, ...node.extraTorrc].join("\n")}\n`;
}

function relayLines(node: PlannedNode): string[] {
  const advertised = `${node.address}:${String(node.orPort)}`;
  const ports =
    node.listenPort === node.orPort
      ? [`ORPort ${advertised} IPv4Only`]
      : // The world is told of the link proxy; the relay listens behind it.
        [
          `ORPort ${advertised} IPv4Only NoListen`,
          `ORPort ${node.address}:${String(node.listenPort)} IPv4Only NoAdvertise`,
        ];
  return [
    `Address ${node.address}`,
    ...ports,
    "AssumeReachable 1",
    `ContactInfo ${node.name}@testnet.invalid`,
    "SocksPort 0",
  ];
}

function authorityOptions(node: PlannedNode, input: TorrcInput): string[] {
  return [
    `DirPort ${node.address}:${String(node.dirPort)}`,
    "AuthoritativeDirectory 1",
    "V3AuthoritativeDirectory 1",
    `TestingV3AuthInitialVotingInterval ${String(FIRST_VOTING_INTERVAL_S)}`,
    `TestingV3AuthInitialVoteDelay ${String(FIRST_VOTING_DELAY_S)}`,
    `TestingV3AuthInitialDistDelay ${String(FIRST_VOTING_DELAY_S)}`,
    `V3AuthVotingInterval ${String(VOTING_INTERVAL_S)}`,
    "V3AuthVoteDelay 4",
    "V3AuthDistDelay 4",
    "V3AuthNIntervalsValid 3",
    "TestingDirAuthVoteExit *",
    "TestingDirAuthVoteGuard *",
    "TestingDirAuthVoteHSDir *",
    "TestingMinExitFlagThreshold 0",
    "MinUptimeHidServDirectoryV2 0",
    `V3BandwidthsFile ${input.bandwidthPath}`,
  ];
}

function exitLines(node: PlannedNode, input: TorrcInput): string[] {
  const hasPolicy = node.extraTorrc.some((line) => /^\s*ExitPolicy\s/iu.test(line));
  return [
    "ExitRelay 1",
    "ExitPolicyRejectPrivate 0",
    // A policy of loopback addresses alone has no summary in the microdescriptor, and clients would see no exit at all.
    ...(hasPolicy ? [] : ["ExitPolicy accept *:*"]),
    `ServerDNSResolvConfFile ${input.resolverPath}`,
    // Otherwise exits look up real names when they start.
    "ServerDNSDetectHijacking 0",
    "ServerDNSAllowBrokenConfig 1",
  ];
}

/** One `DirAuthority` line. */
export function authorityLine(node: PlannedNode, keys: { fingerprint: string; v3Identity: string }): string {
  return `DirAuthority ${node.name} orport=${String(node.orPort)} no-v2 v3ident=${keys.v3Identity} ${node.address}:${String(node.dirPort)} ${keys.fingerprint}`;
}

// Spec: bandwidth-file-spec. Sample:
//   1795116340
//   node_id=$F3A1..(40 hex) nick=a0 bw=10000
/**
 * Without measured values a relay has weight 0 until its own bandwidth test ends; the first to finish then gets nearly
 * all traffic, paths repeat it, and the first onion connections stall for up to a minute.
 */
export function bandwidthFile(
  relays: readonly { name: string; fingerprint: string }[],
  nowMs: number,
  differing: Readonly<Record<string, number>> = {},
): string {
  const lines = relays.map(
    ({ name, fingerprint }) =>
      `node_id=$${fingerprint} nick=${name} bw=${String(differing[name] ?? BANDWIDTH)}`,
  );
  return [String(Math.floor(nowMs / 1000)), ...lines, ""].join("\n");
}
