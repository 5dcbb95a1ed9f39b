// The CERTS cell: proof that whoever ended our TLS connection is the relay with these identities.
// Everything about the relay's identity hangs on this file. The cell is hostile until every line below held.
// Spec: tor-spec 4.2 "CERTS cells", cert-spec 2.3.

import { concat, utf8 } from "../../base/bytes.ts";
import { ProtocolError } from "../../base/errors.ts";
import { CERT_TYPE, checkCertificate, parseCertificate } from "../crypto/ed25519-certificate.ts";
import { equal, readSelfSignedRsa, rsaSigned, sha1, sha256 } from "../crypto/primitives.ts";
import { FieldReader, plain } from "../fields.ts";
import { CERTS_MAX } from "../limits.ts";

export interface RelayIdentity {
  /** 32 bytes. */
  readonly ed25519: Uint8Array;
  /** 20 bytes: SHA-1 of the RSA identity key, the fingerprint. */
  readonly rsa: Uint8Array;
}

const TYPE_RSA_IDENTITY = 2;
const TYPE_SIGNING_KEY = 4;
const TYPE_LINK = 5;
const TYPE_RSA_TO_ED25519 = 7;
const RSA_IDENTITY_BITS = 1024;
const HOUR_MS = 3_600_000;
const CROSS_CERTIFICATE_PREFIX = utf8("Tor TLS RSA/Ed25519 cross-certificate");

/**
 * The identities that the cell proves.
 * @param tlsCertificate SHA-256 of the certificate that ended the TLS connection.
 * Throws ProtocolError `onion-certificate`, `onion-crypto` or `onion-format`.
 */
export function checkCerts(
  body: Uint8Array,
  { tlsCertificate, nowMs }: { readonly tlsCertificate: Uint8Array; readonly nowMs: number },
): RelayIdentity {
  const certs = parseCerts(body);
  // "The identity key listed in the ID->Signing cert was used to sign" it.
  const signing = parseCertificate(need(certs, TYPE_SIGNING_KEY));
  const identity = signing.signedWith;
  if (!identity) throw untrusted("the identity key is missing from the signing-key certificate");
  const signingKey = checkCertificate(signing, { type: CERT_TYPE.signingKey, signer: identity, nowMs });
  // "The certified key in the Signing->Link certificate matches the SHA256 digest of the certificate" of the TLS connection.
  const link = parseCertificate(need(certs, TYPE_LINK));
  const linkDigest = checkCertificate(link, { type: CERT_TYPE.linkCertificate, signer: signingKey, nowMs });
  if (!equal(linkDigest, tlsCertificate)) throw untrusted("it was issued for another TLS connection");
  return { ed25519: plain(identity), rsa: checkRsa(certs, identity, nowMs) };
}

/** The RSA half: the identity certificate, and the cross-certificate that ties the Ed25519 identity to it. */
function checkRsa(certs: ReadonlyMap<number, Uint8Array>, ed25519: Uint8Array, nowMs: number): Uint8Array {
  const { key, validFromMs, validToMs } = readSelfSignedRsa(need(certs, TYPE_RSA_IDENTITY));
  // Not (from <= now && now <= to): a date that is no number must not pass.
  if (!(validFromMs <= nowMs && nowMs <= validToMs))
    throw untrusted("the RSA identity certificate is not valid now");
  if (key.bits !== RSA_IDENTITY_BITS)
    throw untrusted(`an RSA identity of ${String(key.bits)} bits, wanted 1024`);
  const cross = need(certs, TYPE_RSA_TO_ED25519);
  const reader = new FieldReader(cross, "RSA cross-certificate");
  const certified = reader.bytes(32);
  const expiresMs = reader.u32() * HOUR_MS;
  const signature = reader.bytes(reader.u8());
  if (!equal(certified, ed25519)) throw untrusted("the RSA identity vouches for another Ed25519 identity");
  if (expiresMs < nowMs) throw untrusted("the RSA cross-certificate has expired");
  const digest = sha256(concat([CROSS_CERTIFICATE_PREFIX, cross.subarray(0, 36)]));
  const signed = rsaSigned(key, signature);
  if (!signed || !equal(signed, digest)) throw untrusted("the RSA cross-certificate's signature is wrong");
  return sha1(key.der);
}

// Sample: 04, then (type 01) (length 0x01a3) (certificate), ...
function parseCerts(body: Uint8Array): Map<number, Uint8Array> {
  const reader = new FieldReader(body, "CERTS cell");
  const count = reader.u8();
  if (count > CERTS_MAX) throw untrusted(`${String(count)} certificates, at most ${String(CERTS_MAX)}`);
  const certs = new Map<number, Uint8Array>();
  for (let left = count; left > 0; left--) {
    const type = reader.u8();
    // "A CERTS cell may have no more than one certificate of each CertType."
    if (certs.has(type)) throw untrusted(`two certificates of type ${String(type)}`);
    certs.set(type, reader.bytes(reader.u16()));
  }
  return certs;
}

function need(certs: ReadonlyMap<number, Uint8Array>, type: number): Uint8Array {
  const found = certs.get(type);
  if (!found) throw untrusted(`no certificate of type ${String(type)}`);
  return found;
}

function untrusted(found: string): ProtocolError {
  return new ProtocolError("onion-certificate", `Cannot trust relay: ${found}`);
}
