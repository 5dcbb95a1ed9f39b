// hs-ntor: the handshake between a client and an onion service, by way of an introduction point and a rendezvous point.
// The service's half is split so that one machine opens introductions and another meets the client.
// Boundary: both messages come from strangers.
// Spec: rend-spec-v3 3.3.2 [NTOR-WITH-EXTRA-DATA], 4.2.1 (key expansion).

import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import type { HopKeys } from "../circuit/hop-keys.ts";
import {
  aesCtr,
  equal,
  generateX25519,
  sha3,
  shake256,
  type X25519Key,
  x25519,
} from "../crypto/primitives.ts";
import { FieldReader, u64 } from "../fields.ts";

const PROTOID = utf8("tor-hs-ntor-curve25519-sha3-256-1");
const tweak = (name: string) => concat([PROTOID, utf8(`:${name}`)]);
const T_ENCRYPT = tweak("hs_key_extract");
const T_VERIFY = tweak("hs_verify");
const T_MAC = tweak("hs_mac");
const M_EXPAND = tweak("hs_key_expand");
const KEY_BYTES = 32;

/** What a client must know of an introduction point, from the descriptor. */
export interface IntroductionKeys {
  /** KP_hs_ipt_sid: the introduction point's authentication key. */
  readonly authKey: Uint8Array;
  /** KP_hss_ntor: the key that introductions are encrypted to. */
  readonly encryptionKey: Uint8Array;
}

/** rend-spec-v3 0.3: MAC(k, m) = H(INT_8(len(k)) | k | m). */
export function hsMac(key: Uint8Array, ...message: readonly Uint8Array[]): Uint8Array {
  return sha3(u64(key.length), key, ...message);
}

/** Keys of the message inside INTRODUCE, for one subcredential. `shared`: EXP(B,x) or EXP(X,b). */
function introductionSecrets(
  shared: Uint8Array,
  keys: IntroductionKeys,
  clientKey: Uint8Array,
  subcredential: Uint8Array,
): { readonly encryption: Uint8Array; readonly mac: Uint8Array } {
  const secret = concat([shared, keys.authKey, clientKey, keys.encryptionKey, PROTOID]);
  const all = shake256(2 * KEY_BYTES, secret, T_ENCRYPT, M_EXPAND, subcredential);
  return { encryption: all.subarray(0, KEY_BYTES), mac: all.subarray(KEY_BYTES) };
}

/** What the client's and the service's last steps have in common. `shared`: EXP(X,y) | EXP(X,b), or EXP(Y,x) | EXP(B,x). */
function rendezvousSecrets(
  shared: Uint8Array,
  { authKey, encryptionKey }: IntroductionKeys,
  clientKey: Uint8Array,
  serviceKey: Uint8Array,
): { readonly keySeed: Uint8Array; readonly authenticator: Uint8Array } {
  const secret = concat([shared, authKey, encryptionKey, clientKey, serviceKey, PROTOID]);
  const verify = hsMac(secret, T_VERIFY);
  const input = concat([verify, authKey, encryptionKey, serviceKey, clientKey, PROTOID, utf8("Server")]);
  return { keySeed: hsMac(secret, T_ENCRYPT), authenticator: hsMac(input, T_MAC) };
}

/** rend-spec-v3 4.2.1: the keys of the hop between client and service. */
export function onionHopKeys(keySeed: Uint8Array): HopKeys {
  const reader = new FieldReader(shake256(4 * KEY_BYTES, keySeed, M_EXPAND), "onion hop keys");
  return {
    kind: "onion",
    forwardDigest: reader.bytes(KEY_BYTES),
    backwardDigest: reader.bytes(KEY_BYTES),
    forwardKey: reader.bytes(KEY_BYTES),
    backwardKey: reader.bytes(KEY_BYTES),
  };
}

/** The client's half. `ephemeral` is given only by tests. */
export function hsNtorClient(
  keys: IntroductionKeys,
  subcredential: Uint8Array,
  ephemeral: X25519Key = generateX25519(),
): {
  /** The ENCRYPTED part of INTRODUCE1. `header`: all of the cell's body before it, which the MAC covers. */
  encrypt(header: Uint8Array, plaintext: Uint8Array): Uint8Array;
  /** Takes HANDSHAKE_INFO of RENDEZVOUS2; the key seed. Throws ProtocolError unless the service itself made it. */
  finish(handshake: Uint8Array): Uint8Array;
} {
  const staticSecret = x25519(ephemeral, keys.encryptionKey);
  return {
    encrypt: (header, plaintext) => {
      const { encryption, mac } = introductionSecrets(staticSecret, keys, ephemeral.publicKey, subcredential);
      const body = concat([ephemeral.publicKey, aesCtr(encryption).update(plaintext)]);
      return concat([body, hsMac(mac, header, body)]);
    },
    finish: (handshake) => {
      const reader = new FieldReader(handshake, "RENDEZVOUS2");
      const serviceKey = reader.bytes(32);
      const authenticator = reader.bytes(32);
      const shared = concat([x25519(ephemeral, serviceKey), staticSecret]);
      const expected = rendezvousSecrets(shared, keys, ephemeral.publicKey, serviceKey);
      if (!equal(expected.authenticator, authenticator))
        throw new ProtocolError("onion-handshake", "Cannot trust onion service: its authenticator is wrong");
      return expected.keySeed;
    },
  };
}

/** An introduction that was meant for us, and opened. */
export interface OpenedIntroduction {
  readonly plaintext: Uint8Array;
  /** The second half: HANDSHAKE_INFO for the client (64 bytes), and the key seed. `ephemeral` is given only by tests. */
  finish(ephemeral?: X25519Key): { readonly handshake: Uint8Array; readonly keySeed: Uint8Array };
}

/**
 * The service's first half: opens ENCRYPTED of INTRODUCE2.
 * @param subcredentials of the current time period and its neighbours: clients' clocks differ.
 * Throws ProtocolError `onion-introduction` when the MAC fits none of them.
 */
export function openIntroduction(
  own: { readonly authKey: Uint8Array; readonly encryption: X25519Key },
  subcredentials: readonly Uint8Array[],
  header: Uint8Array,
  encrypted: Uint8Array,
): OpenedIntroduction {
  if (encrypted.length < 64)
    throw new ProtocolError("onion-introduction", "Cannot open introduction: it is too short");
  const keys = { authKey: own.authKey, encryptionKey: own.encryption.publicKey };
  const clientKey = encrypted.subarray(0, 32);
  const body = encrypted.subarray(0, encrypted.length - 32);
  const mac = encrypted.subarray(encrypted.length - 32);
  const staticSecret = x25519(own.encryption, clientKey);
  const secrets = subcredentials
    .map((subcredential) => introductionSecrets(staticSecret, keys, clientKey, subcredential))
    .find((one) => equal(hsMac(one.mac, header, body), mac));
  if (!secrets) throw new ProtocolError("onion-introduction", "Cannot open introduction: its MAC is wrong");
  return {
    plaintext: aesCtr(secrets.encryption).update(body.subarray(32)),
    finish: (ephemeral = generateX25519()) => {
      const shared = concat([x25519(ephemeral, clientKey), staticSecret]);
      const { keySeed, authenticator } = rendezvousSecrets(shared, keys, clientKey, ephemeral.publicKey);
      return { handshake: concat([ephemeral.publicKey, authenticator]), keySeed };
    },
  };
}
