// How a function's package lies at rest (spec/storage 2.2): AES-256-GCM under a random key K of its own, and K
// wrapped twice, for whoever holds the invocation token and for whoever holds the shutdown token. The box keeps
// only hashes of tokens, so a seized disk shows neither code nor names nor manifests without a token.

import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { concat, fromUtf8, utf8 } from "../../base/bytes.ts";

const KEY_BYTES = 32;
/** NIST SP 800-38D 8.2.2: a random 96-bit nonce, under keys that seal once each. */
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** The two texts of a package: the manifest as its author wrote it, as JSON, and the source. */
export interface PackageText {
  readonly manifest: string;
  readonly source: string;
}

/** What is bound into the seal in the clear; changing any of it breaks the seal. */
export interface SealContext {
  /** 32 hexadecimal digits. */
  readonly id: string;
  /** Unix milliseconds. */
  readonly storedAt: number;
  readonly expiresAt: number;
}

export interface SealedPackage {
  readonly sealed: Uint8Array;
  readonly invocationWrap: Uint8Array;
  readonly shutdownWrap: Uint8Array;
}

/** Which token opens a wrap. */
export type WrapKind = "invocation" | "shutdown";

export function sealPackage(
  text: PackageText,
  tokens: { readonly invocation: string; readonly shutdown: string },
  context: SealContext,
): SealedPackage {
  const key = randomBytes(KEY_BYTES);
  try {
    return {
      sealed: seal(key, utf8(JSON.stringify([text.manifest, text.source])), label("package", context)),
      invocationWrap: wrap(key, "invocation", tokens.invocation, context),
      shutdownWrap: wrap(key, "shutdown", tokens.shutdown, context),
    };
  } finally {
    key.fill(0);
  }
}

/** Throws Error when the token is of another function or any byte of seal, wrap or context has changed. */
export function openPackage(
  sealed: Uint8Array,
  wrapped: Uint8Array,
  kind: WrapKind,
  token: string,
  context: SealContext,
): PackageText {
  const key = unseal(wrapKey(kind, token, context), wrapped, label(kind, context));
  try {
    const [manifest, source] = JSON.parse(fromUtf8(unseal(key, sealed, label("package", context)))) as [
      string,
      string,
    ];
    return { manifest, source };
  } finally {
    key.fill(0);
  }
}

function wrap(key: Uint8Array, kind: WrapKind, token: string, context: SealContext): Uint8Array {
  return seal(wrapKey(kind, token, context), key, label(kind, context));
}

/** RFC 5869. Tokens carry 122 and 256 random bits, so no slow hash is needed; the id is the salt. */
function wrapKey(kind: WrapKind, token: string, context: SealContext): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", token, context.id, `bento function key 1, ${kind}`, KEY_BYTES));
}

function label(part: WrapKind | "package", context: SealContext): Uint8Array {
  return utf8(`bento function 1\n${part}\n${context.id}\n${context.storedAt}\n${context.expiresAt}`);
}

/** nonce | ciphertext | tag */
function seal(key: Uint8Array, plain: Uint8Array, label: Uint8Array): Uint8Array {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv("aes-256-gcm", key, nonce).setAAD(label);
  const body = cipher.update(plain);
  cipher.final();
  return concat([nonce, body, cipher.getAuthTag()]);
}

function unseal(key: Uint8Array, sealed: Uint8Array, label: Uint8Array): Uint8Array {
  if (sealed.length < NONCE_BYTES + TAG_BYTES) throw new Error("sealed text is too short");
  const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, NONCE_BYTES), {
    authTagLength: TAG_BYTES,
  });
  decipher.setAAD(label).setAuthTag(sealed.subarray(-TAG_BYTES));
  const plain = decipher.update(sealed.subarray(NONCE_BYTES, -TAG_BYTES));
  decipher.final();
  return plain;
}
