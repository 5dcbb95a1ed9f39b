// Introduction points as they are kept and handed to a standby: fingerprints and secrets as text.

import { Buffer } from "node:buffer";
import type { Circuit } from "../../src/onion/circuit/circuit.ts";
import type { Network } from "../../src/onion/directory/network.ts";
import { hex } from "../../src/onion/fields.ts";
import {
  exportIntroductionSecrets,
  importIntroductionSecrets,
} from "../../src/onion/service/introduction.ts";
import type { IntroductionPoint, KnownPoint } from "../../src/onion/service/onion-service.ts";
import type { Seen } from "./seen.ts";
import type { KeptPoint } from "./state.ts";

/** A point by what clients know of it. */
export function nameOf({ secrets }: IntroductionPoint): string {
  return hex(secrets.auth.publicKey);
}

export function keptPoint({ relay, secrets }: IntroductionPoint): KeptPoint {
  const bytes = exportIntroductionSecrets(secrets);
  return { relay: relay.fingerprint, secrets: Buffer.from(bytes).toString("base64") };
}

/** Those whose relays are still in the consensus. @param circuits by fingerprint, where there are any. */
export function knownPoints(
  kept: readonly KeptPoint[],
  network: Network,
  seen: Seen,
  circuits: ReadonlyMap<string, Circuit> = new Map(),
): KnownPoint[] {
  return kept.flatMap(({ relay: fingerprint, secrets: text }) => {
    const relay = network.relay(fingerprint);
    if (!relay) return [];
    const secrets = importIntroductionSecrets(Uint8Array.from(Buffer.from(text, "base64")));
    const entries = seen.entries(nameOf({ relay, secrets }));
    return [{ relay, secrets, circuit: circuits.get(fingerprint), seen: entries }];
  });
}
