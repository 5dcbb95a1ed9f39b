// The cryptographic primitives that Tor's protocol is made of, and the only file that names the library they come
// from: node:crypto, which Node has natively and Deno as a built-in. Key blinding, which it lacks, is in blinding.ts.
// Spec: tor-spec 0.3 "Ciphers", rend-spec-v3 0.3 "Cryptographic building blocks".

import { Buffer } from "node:buffer";
import {
  constants,
  createCipheriv,
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  sign as edSign,
  verify as edVerify,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
  publicDecrypt,
  randomFillSync,
  timingSafeEqual,
  X509Certificate,
} from "node:crypto";
import { ProtocolError } from "../../base/errors.ts";

type Parts = readonly Uint8Array[];

export function sha1(...parts: Parts): Uint8Array {
  return digest("sha1", parts);
}

export function sha256(...parts: Parts): Uint8Array {
  return digest("sha256", parts);
}

export function sha512(...parts: Parts): Uint8Array {
  return digest("sha512", parts);
}

/** H of rend-spec-v3. */
export function sha3(...parts: Parts): Uint8Array {
  return digest("sha3-256", parts);
}

/** KDF of rend-spec-v3. */
export function shake256(length: number, ...parts: Parts): Uint8Array {
  const hash = createHash("shake256", { outputLength: length });
  for (const part of parts) hash.update(part);
  return hash.digest();
}

function digest(algorithm: string, parts: Parts): Uint8Array {
  const hash = createHash(algorithm);
  for (const part of parts) hash.update(part);
  return hash.digest();
}

export function hmacSha256(key: Uint8Array, ...parts: Parts): Uint8Array {
  const hmac = createHmac("sha256", key);
  for (const part of parts) hmac.update(part);
  return hmac.digest();
}

/** RFC 5869 with SHA-256, both steps. */
export function hkdfSha256(
  secret: Uint8Array,
  salt: Uint8Array,
  info: Uint8Array,
  length: number,
): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", secret, salt, info, length));
}

export function random(length: number): Uint8Array {
  return randomFillSync(new Uint8Array(length));
}

/** Constant-time comparison; false for different lengths. */
export function equal(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b);
}

/** AES in counter mode with a 16- or 32-byte key; the counter goes on from call to call. */
export interface StreamCipher {
  /** New bytes of the same length. */
  update(bytes: Uint8Array): Uint8Array;
}

const ZERO_IV = new Uint8Array(16);

/** tor-spec 0.3: all-zero IV unless the format carries one. */
export function aesCtr(key: Uint8Array, iv: Uint8Array = ZERO_IV): StreamCipher {
  return createCipheriv(key.length === 16 ? "aes-128-ctr" : "aes-256-ctr", key, iv);
}

/** AES of whole blocks, each for itself (ECB): what counter mode in keystream.ts is made of, and of use for nothing else. */
export type AesBlocks = (blocks: Uint8Array) => Uint8Array;

/** @param key 16 or 32 bytes. */
export function aesBlocks(key: Uint8Array): AesBlocks {
  const cipher = createCipheriv(key.length === 16 ? "aes-128-ecb" : "aes-256-ecb", key, null);
  cipher.setAutoPadding(false);
  return (blocks) => cipher.update(blocks);
}

/** A Curve25519 key pair. The private part stays a key object: importing raw bytes again costs more than using it. */
export interface X25519Key {
  /** 32 bytes. */
  readonly publicKey: Uint8Array;
  readonly secret: KeyObject;
}

const X25519_SPKI = Buffer.from("302a300506032b656e032100", "hex");
const X25519_PKCS8 = Buffer.from("302e020100300506032b656e04220420", "hex");
const ED25519_SPKI = Buffer.from("302a300506032b6570032100", "hex");
const ED25519_PKCS8 = Buffer.from("302e020100300506032b657004220420", "hex");

export function generateX25519(): X25519Key {
  const { publicKey, privateKey } = generateKeyPairSync("x25519");
  return { publicKey: rawPublic(publicKey), secret: privateKey };
}

/** @param secret 32 bytes, clamped by its use (RFC 7748). */
export function importX25519(secret: Uint8Array): X25519Key {
  const key = importSecret(X25519_PKCS8, secret);
  return { publicKey: rawPublic(createPublicKey(key)), secret: key };
}

/** The 32 secret bytes, for serialising. */
export function exportX25519(key: X25519Key): Uint8Array {
  return rawSecret(key.secret);
}

/**
 * The 32-byte shared secret. Throws ProtocolError `onion-crypto` for a peer's point of small order, whose secret
 * would be known to everyone (tor-spec 5.1.4 wants all-zero results refused).
 */
export function x25519(own: X25519Key, peer: Uint8Array): Uint8Array {
  let shared: Uint8Array;
  try {
    shared = diffieHellman({ privateKey: own.secret, publicKey: importPublic(X25519_SPKI, peer) });
  } catch (cause) {
    throw new ProtocolError("onion-crypto", "Cannot agree on a key: the peer's point is of no use", {
      cause,
    });
  }
  if (shared.every((byte) => byte === 0))
    throw new ProtocolError("onion-crypto", "Cannot agree on a key: the peer's point has small order");
  return shared;
}

