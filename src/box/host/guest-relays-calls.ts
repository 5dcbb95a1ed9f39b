// Carries out a guest's calls to relays with its instance's links (spec/guest 5.3). What comes from the guest has been
// parsed; relays.ts decides which relay it is and whether there is room.

import { addAbortSignal } from "node:stream";
import { BentoError } from "../../base/errors.ts";
import type { OpenCall } from "./guest-call-state.ts";
import type { RelaysCall } from "./guest-calls.ts";
import { type CallAnswer, relay } from "./guest-relay.ts";
import type { InstanceRelays } from "./services.ts";

export async function carryOutRelays(
  call: RelaysCall,
  open: OpenCall,
  relays: InstanceRelays,
  answer: CallAnswer,
): Promise<void> {
  const { signal } = open;
  if (call.method === "relays.network") {
    answer.reply(await relays.network(signal));
    return;
  }
  const { relay: contact, version, stream } = await relays.link(call.params.fingerprint, signal);
  let failure: Error | undefined;
  stream.on("error", (error: Error) => {
    failure ??= error;
  });
  try {
    signal.throwIfAborted();
    addAbortSignal(signal, stream);
    answer.reply({ fingerprint: contact.fingerprint, ed25519: contact.ed25519, version });
    await relay(stream, open, answer);
  } catch (error) {
    signal.throwIfAborted();
    // What the gate said, where it was the gate.
    const cause: unknown = failure ?? error;
    if (cause instanceof BentoError) throw cause;
    throw new BentoError("relays-closed", "Link closed: it broke", { cause });
  } finally {
    stream.destroy();
  }
}
