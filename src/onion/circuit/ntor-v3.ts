// The ntor-v3 handshake, client's side: ntor with an encrypted message each way, here the negotiation of congestion control.
// Boundary: the reply comes through the circuit and is hostile until its authenticator matches.
// Spec: proposal 332; proposal 324 10 (congestion control request and response).

import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import {
  aesCtr,
  equal,
  generateX25519,
  sha3,
  shake256,
  type X25519Key,
  x25519,
} from "../crypto/primitives.ts";
import {
  EXTENSION_CONGESTION_REQUEST,
  EXTENSION_CONGESTION_RESPONSE,
  encodeExtensions,
  readExtensions,
} from "../extensions.ts";
import { FieldReader, u64 } from "../fields.ts";
import { CIRCUIT_KEY_BYTES, type ClientHandshake, circuitKeys } from "./hop-keys.ts";

const PROTOID = utf8("ntor3-curve25519-sha3_256-1");
export const HTYPE_NTOR_V3 = 3;
/** What both sides must have in mind: extending a circuit, and nothing else. */
const VERIFICATION = utf8("circuit extend");

export interface NtorV3Relay {
  /** 32 bytes. */
  readonly ed25519: Uint8Array;
  readonly ntorKey: Uint8Array;
}

/**
 * The client's half, asking for congestion control when the consensus says how many cells lie between SENDMEs.
 * @param sendmeIncrement cc_sendme_inc; undefined: do not ask.
 */
export function ntorV3Handshake(relay: NtorV3Relay, sendmeIncrement: number | undefined): ClientHandshake {
  const request =
    sendmeIncrement === undefined ? [] : [{ type: EXTENSION_CONGESTION_REQUEST, value: new Uint8Array(0) }];
  const client = ntorV3Client(relay, encodeExtensions(request), VERIFICATION);
  return {
    type: HTYPE_NTOR_V3,
    body: client.body,
    finish: (reply) => {
      const { message, keystream } = client.finish(reply, CIRCUIT_KEY_BYTES);
      const reader = new FieldReader(message, "ntor-v3 message");
      const response = readExtensions(reader).get(EXTENSION_CONGESTION_RESPONSE);
      return { keys: circuitKeys(keystream), sendmeIncrement: agreed(response, sendmeIncrement) };
    },
  };
}

/** Proposal 324 10.5: no answer to a question that was not asked, and at most a factor of 2 from our own view. */
function agreed(response: Uint8Array | undefined, wanted: number | undefined): number | undefined {
  if (!response) return undefined;
  const [increment = 0] = response;
  if (wanted === undefined || response.length !== 1)
    throw new ProtocolError("onion-handshake", "Cannot extend: congestion control that was not asked for");
  if (increment < wanted / 2 || increment > wanted * 2 || increment === 0)
    throw new ProtocolError(
      "onion-handshake",
      `Cannot extend: a SENDME each ${String(increment)} cells, wanted ${String(wanted)} or near`,
    );
  return increment;
}

/** The handshake itself, for any message and verification string. `ephemeral` is given only by tests. */
export function ntorV3Client(
  { ed25519: id, ntorKey }: NtorV3Relay,
  message: Uint8Array,
  verification: Uint8Array,
  ephemeral: X25519Key = generateX25519(),
): {
  readonly body: Uint8Array;
  finish(
    reply: Uint8Array,
    keyBytes: number,
  ): { readonly message: Uint8Array; readonly keystream: Uint8Array };
} {
  const own = ephemeral.publicKey;
  const staticSecret = x25519(ephemeral, ntorKey);
  const phase1 = kdf(
    "kdf_phase1",
    64,
    concat([staticSecret, id, own, ntorKey, PROTOID, encap(verification)]),
  );
  const encrypted = aesCtr(phase1.subarray(0, 32)).update(message);
  const mac = sha3(tweak("msg_mac"), encap(phase1.subarray(32, 64)), concat([id, ntorKey, own, encrypted]));
  return {
    body: concat([id, ntorKey, own, encrypted, mac]),
    finish: (reply, keyBytes) => {
      const reader = new FieldReader(reply, "ntor-v3 reply");
      const theirs = reader.bytes(32);
      const authenticator = reader.bytes(32);
      const sealed = reader.rest();
      const secretInput = concat([
        x25519(ephemeral, theirs),
        concat([staticSecret, id, ntorKey, own, theirs, PROTOID, encap(verification)]),
      ]);
      const verify = sha3(tweak("verify"), secretInput);
      const expected = sha3(
        tweak("auth_final"),
        concat([verify, id, ntorKey, theirs, own, mac, encap(sealed), PROTOID, utf8("Server")]),
      );
      if (!equal(expected, authenticator))
        throw new ProtocolError("onion-handshake", "Cannot trust hop: the ntor-v3 authenticator is wrong");
      const raw = kdf("kdf_final", 32 + keyBytes, sha3(tweak("key_seed"), secretInput));
      return { message: aesCtr(raw.subarray(0, 32)).update(sealed), keystream: raw.subarray(32) };
    },
  };
}

function kdf(name: string, length: number, secret: Uint8Array): Uint8Array {
  return shake256(length, tweak(name), secret);
}

function tweak(name: string): Uint8Array {
  return encap(concat([PROTOID, utf8(`:${name}`)]));
}

/** ENCAP: length in 8 bytes, then the string. */
function encap(bytes: Uint8Array): Uint8Array {
  return concat([u64(bytes.length), bytes]);
}
