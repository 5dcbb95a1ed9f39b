// Which time periods and shared random values descriptors belong to at a moment, and which directories keep them.
// Pure. All times are those of the consensus, not of our clock (rend-spec-v3 2.2.4).
// Spec: rend-spec-v3 2.2.1 (periods), 2.2.3 (ring), 2.2.4 (which period with which random value), srv-spec 1.3.

import { concat, utf8 } from "../../base/bytes.ts";
import type { TimePeriod } from "../crypto/blinding.ts";
import { sha3 } from "../crypto/primitives.ts";
import { type Consensus, supports } from "../directory/consensus.ts";
import type { Network, Relay } from "../directory/network.ts";
import { u64 } from "../fields.ts";

const MINUTE_MS = 60_000;
/** srv-spec: a protocol run has 12 rounds of commitments and 12 of reveals, a round is a voting interval. */
const RUN_ROUNDS = 24;
/** rend-spec-v3 2.2.1: periods begin 12 voting intervals after midnight. */
const OFFSET_ROUNDS = 12;

export interface PeriodOptions {
  /** TestingTorNetwork: periods last 24 voting intervals instead of a day, so that tests see them turn. */
  readonly isTestingNetwork?: boolean;
}

/** A period, and the random value that places its descriptors. */
export interface DescriptorPlace {
  readonly period: TimePeriod;
  /** 32 bytes; undefined: the consensus has none. */
  readonly random: Uint8Array | undefined;
}

function intervalMs({ freshUntilMs, validAfterMs }: Consensus): number {
  return freshUntilMs - validAfterMs;
}

/** The period that the consensus is in. */
export function currentPeriod(consensus: Consensus, options: PeriodOptions = {}): TimePeriod {
  const interval = intervalMs(consensus);
  const configured = Math.min(14_400, Math.max(5, consensus.parameters.get("hsdir_interval") ?? 1440));
  // C tor counts a period of a test network in whole minutes, too.
  const minutes = options.isTestingNetwork
    ? Math.max(1, Math.floor((interval * RUN_ROUNDS) / MINUTE_MS))
    : configured;
  const sinceOffset = consensus.validAfterMs - OFFSET_ROUNDS * interval;
  return { minutes, number: Math.floor(sinceOffset / (minutes * MINUTE_MS)) };
}

/** Unix milliseconds. */
export function periodStartMs(consensus: Consensus, { number, minutes }: TimePeriod): number {
  return number * minutes * MINUTE_MS + OFFSET_ROUNDS * intervalMs(consensus);
}

/** rend-spec-v3 2.2.4: between a new period and the next random value, the segments drawn with "-". */
export function isAfterPeriodBeforeRandom(consensus: Consensus, options: PeriodOptions = {}): boolean {
  const runMs = RUN_ROUNDS * intervalMs(consensus);
  const randomStartMs = Math.floor(consensus.validAfterMs / runMs) * runMs;
  const startMs = periodStartMs(consensus, currentPeriod(consensus, options));
  return startMs > randomStartMs && consensus.validAfterMs >= startMs;
}

/** rend-spec-v3 2.2.4.1: where clients look. */
export function clientPlace(consensus: Consensus, options: PeriodOptions = {}): DescriptorPlace {
  const { current, previous } = consensus.sharedRandom;
  const period = currentPeriod(consensus, options);
  return { period, random: isAfterPeriodBeforeRandom(consensus, options) ? current : previous };
}

/** rend-spec-v3 2.2.4.2: the two descriptors that a service keeps published. */
export function servicePlaces(
  consensus: Consensus,
  options: PeriodOptions = {},
): readonly [first: DescriptorPlace, second: DescriptorPlace] {
  const { current, previous } = consensus.sharedRandom;
  const period = currentPeriod(consensus, options);
  const shifted = (by: number) => ({ ...period, number: period.number + by });
  return isAfterPeriodBeforeRandom(consensus, options)
    ? [
        { period: shifted(-1), random: previous },
        { period, random: current },
      ]
    : [
        { period, random: previous },
        { period: shifted(1), random: current },
      ];
}

/**
 * The directories of one descriptor: after each of the replicas' places on the ring of relays, the next `spread` that
 * were not taken before (rend-spec-v3 2.2.3). In order of replicas and places.
 */
export function directoriesOf(
  network: Network,
  blindedKey: Uint8Array,
  { period, random }: DescriptorPlace,
  use: "store" | "fetch",
): Relay[] {
  const { parameters, relays: entries } = network.consensus;
  const bounded = (name: string, normal: number, max: number) =>
    Math.min(max, Math.max(1, parameters.get(name) ?? normal));
  const replicas = bounded("hsdir_n_replicas", 2, 16);
  const spread = bounded(`hsdir_spread_${use}`, use === "store" ? 4 : 3, 128);
  const value = random ?? disasterValue(period);
  const isDirectory = new Set(
    entries
      .filter((one) => one.flags.has("HSDir") && supports(one, "HSDir", 2))
      .map((one) => one.microdescriptor),
  );
  const ring = network.relays
    .filter(({ microdescriptor }) => isDirectory.has(microdescriptor.digest))
    .map((relay) => ({ relay, index: relayIndex(relay, value, period) }))
    .sort((a, b) => Buffer.compare(a.index, b.index));
  const chosen = new Set<Relay>();
  for (let replica = 1; replica <= replicas; replica++) {
    const place = serviceIndex(blindedKey, replica, period);
    const first = ring.findIndex(({ index }) => Buffer.compare(index, place) > 0);
    const from = first < 0 ? 0 : first;
    const wanted = Math.min(ring.length, chosen.size + spread);
    for (let step = 0; step < ring.length && chosen.size < wanted; step++) {
      const entry = ring[(from + step) % ring.length];
      if (entry) chosen.add(entry.relay);
    }
  }
  return [...chosen];
}

function relayIndex(relay: Relay, random: Uint8Array, { number, minutes }: TimePeriod): Uint8Array {
  return sha3(utf8("node-idx"), relay.identity.ed25519, random, u64(number), u64(minutes));
}

function serviceIndex(blindedKey: Uint8Array, replica: number, { number, minutes }: TimePeriod): Uint8Array {
  return sha3(utf8("store-at-idx"), blindedKey, u64(replica), u64(minutes), u64(number));
}

/** srv-spec 5.? / rend-spec-v3 2.2.4: what everybody uses when the authorities agreed on no value. */
function disasterValue({ number, minutes }: TimePeriod): Uint8Array {
  return sha3(concat([utf8("shared-random-disaster"), u64(minutes), u64(number)]));
}
