// A function's source on its way up, compressed (spec/wire 4): a circuit carries little in its first round trips, and a
// bundled function is mostly text. Nothing else is compressed with it, so that the length says nothing of arguments.

import { deflateRawSync, inflateRawSync } from "node:zlib";
import { fromUtf8, utf8 } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import { Limits } from "./limits.ts";

/** Below, a frame more or less makes no difference on a circuit. */
const WORTH_BYTES = 16 * 1024;
/**
 * How much larger than its packed form a source may be. Text reaches 4 to 8; more would let few bytes of a stranger
 * cost the box many.
 */
export const PACKED_RATIO_MAX = 32;

/** Raw deflate (RFC 1951) of the UTF-8 text; undefined where that gains little or breaks the bounds. */
export function packSource(source: string): Uint8Array | undefined {
  const plain = utf8(source);
  if (plain.length < WORTH_BYTES) return undefined;
  const packed = deflateRawSync(plain);
  return packed.length < plain.length && plain.length <= packed.length * PACKED_RATIO_MAX
    ? packed
    : undefined;
}

/** Throws ProtocolError on what is no deflate, no UTF-8, or larger than a package or PACKED_RATIO_MAX allow. */
export function unpackSource(packed: Uint8Array): string {
  const bytesMax = Math.min(Limits.packageBytesMax, packed.length * PACKED_RATIO_MAX);
  try {
    return fromUtf8(inflateRawSync(packed, { maxOutputLength: Math.max(1, bytesMax) }));
  } catch (cause) {
    throw new ProtocolError(
      "bad-request",
      `Cannot read source: expected deflated UTF-8 of at most ${bytesMax} bytes`,
      { cause },
    );
  }
}
