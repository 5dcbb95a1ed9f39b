// Bytes of a test as the content of a put.

import type { PutContent } from "../../src/client/dropbox/put.ts";

/** Read from any byte on, as a put that is resumed asks for it, in pieces of 50,000 bytes or less. */
export function contentOf(bytes: Uint8Array): PutContent {
  return {
    size: bytes.length,
    async *read(from) {
      for (let at = from; at < bytes.length; at += 50_000) yield bytes.subarray(at, at + 50_000);
    },
  };
}
