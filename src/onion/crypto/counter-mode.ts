// AES in counter mode made of AES on single blocks, for runtimes where the former is slow: Deno's XORs byte by byte and takes
// three times as long. Blocks are encrypted many at once, and XORed by words.
// Spec: NIST SP 800-38A 6.5 (CTR), B.1 (the counter is the whole block).

import type { StreamCipher } from "./primitives.ts";

const BLOCK_BYTES = 16;
/** Blocks encrypted at least, some of them ahead: a call costs as much as a hundred of them. */
const BLOCKS_MIN = 256;

/** @param encrypt AES on whole blocks (ECB). @param iv the first counter, 16 bytes. */
export function counterMode(encrypt: (blocks: Uint8Array) => Uint8Array, iv: Uint8Array): StreamCipher {
  const counter = new DataView(Uint8Array.from(iv).buffer);
  /** Key stream that is there and not yet used. */
  let ahead: Uint8Array = new Uint8Array(0);
  return {
    update(bytes) {
      const out = new Uint8Array(bytes.length);
      const used = Math.min(ahead.length, out.length);
      out.set(ahead.subarray(0, used));
      ahead = ahead.subarray(used);
      if (used < out.length) {
        const missing = out.length - used;
        const more = encrypt(counters(counter, Math.max(BLOCKS_MIN, Math.ceil(missing / BLOCK_BYTES))));
        out.set(more.subarray(0, missing), used);
        ahead = more.subarray(missing);
      }
      xorInto(out, bytes);
      return out;
    },
  };
}

/** The next counters, one block each; `counter` is the one after them then. */
function counters(counter: DataView, count: number): Uint8Array {
  const blocks = new DataView(new ArrayBuffer(count * BLOCK_BYTES));
  let a = counter.getUint32(0);
  let b = counter.getUint32(4);
  let c = counter.getUint32(8);
  let d = counter.getUint32(12);
  for (let at = 0; at < blocks.byteLength; at += BLOCK_BYTES) {
    blocks.setUint32(at, a);
    blocks.setUint32(at + 4, b);
    blocks.setUint32(at + 8, c);
    blocks.setUint32(at + 12, d);
    // Words carry into the one before them.
    d = (d + 1) >>> 0;
    if (d === 0) c = (c + 1) >>> 0;
    if (d === 0 && c === 0) b = (b + 1) >>> 0;
    if (d === 0 && c === 0 && b === 0) a = (a + 1) >>> 0;
  }
  for (const [index, word] of [a, b, c, d].entries()) counter.setUint32(4 * index, word);
  return new Uint8Array(blocks.buffer);
}

/** `into` begins at a multiple of 4 in its buffer. */
function xorInto(into: Uint8Array, bytes: Uint8Array): void {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const count = into.length >>> 2;
  const target = new Uint32Array(into.buffer, into.byteOffset, count);
  const source = new Uint32Array(aligned.buffer, aligned.byteOffset, count);
  for (let at = 0; at < count; at++) target[at] = (target[at] ?? 0) ^ (source[at] ?? 0);
  for (let at = 4 * count; at < into.length; at++) into[at] = (into[at] ?? 0) ^ (aligned[at] ?? 0);
}
