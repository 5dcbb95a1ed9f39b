// Keys of a private network, made here instead of by tor and tor-gencert: all fingerprints are known before the first
// daemon starts, and nothing needs to be cached. Small RSA keys: this network protects nothing.
// Spec: tor-spec 1.1 (identity keys), dir-spec 3.1 (authority certificates).

import { constants, createHash, generateKeyPair, type KeyObject, privateEncrypt } from "node:crypto";
import { promisify } from "node:util";

const generate = promisify(generateKeyPair);

// tor-spec 1.1: a relay's RSA identity has 1024 bits.
const IDENTITY_BITS = 1024;
// dir-spec 3.1 wants 2048 or more of public authorities; tor does not check, and these live for a day.
const AUTHORITY_BITS = 2048;
const CERTIFICATE_LIFETIME_MS = 30 * 24 * 3600 * 1000;

export interface RelayKeys {
  /** 40 upper-case hex digits. */
  readonly fingerprint: string;
  /** Content of keys/secret_id_key. */
  readonly identityPem: string;
}

export interface AuthorityKeys {
  /** The v3ident of DirAuthority lines, 40 upper-case hex digits. */
  readonly v3Identity: string;
  /** Content of keys/authority_signing_key. */
  readonly signingPem: string;
  /** Content of keys/authority_certificate. */
  readonly certificate: string;
}

export async function makeRelayKeys(): Promise<RelayKeys> {
  const { publicKey, privateKey } = await generate("rsa", { modulusLength: IDENTITY_BITS });
  return { fingerprint: fingerprintOf(publicKey), identityPem: pem(privateKey) };
}

/** @param nowMs the certificate is valid from a little before. */
export async function makeAuthorityKeys(nowMs: number): Promise<AuthorityKeys> {
  const [identity, signing] = await Promise.all([
    generate("rsa", { modulusLength: AUTHORITY_BITS }),
    generate("rsa", { modulusLength: AUTHORITY_BITS }),
  ]);
  const v3Identity = fingerprintOf(identity.publicKey);
  // dir-spec 3.1: the signing key signs the digest of the identity key, the identity key all that precedes its signature.
  const body = [
    "dir-key-certificate-version 3",
    `fingerprint ${v3Identity}`,
    `dir-key-published ${timestamp(nowMs - 3_600_000)}`,
    `dir-key-expires ${timestamp(nowMs + CERTIFICATE_LIFETIME_MS)}`,
    "dir-identity-key",
    publicPem(identity.publicKey),
    "dir-signing-key",
    publicPem(signing.publicKey),
    "dir-key-crosscert",
    armour("ID SIGNATURE", sign(signing.privateKey, sha1(publicDer(identity.publicKey)))),
    "dir-key-certification",
    "",
  ].join("\n");
  const signature = armour("SIGNATURE", sign(identity.privateKey, sha1(Buffer.from(body))));
  return { v3Identity, signingPem: pem(signing.privateKey), certificate: `${body}${signature}\n` };
}

// tor-spec 0.3: a fingerprint is the SHA-1 of the PKCS#1 encoding of the public key.
function fingerprintOf(key: KeyObject): string {
  return sha1(publicDer(key)).toString("hex").toUpperCase();
}

function publicDer(key: KeyObject): Buffer {
  return key.export({ type: "pkcs1", format: "der" });
}

function publicPem(key: KeyObject): string {
  return String(key.export({ type: "pkcs1", format: "pem" })).trimEnd();
}

function pem(key: KeyObject): string {
  return String(key.export({ type: "pkcs1", format: "pem" }));
}

function sha1(bytes: Uint8Array): Buffer {
  return createHash("sha1").update(bytes).digest();
}

// dir-spec 1.3: PKCS#1 v1.5 padding of the bare digest, without the DigestInfo that sign() would add.
function sign(key: KeyObject, digest: Uint8Array): Buffer {
  return privateEncrypt({ key, padding: constants.RSA_PKCS1_PADDING }, digest);
}

function armour(label: string, bytes: Buffer): string {
  const lines = bytes.toString("base64").match(/.{1,64}/gu) ?? [];
  return [`-----BEGIN ${label}-----`, ...lines, `-----END ${label}-----`].join("\n");
}

// Sample: 2026-11-20 19:25:40
function timestamp(timeMs: number): string {
  return new Date(timeMs).toISOString().slice(0, 19).replace("T", " ");
}
