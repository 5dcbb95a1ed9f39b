// Onion addresses: a service's public key in letters.
// Spec: rend-spec-v3 6 [ONIONADDRESS].

import { concat, utf8 } from "../../base/bytes.ts";
import { BentoError } from "../../base/errors.ts";
import { equal, sha3 } from "../crypto/primitives.ts";

const VERSION = Uint8Array.of(3);
const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";

/** 56 letters and digits and ".onion". */
export function onionAddress(publicKey: Uint8Array): string {
  return `${base32(concat([publicKey, checksum(publicKey), VERSION]))}.onion`;
}

/** The 32-byte key. Throws BentoError `onion-address`. */
export function readOnionAddress(address: string): Uint8Array {
  const match = /^([a-z2-7]{56})(?:\.onion)?$/u.exec(address.toLowerCase());
  const bytes = fromBase32(match?.[1] ?? "");
  const publicKey = bytes.slice(0, 32);
  if (!match || bytes[34] !== 3 || !equal(bytes.subarray(32, 34), checksum(publicKey)))
    throw new BentoError("onion-address", "Cannot use onion address: it is not of version 3, or mistyped");
  return publicKey;
}

/** CHECKSUM = H(".onion checksum" | PUBKEY | VERSION)[:2] */
function checksum(publicKey: Uint8Array): Uint8Array {
  return sha3(utf8(".onion checksum"), publicKey, VERSION).subarray(0, 2);
}

/** RFC 4648 in lower case, for lengths that need no padding. */
function base32(bytes: Uint8Array): string {
  let text = "";
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = ((held << 8) | byte) & 0xfff;
    for (bits += 8; bits >= 5; bits -= 5) text += ALPHABET[(held >> (bits - 5)) & 31] ?? "";
  }
  return text;
}

function fromBase32(text: string): Uint8Array {
  const bytes: number[] = [];
  let bits = 0;
  let held = 0;
  for (const letter of text) {
    held = ((held << 5) | ALPHABET.indexOf(letter)) & 0xfff;
    bits += 5;
    if (bits >= 8) bytes.push((held >> (bits -= 8)) & 0xff);
  }
  return Uint8Array.from(bytes);
}
