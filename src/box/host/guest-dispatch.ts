// Carries out a guest's calls with the services that its grant gave it (spec/guest 5).

import { addAbortSignal } from "node:stream";
import { orAborted } from "../../base/abort.ts";
import { BentoError } from "../../base/errors.ts";
import { GUEST_PAYLOAD_BYTES_MAX } from "../../wire/guest-frame.ts";
import { Limits } from "../../wire/limits.ts";
import { carryOutBento } from "./bento-calls.ts";
import { CallInput } from "./call-input.ts";
import type { OpenCall } from "./guest-call-state.ts";
import type { GuestCall } from "./guest-calls.ts";
import { type CallAnswer, relay } from "./guest-relay.ts";
import { carryOutRelays } from "./guest-relays-calls.ts";
import { carryOutTor } from "./guest-tor-calls.ts";
import type { FunctionStorage, HostServices, InstanceNet } from "./services.ts";

const TAKES_DATA: ReadonlySet<GuestCall["method"]> = new Set([
  "net.connect",
  "storage.put",
  "bento.deploy",
  "bento.run",
  "bento.open",
  "tor.connect",
  "tor.onion.accept",
  "relays.link",
]);

/** Whether the guest may send bytes on the call's id. */
export function takesData(call: GuestCall): boolean {
  return TAKES_DATA.has(call.method);
}

/** Resolves when the call and its stream are over. Rejects with what went wrong, before or after the answer. */
export async function carryOut(
  call: GuestCall,
  open: OpenCall,
  services: HostServices,
  answer: CallAnswer,
): Promise<void> {
  switch (call.method) {
    case "net.connect":
      return connect(call.params, open, granted(services.net, "net"), answer);
    case "storage.put":
      return put(call.params, open, granted(services.storage, "storage"), answer);
    case "storage.get":
      return get(call.params, open, granted(services.storage, "storage"), answer);
    case "storage.send":
      return send(call.params, open, granted(services.storage, "storage"), answer);
    case "storage.delete":
      answer.reply(await granted(services.storage, "storage").delete(call.params.key));
      return;
    case "storage.list":
      answer.reply(await list(call.params, granted(services.storage, "storage")));
      return;
    case "bento.info":
    case "bento.policy":
    case "bento.deploy":
    case "bento.exec":
    case "bento.run":
    case "bento.open":
    case "bento.close":
    case "bento.shutdown":
    case "bento.choose":
      return carryOutBento(call, open, granted(services.bento, "bento"), answer);
    case "box.facts":
      answer.reply(await granted(services.box, "box")());
      return;
    case "relays.network":
    case "relays.link":
      return carryOutRelays(call, open, granted(services.relays, "relays"), answer);
    case "answers.shape":
      granted(services.answers, "answers").shape(call.params);
      answer.reply({});
      return;
    case "answers.room":
      answer.reply({ bytes: granted(services.answers, "answers").room() });
      return;
    case "answers.finish":
      await granted(services.answers, "answers").finish(open.signal);
      answer.reply({});
      return;
    case "answers.ended":
      await granted(services.answers, "answers").ended(open.signal);
      answer.reply({});
      return;
    case "self.remove":
      await granted(services.removeSelf, "self")();
      answer.reply(null);
      return;
    default:
      return carryOutTor(call, open, granted(services.tor, "tor"), answer);
  }
}

function granted<T>(service: T | undefined, name: string): T {
  if (service !== undefined) return service;
  throw new BentoError("not-granted", `Cannot use ${name}: it was not granted to this function`);
}

async function connect(
  target: { host: string; port: number },
  open: OpenCall,
  net: InstanceNet,
  answer: CallAnswer,
): Promise<void> {
  const { signal } = open;
  const connection = await net.connect(target, { signal });
  // Until something listens, an error of the connection would end the box.
  connection.on("error", () => {});
  try {
    signal.throwIfAborted();
    addAbortSignal(signal, connection);
    answer.reply({});
    await relay(connection, open, answer);
  } catch (cause) {
    signal.throwIfAborted();
    throw new BentoError("net-closed", "Cannot go on: the connection broke", { cause });
  } finally {
    connection.destroy();
  }
}

async function put(
  { key, create }: { key: string; create: boolean },
  open: OpenCall,
  storage: FunctionStorage,
  answer: CallAnswer,
): Promise<void> {
  const input = new CallInput(open);
  try {
    answer.reply(await storage.put(key, input, { signal: open.signal, create }));
  } finally {
    input.close();
  }
}

async function get(
  { key, offset }: { key: string; offset: number },
  open: OpenCall,
  storage: FunctionStorage,
  answer: CallAnswer,
): Promise<void> {
  const found = await storage.get(key, { signal: open.signal, offset });
  if (!found) {
    answer.reply(null);
    return;
  }
  answer.reply({ bytes: found.bytes });
  for await (const bytes of found.value) await open.send(bytes);
  answer.dataEnd();
}

async function send(
  { key, ...range }: { key: string; offset: number; bytes?: number | undefined },
  open: OpenCall,
  storage: FunctionStorage,
  answer: CallAnswer,
): Promise<void> {
  // Nothing is awaited before the value has its place: what the guest sends next comes behind it.
  const value = storage.hold(key, range);
  if (!value) {
    answer.reply(null);
    return;
  }
  const { bytes } = value;
  await orAborted(answer.output(value), open.signal);
  answer.reply({ bytes });
}

/** As many keys as fit into one frame. */
async function list(
  params: { prefix: string; after?: string | undefined; limit: number },
  storage: FunctionStorage,
): Promise<{ keys: { key: string; bytes: number }[]; more: boolean }> {
  const { prefix, after, limit } = params;
  const found = await storage.list({ prefix, limit, ...(after === undefined ? {} : { after }) });
  const keys: { key: string; bytes: number }[] = [];
  let size = Limits.storageKeyBytesMax;
  for (const { key, bytes } of found) {
    const entry = { key, bytes };
    size += Buffer.byteLength(JSON.stringify(entry)) + 1;
    if (size > GUEST_PAYLOAD_BYTES_MAX) return { keys, more: true };
    keys.push(entry);
  }
  return { keys, more: found.length >= limit };
}
