// What a finished handshake leaves behind: the keys of one hop. And the handshake as one pair of steps, whichever it is.
// Spec: tor-spec 5.1 (handshakes), 5.2 (setting circuit keys), rend-spec-v3 4.2.1 (onion service hop).

import { FieldReader } from "../fields.ts";

export interface HopKeys {
  /** Seeds of the running digests, and cipher keys; forward is away from whoever built the circuit. */
  readonly forwardDigest: Uint8Array;
  readonly backwardDigest: Uint8Array;
  readonly forwardKey: Uint8Array;
  readonly backwardKey: Uint8Array;
  /** `relay`: AES-128 and SHA-1 (tor-spec 5.5). `onion`: AES-256 and SHA3-256 (rend-spec-v3 4.2.1). */
  readonly kind: "relay" | "onion";
}

export interface CircuitKeys extends HopKeys {
  /** KH: binds ESTABLISH_INTRO to this circuit (rend-spec-v3 3.1.1). 20 bytes. */
  readonly nonce: Uint8Array;
}

/** A handshake that has sent its half. `finish` takes the other half and throws ProtocolError unless it is genuine. */
export interface ClientHandshake {
  /** HTYPE of CREATE2 (tor-spec 5.1). */
  readonly type: number;
  readonly body: Uint8Array;
  finish(reply: Uint8Array): HandshakeResult;
}

export interface HandshakeResult {
  readonly keys: CircuitKeys;
  /** Cells between two SENDMEs, when the relay agreed to congestion control (proposal 324 10.3). */
  readonly sendmeIncrement: number | undefined;
}

const DIGEST_BYTES = 20;
const KEY_BYTES = 16;
/** Df, Db, Kf, Kb, KH. */
export const CIRCUIT_KEY_BYTES = 3 * DIGEST_BYTES + 2 * KEY_BYTES;

/** tor-spec 5.2.2: order of the keys in what the key derivation puts out. */
export function circuitKeys(material: Uint8Array): CircuitKeys {
  const reader = new FieldReader(material, "circuit keys");
  return {
    kind: "relay",
    forwardDigest: reader.bytes(DIGEST_BYTES),
    backwardDigest: reader.bytes(DIGEST_BYTES),
    forwardKey: reader.bytes(KEY_BYTES),
    backwardKey: reader.bytes(KEY_BYTES),
    nonce: reader.bytes(DIGEST_BYTES),
  };
}
