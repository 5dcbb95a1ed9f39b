// A digest over everything so far, readable at any point: what relay cells carry four bytes of.
// Not node:crypto's: reading one of its digests that goes on takes a copy of an object that lies outside the heap, three of
// them a cell, and Deno collects those too late for the memory that a function has.
// Spec: tor-spec 6.1 (running digests); FIPS 180-4 (SHA-1), FIPS 202 (SHA3-256).

import { createSHA1, createSHA3 } from "hash-wasm";

/** One of each for all digests, whose states take turns in it: no call is interrupted. */
const HASHERS = { sha1: await createSHA1(), "sha3-256": await createSHA3(256) };

export class RunningDigest {
  readonly #hasher: (typeof HASHERS)[keyof typeof HASHERS];
  #state: Uint8Array;

  constructor(algorithm: keyof typeof HASHERS, seed: Uint8Array) {
    this.#hasher = HASHERS[algorithm];
    this.#state = this.#hasher.init().update(seed).save();
  }

  /** Takes `bytes` in and returns the digest of everything so far. */
  update(bytes: Uint8Array): Uint8Array {
    const { state, digest } = this.#after(bytes);
    this.#state = state;
    return digest;
  }

  /**
   * Takes `bytes` in if the digest then begins with `start`, and returns it; otherwise nothing has changed. For cells of which
   * it is not known yet whether they are meant for us (tor-spec 6.1).
   */
  updateIf(bytes: Uint8Array, start: Uint8Array): Uint8Array | undefined {
    const { state, digest } = this.#after(bytes);
    if (start.some((byte, index) => byte !== digest[index])) return undefined;
    this.#state = state;
    return digest;
  }

  #after(bytes: Uint8Array): { readonly state: Uint8Array; readonly digest: Uint8Array } {
    const state = this.#hasher.load(this.#state).update(bytes).save();
    return { state, digest: this.#hasher.digest("binary") };
  }
}
