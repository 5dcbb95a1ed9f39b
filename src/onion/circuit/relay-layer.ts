// One layer of a circuit's encryption in one direction: the stream cipher, and the running digest of what was meant
// for this hop. A cell is sealed for one hop, then encrypted by each layer from there to the first.
// Spec: tor-spec 5.5 (encryption), 6.1 (recognized, digest), rend-spec-v3 4.2.1 (onion service layers).

import { Keystream } from "../crypto/keystream.ts";
import { RunningDigest } from "../crypto/running-digest.ts";
import type { HopKeys } from "./hop-keys.ts";

const DIGEST_AT = 5;
const DIGEST_BYTES = 4;

export class RelayLayer {
  readonly #cipher: Keystream;
  readonly #digest: RunningDigest;

  constructor(kind: HopKeys["kind"], key: Uint8Array, digestSeed: Uint8Array) {
    this.#cipher = new Keystream(key);
    this.#digest = new RunningDigest(kind === "relay" ? "sha1" : "sha3-256", digestSeed);
  }

  /** Writes the digest into `body`, whose digest field is zero, and returns all of it, for SENDMEs. */
  seal(body: Uint8Array): Uint8Array {
    const digest = this.#digest.update(body);
    body.set(digest.subarray(0, DIGEST_BYTES), DIGEST_AT);
    return digest;
  }

  /** One step of encryption or decryption, the same in counter mode: in place. Returns `body`. */
  crypt(body: Uint8Array): Uint8Array {
    this.#cipher.xor(body);
    return body;
  }

  /**
   * The whole digest when this decrypted `body` was sealed by this hop, and its digest field is zero then; else undefined and
   * nothing has changed.
   */
  recognize(body: Uint8Array): Uint8Array | undefined {
    // Not zero: certainly not for us. By chance zero once in 65,536 cells: then the digest decides.
    if (body[1] !== 0 || body[2] !== 0) return undefined;
    // A copy: `slice` of what sockets give would be a view.
    const found = Uint8Array.from(body.subarray(DIGEST_AT, DIGEST_AT + DIGEST_BYTES));
    body.fill(0, DIGEST_AT, DIGEST_AT + DIGEST_BYTES);
    const digest = this.#digest.updateIf(body, found);
    if (!digest) body.set(found, DIGEST_AT);
    return digest;
  }
}

/** Both layers of a hop, as whoever built the circuit uses them; the other end swaps them. */
export function relayLayers(keys: HopKeys): { readonly forward: RelayLayer; readonly backward: RelayLayer } {
  return {
    forward: new RelayLayer(keys.kind, keys.forwardKey, keys.forwardDigest),
    backward: new RelayLayer(keys.kind, keys.backwardKey, keys.backwardDigest),
  };
}
