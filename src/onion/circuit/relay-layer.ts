// One layer of a circuit's encryption in one direction: the stream cipher, and the running digest of what was meant
// for this hop. A cell is sealed for one hop, then encrypted by each layer from there to the first.
// Spec: tor-spec 5.5 (encryption), 6.1 (recognized, digest), rend-spec-v3 4.2.1 (onion service layers).

import { aesCtr, RunningDigest, type StreamCipher } from "../crypto/primitives.ts";
import type { HopKeys } from "./hop-keys.ts";

const DIGEST_AT = 5;

export class RelayLayer {
  readonly #cipher: StreamCipher;
  readonly #digest: RunningDigest;

  constructor(kind: HopKeys["kind"], key: Uint8Array, digestSeed: Uint8Array) {
    this.#cipher = aesCtr(key);
    this.#digest = new RunningDigest(kind === "relay" ? "sha1" : "sha3-256", digestSeed);
  }

  /** Writes the digest into `body`, whose digest field is zero, and returns all of it, for SENDMEs. */
  seal(body: Uint8Array): Uint8Array {
    const digest = this.#digest.update(body);
    body.set(digest.subarray(0, 4), DIGEST_AT);
    return digest;
  }

  /** One step of encryption or decryption: the same in counter mode. */
  crypt(body: Uint8Array): Uint8Array {
    return this.#cipher.update(body);
  }

  /**
   * The whole digest when this decrypted `body` was sealed by this hop; else undefined and nothing has changed.
   * The body's digest field is zero afterwards when the recognized field is.
   */
  recognize(body: Uint8Array): Uint8Array | undefined {
    // Not zero: certainly not for us. By chance zero once in 65,536 cells: then the digest decides.
    if (body[1] !== 0 || body[2] !== 0) return undefined;
    const [a, b, c, d] = body.subarray(DIGEST_AT, DIGEST_AT + 4);
    body.fill(0, DIGEST_AT, DIGEST_AT + 4);
    const { digest, commit } = this.#digest.preview(body);
    if (digest[0] === a && digest[1] === b && digest[2] === c && digest[3] === d) {
      commit();
      return digest;
    }
    body.set([a ?? 0, b ?? 0, c ?? 0, d ?? 0], DIGEST_AT);
    return undefined;
  }
}

/** Both layers of a hop, as whoever built the circuit uses them; the other end swaps them. */
export function relayLayers(keys: HopKeys): { readonly forward: RelayLayer; readonly backward: RelayLayer } {
  return {
    forward: new RelayLayer(keys.kind, keys.forwardKey, keys.forwardDigest),
    backward: new RelayLayer(keys.kind, keys.backwardKey, keys.backwardDigest),
  };
}
