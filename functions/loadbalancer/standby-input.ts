// What a standby is sent before anything else: the replica's package and the site, as its primary was sent them.

import { Buffer } from "node:buffer";
import type { Json, Package, Storage } from "bento/function";
import { KEYS } from "./state.ts";

/** Of one message. */
const INPUT_BYTES = 256 * 1024;

export function packageBytes(pack: Package): Uint8Array {
  return Uint8Array.from(Buffer.from(JSON.stringify(pack as unknown as Json)));
}

/** Throws Error where the site is not in the storage. */
export async function* standbyInput(
  storage: Storage,
  pack: Package,
  hasSite: boolean,
): AsyncGenerator<Uint8Array> {
  const bytes = packageBytes(pack);
  for (let at = 0; at < bytes.length; at += INPUT_BYTES) yield bytes.subarray(at, at + INPUT_BYTES);
  if (!hasSite) return;
  const site = await storage.get(KEYS.site);
  if (!site) throw new Error("Cannot copy site: it is not in the storage");
  yield* site.readable;
}
