// Meeting a client at its rendezvous point: what a service, or a replica that was handed one introduction, does.
// Boundary: the client at the other end is a stranger, and chose the rendezvous point.
// Spec: rend-spec-v3 4.2 [JOIN_REND], 4.2.1; proposal 324 9 (congestion control between client and service).

import { concat } from "../../base/bytes.ts";
import type { Circuit, CircuitRelay, IncomingStream } from "../circuit/circuit.ts";
import { RELAY } from "../circuit/relay-message.ts";
import { vegasParameters } from "../circuit/vegas.ts";
import type { CircuitBuilder } from "../circuit-builder.ts";
import type { RendezvousMaterial } from "./handover.ts";
import { onionHopKeys } from "./hs-ntor.ts";

export interface MeetOptions {
  /** Consensus parameters: both sides go by them. */
  readonly parameters: ReadonlyMap<string, number>;
  readonly onStream: (stream: IncomingStream) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface MeetAlongOptions extends MeetOptions {
  readonly builder: CircuitBuilder;
  /** Ends at the material's rendezvous point. A guard that is the rendezvous point itself needs two relays between. */
  readonly path: readonly CircuitRelay[];
}

/** Builds the circuit and answers the client on it. The circuit is the caller's; it closes when the client leaves. */
export async function meetClient(material: RendezvousMaterial, options: MeetAlongOptions): Promise<Circuit> {
  const circuit = await options.builder.build(options.path, { signal: options.signal });
  answerClient(circuit, material, options);
  return circuit;
}

/** Answers the client on a circuit that ends at the material's rendezvous point. The circuit stays the caller's. */
export function answerClient(
  circuit: Circuit,
  material: RendezvousMaterial,
  options: Pick<MeetOptions, "parameters" | "onStream">,
): void {
  const rendezvous = circuit.hopCount - 1;
  const congestion = material.usesCongestionControl
    ? vegasParameters(options.parameters, "onion")
    : undefined;
  // The hop is there before the client can know the keys: its first BEGIN follows RENDEZVOUS2 at once.
  circuit.sendTo(rendezvous, RELAY.rendezvous1, concat([material.cookie, material.handshake]));
  circuit.addOnionHop(onionHopKeys(material.keySeed), "service", congestion);
  circuit.onStream(rendezvous + 1, options.onStream);
}
