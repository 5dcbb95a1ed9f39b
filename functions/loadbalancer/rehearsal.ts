// Brings package and site to a box before a replica is wanted there: one that is started later serves within a second or two.

import type { FarSession } from "bento/function";
import { decodeMessage, encodeCommand } from "../replica/protocol.ts";

/** Gives a replica that was started for it the site, where it has it not. Resolves when it has ended. */
export async function rehearse(
  far: FarSession,
  site: () => AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<void> {
  for await (const bytes of far) {
    const message = decodeMessage(bytes);
    if (message.kind !== "hello" || !message.needsSite) continue;
    for await (const piece of site()) {
      signal.throwIfAborted();
      await far.send(encodeCommand({ kind: "site", bytes: piece }));
    }
  }
}
