// Tor's own certificates for Ed25519 keys: reading, checking, issuing.
// Relays prove their link keys with them, onion services the keys in their descriptors: hostile until checked.
// Spec: cert-spec 2.1, 2.2.1.

import { concat } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { FieldReader, u8, u16, u32 } from "../fields.ts";
import { equal, verifyEd25519 } from "./primitives.ts";

/** cert-spec A.1: what a certificate is for. */
export const CERT_TYPE = {
  signingKey: 4,
  linkCertificate: 5,
  descriptorSigningKey: 8,
  introductionAuthKey: 9,
  introductionEncryptionKey: 11,
} as const;

export interface Ed25519Certificate {
  readonly type: number;
  /** Unix milliseconds, on the hour. */
  readonly expiresMs: number;
  /** cert-spec A.4. Old Tor wrote 1 for every kind; what the key is follows from `type`. */
  readonly keyType: number;
  /** 32 bytes: an Ed25519 key, or a SHA-256 digest. */
  readonly certified: Uint8Array;
  /** The signing key, where the certificate carries it. */
  readonly signedWith: Uint8Array | undefined;
  readonly signed: Uint8Array;
  readonly signature: Uint8Array;
}

const VERSION = 1;
const SIGNATURE_BYTES = 64;
const HOUR_MS = 3_600_000;
const EXTENSION_SIGNED_WITH = 4;
const FLAG_AFFECTS_VALIDATION = 1;

/** Throws ProtocolError `onion-certificate` or `onion-format`. The signature is not checked yet: `checkCertificate`. */
export function parseCertificate(bytes: Uint8Array): Ed25519Certificate {
  const reader = new FieldReader(bytes, "Ed25519 certificate");
  const version = reader.u8();
  if (version !== VERSION) throw malformed(`version ${String(version)}, wanted 1`);
  const type = reader.u8();
  const expiresMs = reader.u32() * HOUR_MS;
  const keyType = reader.u8();
  const certified = reader.bytes(32);
  let signedWith: Uint8Array | undefined;
  for (let left = reader.u8(); left > 0; left--) {
    const length = reader.u16();
    const extension = reader.u8();
    const flags = reader.u8();
    const data = reader.bytes(length);
    if (extension === EXTENSION_SIGNED_WITH) {
      if (length !== 32) throw malformed(`a signing key of ${String(length)} bytes`);
      signedWith = data;
    } else if ((flags & FLAG_AFFECTS_VALIDATION) !== 0) {
      throw malformed(`extension ${String(extension)} that must be understood`);
    }
  }
  const signature = reader.bytes(SIGNATURE_BYTES);
  reader.end();
  const signed = bytes.subarray(0, bytes.length - SIGNATURE_BYTES);
  return { type, expiresMs, keyType, certified, signedWith, signed, signature };
}

/**
 * Returns the certified key when `certificate` is of `type`, signed by `signer` and not expired.
 * Throws ProtocolError `onion-certificate` otherwise.
 */
export function checkCertificate(
  certificate: Ed25519Certificate,
  { type, signer, nowMs }: { readonly type: number; readonly signer: Uint8Array; readonly nowMs: number },
): Uint8Array {
  if (certificate.type !== type) throw malformed(`type ${String(certificate.type)}, wanted ${String(type)}`);
  if (certificate.expiresMs < nowMs) throw malformed("it has expired");
  // cert-spec 2.2.1: the key inside must be the one that signed.
  if (certificate.signedWith && !equal(certificate.signedWith, signer))
    throw malformed("it names another signing key");
  if (!verifyEd25519(signer, certificate.signed, certificate.signature))
    throw malformed("the signature is wrong");
  return certificate.certified;
}

/** A certificate by the key that `sign` signs with. `includeSigner`: the signing key travels inside. */
export function issueCertificate(options: {
  readonly type: number;
  readonly expiresMs: number;
  readonly certified: Uint8Array;
  readonly signer: Uint8Array;
  readonly sign: (message: Uint8Array) => Uint8Array;
}): Uint8Array {
  const body = concat([
    u8(VERSION),
    u8(options.type),
    u32(Math.ceil(options.expiresMs / HOUR_MS)),
    u8(1),
    options.certified,
    u8(1),
    u16(32),
    u8(EXTENSION_SIGNED_WITH),
    u8(0),
    options.signer,
  ]);
  return concat([body, options.sign(body)]);
}

function malformed(found: string): ProtocolError {
  return new ProtocolError("onion-certificate", `Cannot trust certificate: ${found}`);
}
