// Authority key certificates: which signing key an authority uses for some months, vouched for by its identity key, whose
// digest is all that a client has built in.
// Comes from any directory cache: hostile until the digest and both signatures were checked, which parsing does.
// Spec: dir-spec 3.1.

import { ProtocolError } from "../../base/errors.ts";
import { equal, importRsa, type RsaPublicKey, rsaSigned, sha1 } from "../crypto/primitives.ts";
import { hex } from "../fields.ts";
import { AUTHORITY_CERTIFICATE_BYTES_MAX } from "../limits.ts";
import { documentText, itemsByKeyword, malformed, parseTime } from "./document.ts";

export interface AuthorityCertificate {
  /** v3ident: SHA-1 of the identity key. Hex, lower case. */
  readonly identity: string;
  readonly signingKey: RsaPublicKey;
  /** Hex, lower case. */
  readonly signingKeyDigest: string;
  readonly publishedMs: number;
  readonly expiresMs: number;
}

const FIRST = "dir-key-certificate-version ";
const ONCE = [
  "dir-key-certificate-version",
  "fingerprint",
  "dir-key-published",
  "dir-key-expires",
  "dir-identity-key",
  "dir-signing-key",
  "dir-key-crosscert",
  "dir-key-certification",
];
const CERTIFICATES_MAX = 64;

/** Reads a run of certificates, as caches answer. Throws ProtocolError at the first that is not valid. */
export function parseAuthorityCertificates(bytes: Uint8Array): AuthorityCertificate[] {
  const text = documentText(bytes);
  const starts = [...text.matchAll(/^dir-key-certificate-version /gmu)].map((match) => match.index);
  if (starts.length > CERTIFICATES_MAX) throw malformed(`${String(starts.length)} authority certificates`);
  return starts.map((start, index) => parseOne(bytes.subarray(start, starts[index + 1] ?? bytes.length)));
}

function parseOne(bytes: Uint8Array): AuthorityCertificate {
  if (bytes.length > AUTHORITY_CERTIFICATE_BYTES_MAX) throw malformed("an authority certificate too long");
  const items = itemsByKeyword(documentText(bytes), ONCE);
  const [version] = items.get("dir-key-certificate-version")?.args ?? [];
  if (version !== "3" || !documentText(bytes).startsWith(FIRST))
    throw malformed("no certificate of version 3");
  const object = (keyword: string): Uint8Array => {
    const found = items.get(keyword)?.object;
    if (!found) throw malformed(`${keyword} without object`);
    return found.bytes;
  };
  const identityKey = importRsa(object("dir-identity-key"));
  const signingKey = importRsa(object("dir-signing-key"));
  const identity = sha1(identityKey.der);
  if (items.get("fingerprint")?.args[0]?.toLowerCase() !== hex(identity))
    throw untrusted("its fingerprint is of another key");
  // The signing key vouches for the identity key ...
  check(signingKey, object("dir-key-crosscert"), identity, "cross-certification");
  // ... and the identity key signs everything up to and with the last keyword line.
  const end = items.get("dir-key-certification")?.lineEnd ?? 0;
  check(identityKey, object("dir-key-certification"), sha1(bytes.subarray(0, end)), "certification");
  return {
    identity: hex(identity),
    signingKey,
    signingKeyDigest: hex(sha1(signingKey.der)),
    publishedMs: parseTime(...(items.get("dir-key-published")?.args ?? [])),
    expiresMs: parseTime(...(items.get("dir-key-expires")?.args ?? [])),
  };
}

function check(key: RsaPublicKey, signature: Uint8Array, digest: Uint8Array, what: string): void {
  const signed = rsaSigned(key, signature);
  if (!signed || !equal(signed, digest)) throw untrusted(`its ${what} is wrong`);
}

function untrusted(found: string): ProtocolError {
  return new ProtocolError("onion-consensus", `Cannot trust authority certificate: ${found}`);
}
