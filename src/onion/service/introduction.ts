// Introduction: keys of one introduction point, the message that claims the point, and opening what clients send through
// it. Pure steps; `introduction-circuit.ts` carries them.
// Boundary: introduction points are relays, introductions come from anybody who knows the address.
// Spec: rend-spec-v3 3.1.1 [EST_INTRO], 3.2, 3.3 [FMT_INTRO1, PROCESS_INTRO2].

import { concat, utf8 } from "../../base/bytes.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import type { CircuitRelay } from "../circuit/circuit.ts";
import { decodeLinkSpecifiers, encodeLinkSpecifiers } from "../circuit/link-specifier.ts";
import {
  type Ed25519Key,
  equal,
  exportEd25519,
  exportX25519,
  generateEd25519,
  generateX25519,
  importEd25519,
  importX25519,
  sha256,
  signEd25519,
  type X25519Key,
} from "../crypto/primitives.ts";
import { EXTENSION_CONGESTION_REQUEST, encodeExtensions, readExtensions } from "../extensions.ts";
import { FieldReader, plain, u8, u16 } from "../fields.ts";
import { REPLAY_CACHE_ENTRIES_MAX } from "../limits.ts";
import type { RendezvousMaterial } from "./handover.ts";
import { hsMac, openIntroduction } from "./hs-ntor.ts";

/** What makes an introduction point ours. Whoever holds the same keys can claim the point, and the relay drops us. */
export interface IntroductionSecrets {
  readonly auth: Ed25519Key;
  readonly encryption: X25519Key;
}

const SIGNATURE_PREFIX = utf8("Tor establish-intro cell v1");
const AUTH_KEY_ED25519 = 2;
const ONION_KEY_NTOR = 1;
export const COOKIE_BYTES = 20;

export function generateIntroductionSecrets(): IntroductionSecrets {
  return { auth: generateEd25519(), encryption: generateX25519() };
}

/** 64 bytes, for a standby or a restart. */
export function exportIntroductionSecrets({ auth, encryption }: IntroductionSecrets): Uint8Array {
  return concat([exportEd25519(auth), exportX25519(encryption)]);
}

export function importIntroductionSecrets(bytes: Uint8Array): IntroductionSecrets {
  return { auth: importEd25519(bytes.subarray(0, 32)), encryption: importX25519(bytes.subarray(32)) };
}

/** Body of ESTABLISH_INTRO. `nonce`: KH of the circuit's last hop, which ties the claim to this circuit. */
export function encodeEstablishIntro({ auth }: IntroductionSecrets, nonce: Uint8Array): Uint8Array {
  const head = concat([u8(AUTH_KEY_ED25519), u16(32), auth.publicKey, encodeExtensions([])]);
  const authenticated = concat([head, hsMac(nonce, head)]);
  const signature = signEd25519(auth, concat([SIGNATURE_PREFIX, authenticated]));
  return concat([authenticated, u16(signature.length), signature]);
}

/** Introductions that one point has brought: a copy of one opens no second circuit (rend-spec-v3 3.3). */
export class ReplayCache {
  readonly #seen: Set<string>;
  readonly #entriesMax: number;
  readonly #onAdded: (entry: Uint8Array) => void;

  /**
   * @param options.seen entries that `onAdded` told of, in an earlier life of the same keys: 16 bytes each.
   * @param options.onAdded called with each new entry, for whoever keeps them.
   */
  constructor(
    options: {
      readonly entriesMax?: number;
      readonly seen?: Iterable<Uint8Array>;
      readonly onAdded?: (entry: Uint8Array) => void;
    } = {},
  ) {
    this.#entriesMax = options.entriesMax ?? REPLAY_CACHE_ENTRIES_MAX;
    this.#onAdded = options.onAdded ?? (() => undefined);
    this.#seen = new Set(Array.from(options.seen ?? [], keyOf));
  }

  /** Nothing more is let through: the point must be given up for one with new keys. */
  get isFull(): boolean {
    return this.#seen.size >= this.#entriesMax;
  }

