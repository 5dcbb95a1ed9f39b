// The ntor handshake, client's side: agrees on keys with a relay of which we know identity and onion key.
// Boundary: the reply comes through the circuit and is hostile until its authenticator matches.
// Spec: tor-spec 5.1.4.

import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import {
  equal,
  generateX25519,
  hkdfSha256,
  hmacSha256,
  type X25519Key,
  x25519,
} from "../crypto/primitives.ts";
import { FieldReader } from "../fields.ts";
import { CIRCUIT_KEY_BYTES, type ClientHandshake, circuitKeys } from "./hop-keys.ts";

const PROTOID = "ntor-curve25519-sha256-1";
const T_MAC = utf8(`${PROTOID}:mac`);
const T_KEY = utf8(`${PROTOID}:key_extract`);
const T_VERIFY = utf8(`${PROTOID}:verify`);
const M_EXPAND = utf8(`${PROTOID}:key_expand`);
export const HTYPE_NTOR = 2;

export interface NtorRelay {
  /** Fingerprint, 20 bytes. */
  readonly rsa: Uint8Array;
  /** KP_ntor, 32 bytes. */
  readonly ntorKey: Uint8Array;
}

/** The client's half. `ephemeral` is given only by tests. */
export function ntorHandshake(relay: NtorRelay, ephemeral: X25519Key = generateX25519()): ClientHandshake {
  const own = ephemeral.publicKey;
  return {
    type: HTYPE_NTOR,
    body: concat([relay.rsa, relay.ntorKey, own]),
    finish: (reply) => {
      const reader = new FieldReader(reply, "ntor reply");
      const theirs = reader.bytes(32);
      const authenticator = reader.bytes(32);
      const secret = concat([x25519(ephemeral, theirs), x25519(ephemeral, relay.ntorKey)]);
      const { material, expected } = ntorDerive(secret, relay, own, theirs);
      if (!equal(expected, authenticator))
        throw new ProtocolError("onion-handshake", "Cannot trust hop: the ntor authenticator is wrong");
      return { keys: circuitKeys(material), sendmeIncrement: undefined };
    },
  };
}

/**
 * What both sides compute.
 * @param secret EXP(Y,x) | EXP(B,x), as the client says it; the relay has the same from EXP(X,y) | EXP(X,b).
 */
export function ntorDerive(
  secret: Uint8Array,
  { rsa, ntorKey }: NtorRelay,
  clientKey: Uint8Array,
  relayKey: Uint8Array,
): { readonly material: Uint8Array; readonly expected: Uint8Array } {
  const secretInput = concat([secret, rsa, ntorKey, clientKey, relayKey, utf8(PROTOID)]);
  const verify = hmacSha256(T_VERIFY, secretInput);
  const authInput = concat([verify, rsa, ntorKey, relayKey, clientKey, utf8(PROTOID), utf8("Server")]);
  return {
    material: hkdfSha256(secretInput, T_KEY, M_EXPAND, CIRCUIT_KEY_BYTES),
    expected: hmacSha256(T_MAC, authInput),
  };
}
