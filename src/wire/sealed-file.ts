// A file as it leaves its owner: encrypted and authenticated in segments under one key that is used for this file
// alone, padded to a size that says little (spec/sealed-file). Segments can be made and opened one by one, so that
// transfers stream and resume; a segment that was changed, moved, repeated or left out, and a missing end, are
// noticed.
//
//   segment i: AES-256-GCM(key, nonce = [final u8] [000000] [i u64 BE], aad = "bento sealed 1",
//              [count u32 BE] [count bytes of the file] [zeros]) with its tag of 16 bytes
//   all but the last segment are SEGMENT_BYTES long; the last one is marked as such and at most as long

import { createCipheriv, createDecipheriv } from "node:crypto";
import { ByteQueue } from "../base/byte-queue.ts";
import { utf8, view } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";

export const SEGMENT_BYTES = 64 * 1024;
export const SEAL_KEY_BYTES = 32;
const TAG_BYTES = 16;
const COUNT_BYTES = 4;
/** What a segment costs beside the file's bytes. */
const OVERHEAD_BYTES = TAG_BYTES + COUNT_BYTES;
/** Bytes of the file in one full segment. */
export const SEGMENT_CAPACITY = SEGMENT_BYTES - OVERHEAD_BYTES;
const AAD = utf8("bento sealed 1");

/** How the sealed size is rounded up. */
export type Padding =
  | { readonly kind: "none" }
  | { readonly kind: "multiple"; readonly bytes: number }
  /** At most 12 % more, and as little as possible known of the size (PURBs, section 4). */
  | { readonly kind: "padme" };

/** Size of a file of `fileBytes` bytes once sealed. */
export function sealedSize(fileBytes: number, padding: Padding): number {
  const segments = Math.max(1, Math.ceil(fileBytes / SEGMENT_CAPACITY));
  const padded = paddedSize(fileBytes + segments * OVERHEAD_BYTES, padding);
  // The last segment must have room for its own count and tag.
  const rest = padded % SEGMENT_BYTES;
  return rest > 0 && rest < OVERHEAD_BYTES ? padded - rest + OVERHEAD_BYTES : padded;
}

function paddedSize(bytes: number, padding: Padding): number {
  switch (padding.kind) {
    case "none":
      return bytes;
    case "multiple":
      return Math.ceil(bytes / padding.bytes) * padding.bytes;
    case "padme": {
      // Padmé: as many significant bits as the exponent has bits, rounded up.
      const exponent = Math.floor(Math.log2(bytes));
      const kept = Math.floor(Math.log2(exponent)) + 1;
      const unit = 2 ** Math.max(0, exponent - kept);
      return Math.ceil(bytes / unit) * unit;
    }
  }
}

/**
 * Seals `content`, the bytes of the file from segment `first` on: from byte `first * SEGMENT_CAPACITY`, if the file
 * is that long. Yields whole segments. `fileBytes`, the size of the file, must be given with `first`.
 * One key must never seal two different files.
 */
export async function* sealFile(
  content: AsyncIterable<Uint8Array>,
  key: Uint8Array,
  options: { readonly padding: Padding; readonly first?: number; readonly fileBytes?: number },
): AsyncGenerator<Uint8Array> {
  const queue = new ByteQueue();
  let index = options.first ?? 0;
  let counted = 0;
  for await (const piece of content) {
    queue.push(piece);
    counted += piece.length;
    // A full segment waits until it is known that more follows: the last one is marked.
    while (queue.length > SEGMENT_CAPACITY) {
      const bytes = queue.take(SEGMENT_CAPACITY) as Uint8Array;
      yield sealSegment(key, { index, final: false, bytes, plainBytes: SEGMENT_BYTES - TAG_BYTES });
      index++;
    }
  }
  const size = sealedSize(options.fileBytes ?? counted, options.padding);
  for (;;) {
    const left = size - index * SEGMENT_BYTES;
    const plainBytes = Math.min(left, SEGMENT_BYTES) - TAG_BYTES;
    const bytes = queue.take(Math.min(queue.length, plainBytes - COUNT_BYTES)) ?? new Uint8Array();
    yield sealSegment(key, { index, final: left <= SEGMENT_BYTES, bytes, plainBytes });
    if (left <= SEGMENT_BYTES) return;
    index++;
  }
}

/**
 * Opens what `sealFile` made, from segment `first` on: yields the bytes of the file as they are verified.
 * Throws ProtocolError "integrity" on any byte that is not as it was sealed, and when the end is missing.
 */
export async function* openFile(
  sealed: AsyncIterable<Uint8Array>,
  key: Uint8Array,
  options: { readonly first?: number } = {},
): AsyncGenerator<Uint8Array> {
  const queue = new ByteQueue();
  let index = options.first ?? 0;
  let ended = false;
  const open = (bytes: Uint8Array, final: boolean): Uint8Array => {
    const content = openSegment(key, { index, final, bytes });
    // After the file come zeros only: one file has one sealed form for each size.
    if (ended && content.length > 0) throw damaged(index);
    ended = content.length < bytes.length - OVERHEAD_BYTES;
    index++;
    return content;
  };
  for await (const piece of sealed) {
    queue.push(piece);
    while (queue.length > SEGMENT_BYTES) {
      const content = open(queue.take(SEGMENT_BYTES) as Uint8Array, false);
      if (content.length > 0) yield content;
    }
  }
  const content = open(queue.take(queue.length) ?? new Uint8Array(), true);
  if (content.length > 0) yield content;
}

function sealSegment(
  key: Uint8Array,
  segment: {
    readonly index: number;
    readonly final: boolean;
    readonly bytes: Uint8Array;
    readonly plainBytes: number;
  },
): Uint8Array {
  const { index, final, bytes, plainBytes } = segment;
  const plain = new Uint8Array(plainBytes);
  view(plain).setUint32(0, bytes.length);
  plain.set(bytes, COUNT_BYTES);
  const cipher = createCipheriv("aes-256-gcm", key, nonceOf(index, final)).setAAD(AAD);
  const out = new Uint8Array(plainBytes + TAG_BYTES);
  out.set(cipher.update(plain));
  cipher.final();
  out.set(cipher.getAuthTag(), plainBytes);
  return out;
}

function openSegment(
  key: Uint8Array,
  segment: { readonly index: number; readonly final: boolean; readonly bytes: Uint8Array },
): Uint8Array {
  const { index, final, bytes } = segment;
  if (bytes.length < OVERHEAD_BYTES) throw damaged(index);
  const decipher = createDecipheriv("aes-256-gcm", key, nonceOf(index, final), { authTagLength: TAG_BYTES });
  decipher.setAAD(AAD).setAuthTag(bytes.subarray(-TAG_BYTES));
  const plain = decipher.update(bytes.subarray(0, -TAG_BYTES));
  try {
    decipher.final();
  } catch (cause) {
    throw damaged(index, cause);
  }
  const count = view(plain).getUint32(0);
  if (count > plain.length - COUNT_BYTES) throw damaged(index);
  return plain.subarray(COUNT_BYTES, COUNT_BYTES + count);
}

function nonceOf(index: number, final: boolean): Uint8Array {
  const nonce = new Uint8Array(12);
  nonce[0] = final ? 1 : 0;
  view(nonce).setBigUint64(4, BigInt(index));
  return nonce;
}

function damaged(index: number, cause?: unknown): ProtocolError {
  return new ProtocolError("integrity", `Cannot open file: segment ${index} is not as it was sealed`, {
    cause,
    advice: "It was changed or cut short, or the key belongs to another file.",
  });
}
