// The keys of one sharded file, all from the receipt's secret (spec/shard 4), and the MAC of a record. Each shard has
// a key of its own, and a new one each time it is put anew: a record of another shard, place, time or file fails.

import { createHmac, hkdfSync, timingSafeEqual } from "node:crypto";
import { view } from "../../base/bytes.ts";
import { MAC_BYTES } from "../../wire/shard/layout.ts";

export class ShardKeys {
  readonly #secret: Uint8Array;
  readonly #macKeys = new Map<string, Uint8Array>();

  constructor(secret: Uint8Array) {
    this.#secret = secret;
  }

  /** What the file is sealed under before it is sharded. */
  get sealKey(): Uint8Array {
    return this.#derive("seal");
  }

  /** The owner's secret of the Dropbox that keeps a shard. */
  writer(shard: number, generation: number): string {
    return Buffer.from(this.#derive(`writer ${shard} ${generation}`)).toString("base64url");
  }

  /** HMAC-SHA-256 over the number of the stripe and the block, its first 16 bytes. */
  mac(shard: number, generation: number, stripe: number, block: Uint8Array): Uint8Array {
    const name = `mac ${shard} ${generation}`;
    let key = this.#macKeys.get(name);
    if (!key) {
      key = this.#derive(name);
      this.#macKeys.set(name, key);
    }
    const number = new Uint8Array(8);
    view(number).setBigUint64(0, BigInt(stripe));
    return createHmac("sha256", key).update(number).update(block).digest().subarray(0, MAC_BYTES);
  }

  verify(shard: number, generation: number, stripe: number, block: Uint8Array, mac: Uint8Array): boolean {
    return mac.length === MAC_BYTES && timingSafeEqual(this.mac(shard, generation, stripe, block), mac);
  }

  #derive(use: string): Uint8Array {
    return new Uint8Array(hkdfSync("sha256", this.#secret, new Uint8Array(), `bento shard 1 ${use}`, 32));
  }
}
