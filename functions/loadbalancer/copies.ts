// What others are sent of the service: a replica the settings and the site, a standby the replica's package and the site, as
// the load balancer was sent them. None of it is a key of the service.

import { Buffer } from "node:buffer";
import type { Json, Package, Storage } from "bento/function";
import type { ReplicaStart } from "../replica/protocol.ts";
import { KEYS, type KeptState } from "./state.ts";

/** Of one message. */
const INPUT_BYTES = 256 * 1024;

/** The argument of a replica. */
export function replicaStart({ start, siteDigest, epoch }: KeptState): ReplicaStart {
  const { serve, virtualPort } = start;
  return {
    version: 1,
    epoch,
    virtualPort,
    serve: serve.kind === "files" ? { kind: "files", siteBytes: serve.siteBytes, siteDigest } : serve,
  };
}

/** Throws Error where it is not in the storage. */
export async function* storedSite(storage: Storage): AsyncGenerator<Uint8Array> {
  const site = await storage.get(KEYS.site);
  if (!site) throw new Error("Cannot copy site: it is not in the storage");
  yield* site.readable;
}

export function packageBytes(pack: Package): Uint8Array {
  return Uint8Array.from(Buffer.from(JSON.stringify(pack as unknown as Json)));
}

/** What a standby is sent before anything else. */
export async function* standbyInput(
  storage: Storage,
  pack: Package,
  hasSite: boolean,
): AsyncGenerator<Uint8Array> {
  const bytes = packageBytes(pack);
  for (let at = 0; at < bytes.length; at += INPUT_BYTES) yield bytes.subarray(at, at + INPUT_BYTES);
  if (hasSite) yield* storedSite(storage);
}
