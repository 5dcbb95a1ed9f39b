// One layer of a descriptor's encryption: salt, ciphertext, MAC. Both layers use it, with other secrets and names.
// Spec: rend-spec-v3 2.5.3 [HS-DESC-ENCRYPTION-KEYS].

import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { aesCtr, equal, random, sha3, shake256 } from "../crypto/primitives.ts";
import { u64 } from "../fields.ts";

/** STRING_CONSTANT. */
export type LayerName = "hsdir-superencrypted-data" | "hsdir-encrypted-data";

export interface LayerSecrets {
  readonly name: LayerName;
  /** Blinded key, and the descriptor cookie where there is client authorization. */
  readonly secretData: Uint8Array;
  readonly subcredential: Uint8Array;
  readonly revision: number;
}

const SALT_BYTES = 16;
const MAC_BYTES = 32;

export function sealLayer(secrets: LayerSecrets, plaintext: Uint8Array): Uint8Array {
  const salt = random(SALT_BYTES);
  const { key, iv, macKey } = layerKeys(secrets, salt);
  const ciphertext = aesCtr(key, iv).update(plaintext);
  return concat([salt, ciphertext, layerMac(macKey, salt, ciphertext)]);
}

/** Throws ProtocolError `onion-descriptor` unless the MAC is right. */
export function openLayer(secrets: LayerSecrets, sealed: Uint8Array): Uint8Array {
  if (sealed.length < SALT_BYTES + MAC_BYTES)
    throw new ProtocolError("onion-descriptor", "Cannot open descriptor: a layer is too short");
  const salt = sealed.subarray(0, SALT_BYTES);
  const ciphertext = sealed.subarray(SALT_BYTES, sealed.length - MAC_BYTES);
  const { key, iv, macKey } = layerKeys(secrets, salt);
  if (!equal(layerMac(macKey, salt, ciphertext), sealed.subarray(sealed.length - MAC_BYTES)))
    throw new ProtocolError("onion-descriptor", `Cannot open descriptor: wrong MAC of ${secrets.name}`);
  return aesCtr(key, iv).update(ciphertext);
}

/** secret_input = SECRET_DATA | N_hs_subcred | INT_8(revision_counter) */
function layerKeys({ name, secretData, subcredential, revision }: LayerSecrets, salt: Uint8Array) {
  const keys = shake256(80, secretData, subcredential, u64(revision), salt, utf8(name));
  return { key: keys.subarray(0, 32), iv: keys.subarray(32, 48), macKey: keys.subarray(48) };
}

function layerMac(macKey: Uint8Array, salt: Uint8Array, ciphertext: Uint8Array): Uint8Array {
  return sha3(u64(macKey.length), macKey, u64(salt.length), salt, ciphertext);
}
