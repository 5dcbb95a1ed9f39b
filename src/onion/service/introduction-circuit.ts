// A circuit that waits at an introduction point for introductions.
// Spec: rend-spec-v3 3.1.1 (ESTABLISH_INTRO), 3.1.3 (INTRO_ESTABLISHED), 3.3 (INTRODUCE2).

import { type Circuit, REPLY_MS } from "../circuit/circuit.ts";
import { RELAY } from "../circuit/relay-message.ts";
import { encodeEstablishIntro, type IntroductionSecrets } from "./introduction.ts";

/**
 * Claims the last relay of `circuit` as introduction point. From then on `onIntroduce` gets the body of each INTRODUCE2.
 * Whoever claims a point with the same keys later gets it, and the relay destroys this circuit: so does a standby take
 * over, and an old owner cannot go on. Throws BentoError; the circuit is the caller's to destroy.
 */
export async function claimIntroductionPoint(
  circuit: Circuit,
  secrets: IntroductionSecrets,
  options: {
    readonly onIntroduce: (body: Uint8Array) => void;
    readonly signal?: AbortSignal | undefined;
  },
): Promise<void> {
  const hop = circuit.hopCount - 1;
  circuit.onMessage(hop, RELAY.introduce2, options.onIntroduce);
  await circuit.request(
    {
      hop,
      command: RELAY.establishIntro,
      data: encodeEstablishIntro(secrets, circuit.lastNonce),
      reply: RELAY.introEstablished,
    },
    { signal: options.signal ?? AbortSignal.timeout(REPLY_MS) },
  );
}
