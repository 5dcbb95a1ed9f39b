// CREATE_FAST: keys for a circuit's first hop, for which TLS already authenticated the relay and hides the secrets.
// Used before any directory document is known, as the first hop's onion key is in one.
// Spec: tor-spec 5.1.5 (CREATE_FAST), 5.2.1 (KDF-TOR).

import { concat } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { equal, random, sha1 } from "../crypto/primitives.ts";
import { FieldReader, u8 } from "../fields.ts";
import { CIRCUIT_KEY_BYTES, circuitKeys, type HandshakeResult } from "./hop-keys.ts";

/** The client's half: 20 random bytes; the relay answers with 20 of its own and a check value. */
export function createFast(own: Uint8Array = random(20)): {
  readonly body: Uint8Array;
  finish(reply: Uint8Array): HandshakeResult;
} {
  return {
    body: own,
    finish: (reply) => {
      const reader = new FieldReader(reply, "CREATED_FAST");
      const theirs = reader.bytes(20);
      const check = reader.bytes(20);
      const { expected, material } = kdfTor(concat([own, theirs]));
      if (!equal(check, expected))
        throw new ProtocolError("onion-handshake", "Cannot create circuit: the check value is wrong");
      return { keys: circuitKeys(material), sendmeIncrement: undefined };
    },
  };
}

/** KDF-TOR: K = H(K0 | [00]) | H(K0 | [01]) | ...; the first 20 bytes are the check value. */
export function kdfTor(secret: Uint8Array): {
  readonly expected: Uint8Array;
  readonly material: Uint8Array;
} {
  const blocks: Uint8Array[] = [];
  for (let index = 0; 20 * index < 20 + CIRCUIT_KEY_BYTES; index++) blocks.push(sha1(secret, u8(index)));
  const all = concat(blocks);
  return { expected: all.subarray(0, 20), material: all.subarray(20, 20 + CIRCUIT_KEY_BYTES) };
}
