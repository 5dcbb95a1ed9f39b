// Encryption of one stored value (spec/storage 3.2): AES-256-GCM in chunks, the STREAM construction. The key is
// the file's own, so a counter is nonce enough; position and finality are authenticated, so that chunks cannot be
// changed, swapped, dropped, repeated or taken from another or an older file. Guards the disk, which is not trusted.

import { createCipheriv, createDecipheriv, createSecretKey, hkdfSync, type KeyObject } from "node:crypto";
import { utf8, view } from "../../base/bytes.ts";

/** Plain bytes in every chunk but the last. */
export const CHUNK_BYTES = 64 * 1024;
const TAG_BYTES = 16;
const NONCE_BYTES = 12;

/** How many chunks hold `bytes` plain bytes: an empty value has one, so that its end is authenticated too. */
export function chunkCount(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / CHUNK_BYTES));
}

/** Bytes on disk of a chunk with `bytes` plain bytes. */
export function sealedBytes(bytes: number): number {
  return bytes + TAG_BYTES;
}

export class FileCipher {
  /** Not its bytes: Node would prepare them anew for each chunk, which takes longer than to decrypt it. */
  readonly #key: KeyObject;
  readonly #label: Uint8Array;

  /** @param fileId random, never used twice under `functionKey`: 32 hexadecimal digits */
  constructor(functionKey: Uint8Array, functionId: string, fileId: string) {
    const key = new Uint8Array(hkdfSync("sha256", functionKey, fileId, "bento storage file 1", 32));
    this.#key = createSecretKey(key);
    key.fill(0);
    this.#label = utf8(`bento storage 1\n${functionId}\n${fileId}\n`);
  }

  /** ciphertext | tag, at the start of `room`. */
  seal(index: number, isFinal: boolean, plain: Uint8Array, room: Uint8Array): Uint8Array {
    const nonce = nonceOf(index, isFinal);
    const cipher = createCipheriv("aes-256-gcm", this.#key, nonce).setAAD(this.#label);
    const sealed = room.subarray(0, plain.length + TAG_BYTES);
    sealed.set(cipher.update(plain));
    cipher.final();
    sealed.set(cipher.getAuthTag(), plain.length);
    return sealed;
  }

  /** Throws Error when the chunk is not the one that was sealed here. */
  open(index: number, isFinal: boolean, sealed: Uint8Array): Uint8Array {
    const decipher = createDecipheriv("aes-256-gcm", this.#key, nonceOf(index, isFinal), {
      authTagLength: TAG_BYTES,
    });
    decipher.setAAD(this.#label).setAuthTag(sealed.subarray(-TAG_BYTES));
    const plain = decipher.update(sealed.subarray(0, -TAG_BYTES));
    decipher.final();
    return plain;
  }
}

/** [final u8] [000000] [index u64]: unique in a file, and GCM authenticates its nonce. */
function nonceOf(index: number, isFinal: boolean): Uint8Array {
  const nonce = new Uint8Array(NONCE_BYTES);
  nonce[0] = isFinal ? 1 : 0;
  view(nonce).setBigUint64(4, BigInt(index));
  return nonce;
}
