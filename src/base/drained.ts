// Back-pressure of Node's streams: a write that gave false has been taken, and the next one waits for this.

import type { Writable } from "node:stream";

/** Resolves when `stream` has room again, or never will because it is closed: which of them, the caller knows or asks. */
export async function drained(stream: Writable): Promise<void> {
  if (stream.closed) return;
  const { promise, resolve } = Promise.withResolvers<void>();
  stream.once("drain", resolve);
  stream.once("close", resolve);
  await promise;
  stream.off("drain", resolve);
  stream.off("close", resolve);
}