  /** Throws BentoError `onion-replay` for what was there before, and `onion-replay-full`. */
  add(encrypted: Uint8Array): void {
    // 16 bytes: nobody finds another introduction with the same ones, and it would only be dropped.
    const entry = plain(sha256(encrypted).subarray(0, REPLAY_ENTRY_BYTES));
    const key = keyOf(entry);
    if (this.#seen.has(key))
      throw new BentoError("onion-replay", "Cannot take introduction: it was there before");
    if (this.isFull)
      throw new BentoError("onion-replay-full", "Cannot take introduction: its point is worn out");
    this.#seen.add(key);
    this.#onAdded(entry);
  }
}

export const REPLAY_ENTRY_BYTES = 16;

function keyOf(entry: Uint8Array): string {
  return Buffer.from(entry).toString("latin1");
}

/** What a client asked for in an introduction, not yet answered. */
export interface Introduction {
  /** The rendezvous point. A stranger chose it: it may be any address. */
  readonly rendezvousPoint: CircuitRelay;
  readonly wantsCongestionControl: boolean;
  /** The maths of the answer: everything that a replica needs to meet this one client, and nothing else. */
  finish(): RendezvousMaterial;
}

/**
 * Opens the body of INTRODUCE2.
 * @param subcredentials of the current period and its neighbours.
 * Throws ProtocolError `onion-introduction` or `onion-format`, or BentoError `onion-replay`.
 */
export function readIntroduction(
  body: Uint8Array,
  { auth, encryption }: IntroductionSecrets,
  subcredentials: readonly Uint8Array[],
  replays: ReplayCache,
): Introduction {
  const { header, authKey, encrypted } = splitIntroduce(body);
  if (!equal(authKey, auth.publicKey))
    throw new ProtocolError("onion-introduction", "Cannot open introduction: it is for another point");
  const opened = openIntroduction({ authKey: auth.publicKey, encryption }, subcredentials, header, encrypted);
  // After the MAC: garbage must not fill the cache.
  replays.add(encrypted);
  const { cookie, extensions, rendezvousPoint } = readPlaintext(opened.plaintext);
  const wantsCongestionControl = extensions.has(EXTENSION_CONGESTION_REQUEST);
  return {
    rendezvousPoint,
    wantsCongestionControl,
    finish: () => ({
      ...opened.finish(),
      cookie,
      rendezvousPoint,
      usesCongestionControl: wantsCongestionControl,
    }),
  };
}

/** 3.2: LEGACY_KEY_ID, AUTH_KEY, extensions, ENCRYPTED. The MAC covers everything before ENCRYPTED, too. */
function splitIntroduce(body: Uint8Array) {
  const reader = new FieldReader(body, "INTRODUCE2");
  const legacy = reader.bytes(20);
  const type = reader.u8();
  const authKey = reader.bytes(reader.u16());
  if (legacy.some((byte) => byte !== 0) || type !== AUTH_KEY_ED25519 || authKey.length !== 32)
    throw new ProtocolError("onion-introduction", "Cannot open introduction: it is of an old kind");
  readExtensions(reader);
  const header = body.subarray(0, body.length - reader.remaining);
  return { header, authKey, encrypted: reader.rest() };
}

/** 3.3 [PROCESS_INTRO2]: cookie, extensions, the rendezvous point's onion key and link specifiers, padding. */
function readPlaintext(plaintext: Uint8Array) {
  const reader = new FieldReader(plaintext, "introduction");
  const cookie = plain(reader.bytes(COOKIE_BYTES));
  const extensions = readExtensions(reader);
  const type = reader.u8();
  const ntorKey = plain(reader.bytes(reader.u16()));
  if (type !== ONION_KEY_NTOR || ntorKey.length !== 32)
    throw new ProtocolError("onion-introduction", "Cannot open introduction: an onion key of another kind");
  return { cookie, extensions, rendezvousPoint: { ...decodeLinkSpecifiers(reader), ntorKey } };
}

/** What a client puts into an introduction; padded so that its length says nothing. */
export function encodePlaintext(options: {
  readonly cookie: Uint8Array;
  readonly rendezvousPoint: CircuitRelay;
  readonly wantsCongestionControl: boolean;
}): Uint8Array {
  const extensions = options.wantsCongestionControl
    ? [{ type: EXTENSION_CONGESTION_REQUEST, value: new Uint8Array(0) }]
    : [];
  const plaintext = concat([
    options.cookie,
    encodeExtensions(extensions),
    u8(ONION_KEY_NTOR),
    u16(32),
    options.rendezvousPoint.ntorKey,
    encodeLinkSpecifiers(options.rendezvousPoint),
  ]);
  const padded = new Uint8Array(PLAINTEXT_BYTES);
  padded.set(plaintext);
  return padded;
}

/** Room for an IPv6 address and every extension that we know. */
const PLAINTEXT_BYTES = 200;

/** Everything of INTRODUCE1 before ENCRYPTED. */
export function introduceHeader(authKey: Uint8Array): Uint8Array {
  return concat([new Uint8Array(20), u8(AUTH_KEY_ED25519), u16(32), authKey, encodeExtensions([])]);
}
