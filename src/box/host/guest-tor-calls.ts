// Carries out a guest's calls to Tor with its instance's part of the box's tor client (spec/tor-firewall 2). What
// comes from the guest has been parsed; whose circuit, stream or onion service a handle is, the firewall decides.

import { addAbortSignal } from "node:stream";
import { utf8 } from "../../base/bytes.ts";
import { BentoError, unreachable } from "../../base/errors.ts";
import type { TorUse } from "../../tor/firewall/owner.ts";
import type { OpenStream } from "../../tor/firewall/owner-streams.ts";
import type { OpenCall } from "./guest-call-state.ts";
import type { TorCall } from "./guest-calls.ts";
import { type CallAnswer, relay } from "./guest-relay.ts";
import type { InstanceTor } from "./services.ts";

/** Lines are sent together up to about this many bytes. */
const LINES_BYTES = 32 * 1024;

export async function carryOutTor(
  call: TorCall,
  open: OpenCall,
  tor: InstanceTor,
  answer: CallAnswer,
): Promise<void> {
  const { signal } = open;
  const use = await tor.use(signal);
  switch (call.method) {
    case "tor.launch":
      answer.reply(await use.launchCircuit(call.params.hops));
      return;
    case "tor.built":
      answer.reply(await use.built(call.params.circuit, signal));
      return;
    case "tor.extend":
      await use.extendCircuit(call.params.circuit, call.params.hops);
      answer.reply({});
      return;
    case "tor.close":
      await use.closeCircuit(call.params.circuit);
      answer.reply({});
      return;
    case "tor.circuits":
      return sendLines(use.circuits(), open, answer);
    case "tor.connect": {
      const opened = await use.connect(call.params, signal);
      return carry(opened, { stream: opened.stream }, open, answer);
    }
    case "tor.resolve":
      answer.reply(await use.resolve(call.params, signal));
      return;
    case "tor.onion.open":
      answer.reply(await use.openOnion(call.params));
      return;
    case "tor.onion.published":
      await use.onionPublished(call.params.onion, signal);
      answer.reply({});
      return;
    case "tor.onion.accept": {
      const opened = await use.acceptOnion(call.params.onion, signal);
      return carry(opened, { stream: opened.stream, port: opened.port }, open, answer);
    }
    case "tor.onion.close":
      await use.closeOnion(call.params.onion);
      answer.reply({});
      return;
    case "tor.descriptor":
      answer.reply({ text: await use.descriptor(call.params.fingerprint) });
      return;
    case "tor.relays":
      return relays(call.params, use, open, answer);
    case "tor.watch":
      return watch(call.params.kinds, use, open, answer);
    default:
      unreachable(call);
  }
}

async function carry(
  { duplex }: OpenStream,
  reply: object,
  open: OpenCall,
  answer: CallAnswer,
): Promise<void> {
  const { signal } = open;
  let failure: Error | null = null;
  duplex.on("error", (error: Error) => {
    failure ??= error;
  });
  try {
    signal.throwIfAborted();
    addAbortSignal(signal, duplex);
    answer.reply(reply);
    await relay(duplex, open, answer);
  } catch (error) {
    signal.throwIfAborted();
    // The firewall's own reason, where it gave one: bytes used up, tor gone.
    const cause: unknown = failure ?? error;
    if (cause instanceof BentoError) throw cause;
    throw new BentoError("tor-stream-closed", "Cannot go on: the stream broke", { cause });
  } finally {
    duplex.destroy();
  }
}

async function relays(
  { flags = [], fingerprints }: Extract<TorCall, { method: "tor.relays" }>["params"],
  use: TorUse,
  open: OpenCall,
  answer: CallAnswer,
): Promise<void> {
  const wanted = fingerprints && new Set(fingerprints.map((fingerprint) => fingerprint.toUpperCase()));
  const found = (await use.relays()).filter(
    (relay) =>
      (wanted === undefined || wanted.has(relay.fingerprint)) &&
      flags.every((flag) => relay.flags.includes(flag)),
  );
  return sendLines(found, open, answer);
}

/** How many, then one JSON object a line: together they may be more than one frame holds. */
async function sendLines(values: readonly object[], open: OpenCall, answer: CallAnswer): Promise<void> {
  answer.reply({ count: values.length });
  let text = "";
  for (const value of values) {
    text += `${JSON.stringify(value)}\n`;
    if (text.length < LINES_BYTES) continue;
    await open.send(utf8(text));
    text = "";
  }
  if (text !== "") await open.send(utf8(text));
  answer.dataEnd();
}

/** One JSON object a line, until the guest drops the call. */
async function watch(
  kinds: Extract<TorCall, { method: "tor.watch" }>["params"]["kinds"],
  use: TorUse,
  open: OpenCall,
  answer: CallAnswer,
): Promise<void> {
  const { signal } = open;
  const watching = use.watch(kinds);
  const stop = () => {
    watching.close();
  };
  signal.addEventListener("abort", stop, { once: true });
  try {
    answer.reply({});
    for await (const event of watching) await open.send(utf8(`${JSON.stringify(event)}\n`));
    answer.dataEnd();
  } finally {
    signal.removeEventListener("abort", stop);
    stop();
  }
}
