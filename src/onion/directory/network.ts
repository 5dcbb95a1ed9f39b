// The Tor network as a client knows it: relays of a verified consensus whose microdescriptors are known, ready to build
// circuits through, with the rules for who may stand in one path.
// Spec: path-spec 2.2 (constraints), dir-spec 3.8.3 (weights), tor-spec 9 (subprotocols).

import type { CircuitRelay } from "../circuit/circuit.ts";
import { type VegasParameters, vegasParameters } from "../circuit/vegas.ts";
import { equal } from "../crypto/primitives.ts";
import { hex } from "../fields.ts";
import { type Consensus, type ConsensusRelay, supports } from "./consensus.ts";
import { letsOut, type Microdescriptor } from "./microdescriptor.ts";

export interface Relay extends CircuitRelay {
  readonly nickname: string;
  /** Fingerprint: 40 upper-case hex digits. */
  readonly fingerprint: string;
  readonly flags: ReadonlySet<string>;
  readonly bandwidth: number;
  /** Answers ntor-v3 and congestion control (FlowCtrl=2, Relay=4). */
  readonly hasCongestionControl: boolean;
  readonly microdescriptor: Microdescriptor;
}

export type Position = "guard" | "middle" | "exit";

export class Network {
  readonly consensus: Consensus;
  readonly relays: readonly Relay[];
  readonly #byFingerprint: ReadonlyMap<string, Relay>;
  readonly #byEd25519: ReadonlyMap<string, Relay>;

  /** @param consensus verified. Relays without a microdescriptor of the right digest, or not running, are left out. */
  constructor(consensus: Consensus, microdescriptors: Iterable<Microdescriptor>) {
    this.consensus = consensus;
    const byDigest = new Map([...microdescriptors].map((one) => [one.digest, one]));
    this.relays = consensus.relays.flatMap((entry) => {
      const microdescriptor = byDigest.get(entry.microdescriptor);
      return microdescriptor && isUsable(entry) ? [relayOf(entry, microdescriptor)] : [];
    });
    this.#byFingerprint = new Map(this.relays.map((relay) => [relay.fingerprint, relay]));
    this.#byEd25519 = new Map(this.relays.map((relay) => [hex(relay.identity.ed25519), relay]));
  }

  /** By fingerprint, any case. */
  relay(fingerprint: string): Relay | undefined {
    return this.#byFingerprint.get(fingerprint.toUpperCase());
  }

  /** The relay with exactly these identities, if it is in the consensus. */
  relayOf(identity: CircuitRelay["identity"]): Relay | undefined {
    const relay = this.#byEd25519.get(hex(identity.ed25519));
    return relay && equal(relay.identity.rsa, identity.rsa) ? relay : undefined;
  }

  /** Congestion control for a circuit that ends at `relay`, when the consensus has it on and the relay offers it. */
  congestionFor(relay: Relay): VegasParameters | undefined {
    return this.usesCongestionControl && relay.hasCongestionControl
      ? vegasParameters(this.consensus.parameters, "exit")
      : undefined;
  }

  /** Proposal 324 10.1: cc_alg, 2 (Vegas) unless the consensus says otherwise. We have Vegas only. */
  get usesCongestionControl(): boolean {
    return (this.consensus.parameters.get("cc_alg") ?? 2) === 2;
  }

  /** Share of traffic that a relay should get at a position; 0: none. dir-spec 3.8.3, bandwidth-weights. */
  weight(relay: Relay, position: Position): number {
    const isGuard = relay.flags.has("Guard");
    const isExit = relay.flags.has("Exit") && !relay.flags.has("BadExit");
    const kind = isGuard ? (isExit ? "d" : "g") : isExit ? "e" : "m";
    // "Wgd": weight for guard position of relays with both flags; other positions likewise.
    const share = this.consensus.weights.get(`W${position[0] ?? "m"}${kind}`) ?? WEIGHT_SCALE;
    return (relay.bandwidth * Math.max(0, share)) / WEIGHT_SCALE;
  }

  exitsTo(port: number): Relay[] {
    return this.relays.filter(
      ({ flags, microdescriptor }) =>
        flags.has("Exit") && !flags.has("BadExit") && letsOut(microdescriptor.exitPorts, port),
    );
  }
}

const WEIGHT_SCALE = 10_000;

function isUsable({ flags }: ConsensusRelay): boolean {
  return flags.has("Running") && flags.has("Valid");
}

function relayOf(entry: ConsensusRelay, microdescriptor: Microdescriptor): Relay {
  return {
    nickname: entry.nickname,
    fingerprint: hex(entry.rsa).toUpperCase(),
    host: entry.host,
    port: entry.port,
    identity: { rsa: entry.rsa, ed25519: microdescriptor.ed25519 },
    ntorKey: microdescriptor.ntorKey,
    flags: entry.flags,
    bandwidth: entry.bandwidth,
    hasCongestionControl: supports(entry, "FlowCtrl", 2) && supports(entry, "Relay", 4),
    microdescriptor,
  };
}

/** path-spec 2.2: run by the same people, as both say, or as both prove. */
export function sameFamily(a: Relay, b: Relay): boolean {
  if (names(a, b) && names(b, a)) return true;
  for (const id of a.microdescriptor.familyIds) if (b.microdescriptor.familyIds.has(id)) return true;
  return false;
}

function names(a: Relay, b: Relay): boolean {
  return (
    a.microdescriptor.family.has(`$${b.fingerprint}`) ||
    a.microdescriptor.family.has(b.nickname.toLowerCase())
  );
}

/** path-spec 2.2: the same /16. */
export function sameSubnet(a: Relay, b: Relay): boolean {
  const prefix = (host: string) => host.split(".").slice(0, 2).join(".");
  return prefix(a.host) === prefix(b.host);
}
