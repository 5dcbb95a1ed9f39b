// Ed25519 beyond the standard library: keys blinded for a time period, signatures with them, and Curve25519 keys in
// Ed25519 form. The only file that uses curve arithmetic. It is not constant-time: BigInt never is.
// Spec: rend-spec-v3 A.2 (key blinding), proposal 228 A (conversion), RFC 8032 5.1.6 (signing).

import { ed25519 } from "@noble/curves/ed25519.js";
import { concat, utf8 } from "../../base/bytes.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import { plain, u64 } from "../fields.ts";
import { random, sha3, sha512 } from "./primitives.ts";

const { Point } = ed25519;
const { Fn, Fp } = Point;

/** An Ed25519 key in its expanded form: what blinding starts from and ends in. */
export interface ExpandedKey {
  /** 32 bytes. */
  readonly publicKey: Uint8Array;
  /** a, 32 bytes little-endian. */
  readonly scalar: Uint8Array;
  /** RH: the half from which signatures take their nonces. 32 bytes. */
  readonly prefix: Uint8Array;
}

const FILE_TAG = utf8("== ed25519v1-secret: type0 ==\0\0\0");
const BLIND_STRING = utf8("Derive temporary signing key\0");
const PREFIX_STRING = utf8("Derive temporary signing key hash input");
const BASE_STRING = utf8(
  "(15112221349535400772501151409588531511454012693041857206046113283949847762202, 46316835694926478169428394003475163141307993866256225615783033603165251855960)",
);

/** @param seed 32 bytes, the usual form of an Ed25519 secret key. */
export function expandKey(seed: Uint8Array): ExpandedKey {
  const half = sha512(seed);
  return keyOf(clamp(plain(half.subarray(0, 32))), plain(half.subarray(32)));
}

export function generateExpandedKey(): ExpandedKey {
  return expandKey(random(32));
}

/**
 * Reads a key from C tor's `hs_ed25519_secret_key` file, or its bare 64 bytes as ADD_ONION takes them.
 * Throws BentoError `onion-key`.
 */
export function readExpandedKey(bytes: Uint8Array): ExpandedKey {
  const bare = bytes.length === 96 ? bytes.subarray(32) : bytes;
  if (bare.length !== 64 || (bytes.length === 96 && !FILE_TAG.every((byte, at) => byte === bytes[at])))
    throw new BentoError(
      "onion-key",
      `Cannot read onion service key: ${String(bytes.length)} bytes, wanted 64, or 96 with tor's file header`,
    );
  return keyOf(plain(bare.subarray(0, 32)), plain(bare.subarray(32)));
}

/** The file that C tor keeps the key in. */
export function writeExpandedKey({ scalar, prefix }: ExpandedKey): Uint8Array {
  return concat([FILE_TAG, scalar, prefix]);
}

function keyOf(scalar: Uint8Array, prefix: Uint8Array): ExpandedKey {
  return { publicKey: Point.BASE.multiply(scalarOf(scalar)).toBytes(), scalar, prefix };
}

/** RFC 8032 5.1.5: the lowest 3 bits and the highest cleared, the second highest set. */
function clamp(bytes: Uint8Array): Uint8Array {
  bytes[0] = (bytes[0] ?? 0) & 248;
  bytes[31] = ((bytes[31] ?? 0) & 63) | 64;
  return bytes;
}

function scalarOf(bytes: Uint8Array): bigint {
  return Fn.create(littleEndian(bytes));
}

function littleEndian(bytes: Uint8Array): bigint {
  return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}

/** Number of a time period, and its length in minutes (rend-spec-v3 2.2.1). */
export interface TimePeriod {
  readonly number: number;
  readonly minutes: number;
}

/** rend-spec-v3 A.2: h = H(BLIND_STRING | A | s | B | N), clamped; without the optional secret s. */
function blindingFactor(publicKey: Uint8Array, { number, minutes }: TimePeriod): bigint {
  const nonce = concat([utf8("key-blind"), u64(number), u64(minutes)]);
  return scalarOf(clamp(plain(sha3(BLIND_STRING, publicKey, BASE_STRING, nonce))));
}

/** The key that stands for the service during one period: nobody can link it to another period's without the address. */
export function blindKey(key: ExpandedKey, period: TimePeriod): ExpandedKey {
  const scalar = Fn.mul(blindingFactor(key.publicKey, period), scalarOf(key.scalar));
  return keyOf(Fn.toBytes(scalar), plain(sha512(PREFIX_STRING, key.prefix).subarray(0, 32)));
}

/** The same for whoever knows the address alone. Throws ProtocolError for 32 bytes that are no key. */
export function blindPublicKey(publicKey: Uint8Array, period: TimePeriod): Uint8Array {
  return pointOf(publicKey).multiply(blindingFactor(publicKey, period)).toBytes();
}

/** rend-spec-v3 1.9: an address must not hold a key with a small-order part: blinded keys of two such could be equal. */
function pointOf(publicKey: Uint8Array): InstanceType<typeof Point> {
  let point: InstanceType<typeof Point>;
  try {
    point = Point.fromBytes(publicKey);
  } catch (cause) {
    throw new ProtocolError("onion-key", "Cannot use key: it is no point of the curve", { cause });
  }
  if (point.isSmallOrder() || !point.isTorsionFree())
    throw new ProtocolError("onion-key", "Cannot use key: it has a small-order part");
  return point;
}

/** An ordinary Ed25519 signature (RFC 8032 5.1.6) with an expanded key. 64 bytes. */
export function signExpanded({ publicKey, scalar, prefix }: ExpandedKey, message: Uint8Array): Uint8Array {
  const nonce = Fn.create(littleEndian(sha512(prefix, message)));
  const commitment = Point.BASE.multiply(nonce).toBytes();
  const challenge = Fn.create(littleEndian(sha512(commitment, publicKey, message)));
  return concat([commitment, Fn.toBytes(Fn.add(nonce, Fn.mul(challenge, scalarOf(scalar))))]);
}

/** Proposal 228 A: the Ed25519 point with the same u, sign bit 0. Throws ProtocolError for a key that has none. */
export function ed25519FromX25519(publicKey: Uint8Array): Uint8Array {
  const u = Fp.create(littleEndian(publicKey) & ((1n << 255n) - 1n));
  const denominator = Fp.add(u, Fp.ONE);
  if (Fp.is0(denominator)) throw new ProtocolError("onion-key", "Cannot convert key: it has no Ed25519 form");
  return Fp.toBytes(Fp.mul(Fp.sub(u, Fp.ONE), Fp.inv(denominator)));
}