/** An Ed25519 key pair of the standard kind (RFC 8032). */
export interface Ed25519Key {
  /** 32 bytes. */
  readonly publicKey: Uint8Array;
  readonly secret: KeyObject;
}

export function generateEd25519(): Ed25519Key {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519");
  return { publicKey: rawPublic(publicKey), secret: privateKey };
}

/** @param seed 32 bytes. */
export function importEd25519(seed: Uint8Array): Ed25519Key {
  const key = importSecret(ED25519_PKCS8, seed);
  return { publicKey: rawPublic(createPublicKey(key)), secret: key };
}

/** The 32-byte seed, for serialising. */
export function exportEd25519(key: Ed25519Key): Uint8Array {
  return rawSecret(key.secret);
}

export function signEd25519(key: Ed25519Key, message: Uint8Array): Uint8Array {
  return edSign(null, message, key.secret);
}

/** False for any signature or key that is not valid, malformed ones too. */
export function verifyEd25519(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
  if (publicKey.length !== 32 || signature.length !== 64) return false;
  try {
    return edVerify(null, message, importPublic(ED25519_SPKI, publicKey), signature);
  } catch {
    // A point that is not on the curve: not a key, so nothing it has signed.
    return false;
  }
}

/** An RSA public key; `der` is its PKCS#1 form, of which Tor takes digests. */
export interface RsaPublicKey {
  readonly der: Uint8Array;
  readonly bits: number;
  readonly key: KeyObject;
}

/** @param pkcs1 the DER of RSAPublicKey. Throws ProtocolError `onion-crypto`. */
export function importRsa(pkcs1: Uint8Array): RsaPublicKey {
  try {
    const key = createPublicKey({ key: Buffer.from(pkcs1), format: "der", type: "pkcs1" });
    // The digest that names the key is of these very bytes: another encoding of it has another name.
    return rsaOf(key, pkcs1);
  } catch (cause) {
    throw new ProtocolError("onion-crypto", "Cannot read RSA key: it is no RSAPublicKey", { cause });
  }
}

function rsaOf(key: KeyObject, der: Uint8Array): RsaPublicKey {
  return { der: Uint8Array.from(der), bits: key.asymmetricKeyDetails?.modulusLength ?? 0, key };
}

/**
 * What the signer put under PKCS#1 v1.5 padding: in Tor a bare hash, without the DigestInfo around it
 * (tor-spec 0.3). undefined when the signature is not by this key.
 */
export function rsaSigned(key: RsaPublicKey, signature: Uint8Array): Uint8Array | undefined {
  try {
    return publicDecrypt({ key: key.key, padding: constants.RSA_PKCS1_PADDING }, signature);
  } catch {
    // Wrong length or wrong padding: not this key's signature.
    return undefined;
  }
}

/** An X.509 certificate with an RSA key that signed itself, as Tor's identity certificates are (tor-spec 2.1). */
export interface SelfSignedRsa {
  readonly key: RsaPublicKey;
  /** Unix milliseconds. */
  readonly validFromMs: number;
  readonly validToMs: number;
}

/** Throws ProtocolError `onion-crypto` unless `der` is such a certificate and its signature is good. */
export function readSelfSignedRsa(der: Uint8Array): SelfSignedRsa {
  let isSigned: boolean;
  let read: SelfSignedRsa;
  try {
    const certificate = new X509Certificate(der);
    isSigned = certificate.verify(certificate.publicKey);
    read = {
      key: rsaOf(certificate.publicKey, certificate.publicKey.export({ type: "pkcs1", format: "der" })),
      validFromMs: Date.parse(certificate.validFrom),
      validToMs: Date.parse(certificate.validTo),
    };
  } catch (cause) {
    throw new ProtocolError(
      "onion-crypto",
      "Cannot read certificate: it is no X.509 certificate of an RSA key",
      {
        cause,
      },
    );
  }
  if (!isSigned)
    throw new ProtocolError("onion-crypto", "Cannot trust certificate: it is not signed by its own key");
  return read;
}

function importPublic(prefix: Uint8Array, raw: Uint8Array): KeyObject {
  if (raw.length !== 32)
    throw new ProtocolError("onion-crypto", `Cannot read key: ${String(raw.length)} bytes, 32 wanted`);
  return createPublicKey({ key: Buffer.concat([prefix, raw]), format: "der", type: "spki" });
}

function importSecret(prefix: Uint8Array, raw: Uint8Array): KeyObject {
  if (raw.length !== 32)
    throw new ProtocolError("onion-crypto", `Cannot read key: ${String(raw.length)} bytes, 32 wanted`);
  return createPrivateKey({ key: Buffer.concat([prefix, raw]), format: "der", type: "pkcs8" });
}

function rawPublic(key: KeyObject): Uint8Array {
  return Uint8Array.from(Buffer.from(key.export({ format: "jwk" }).x ?? "", "base64url"));
}

function rawSecret(key: KeyObject): Uint8Array {
  return Uint8Array.from(Buffer.from(key.export({ format: "jwk" }).d ?? "", "base64url"));
}
