// Carries out a guest's `bento.*` calls with the service that its grant gave it (spec/guest 5.2): answers, and the
// records of a session in both directions. The guest is hostile, and so may be the far function.

import { orAborted } from "../../base/abort.ts";
import { utf8 } from "../../base/bytes.ts";
import { ProtocolError, unreachable } from "../../base/errors.ts";
import {
  encodeRecord,
  type GuestRecord,
  RECORD,
  RECORD_BYTES_MAX,
  RecordSplitter,
  recordsOf,
} from "../../wire/guest-record.ts";
import { RemoteRefusal } from "./bento-error.ts";
import { CallInput } from "./call-input.ts";
import type { OpenCall } from "./guest-call-state.ts";
import type { GuestCall } from "./guest-calls.ts";
import type { CallAnswer } from "./guest-relay.ts";
import type { FarSession, InstanceBento } from "./services.ts";

type BentoCall = Extract<GuestCall, { method: `bento.${string}` }>;

export async function carryOutBento(
  call: BentoCall,
  open: OpenCall,
  bento: InstanceBento,
  answer: CallAnswer,
): Promise<void> {
  const { signal } = open;
  if (call.method === "bento.choose") {
    const { boxes, manifest, constraints } = call.params;
    return sendWhole(await bento.choose(boxes, manifest, constraints, signal), open, answer);
  }
  const { box } = call.params;
  switch (call.method) {
    case "bento.info":
      answer.reply(await bento.info(box, signal));
      return;
    case "bento.policy":
      return sendWhole(await bento.policy(box, signal), open, answer);
    case "bento.deploy": {
      const input = new CallInput(open);
      try {
        const { linked } = call.params;
        return await sendWhole(await bento.deploy(box, input, { linked, signal }), open, answer);
      } finally {
        input.close();
      }
    }
    case "bento.exec":
      answer.reply({ instance: await bento.exec(box, call.params.token, call.params.invocation, signal) });
      return;
    case "bento.run":
      return run(call, open, bento, answer);
    case "bento.open": {
      const input = new CallInput(open);
      try {
        const { instance, offset } = call.params;
        const session = await bento.open(box, instance, { offset, signal });
        await relay(session, recordsFrom(input), open, answer);
      } finally {
        input.close();
      }
      return;
    }
    case "bento.close":
      answer.reply(await bento.close(box, call.params.instance, { kill: call.params.kill, signal }));
      return;
    case "bento.shutdown":
      answer.reply(await bento.shutdown(box, call.params.token, signal));
      return;
    default:
      unreachable(call);
  }
}

async function run(
  { params }: Extract<BentoCall, { method: "bento.run" }>,
  open: OpenCall,
  bento: InstanceBento,
  answer: CallAnswer,
): Promise<void> {
  const { box, token, invocation, linked, endInput } = params;
  const input = new CallInput(open);
  try {
    const records = recordsFrom(input);
    const what = token === undefined ? { package: packageFrom(records) } : { token };
    const session = await bento.run(box, what, invocation, { linked, endInput, signal: open.signal });
    await relay(session, records, open, answer);
  } finally {
    input.close();
  }
}

/** An answer that may be larger than a frame: its JSON text, on the call's stream. */
async function sendWhole(value: unknown, open: OpenCall, answer: CallAnswer): Promise<void> {
  const text = utf8(JSON.stringify(value));
  answer.reply({ bytes: text.length });
  await open.send(text);
  answer.dataEnd();
}

/** Both directions until the far function has ended, the guest leaves, or something breaks. */
async function relay(
  session: FarSession,
  records: AsyncIterator<GuestRecord>,
  open: OpenCall,
  answer: CallAnswer,
): Promise<void> {
  try {
    open.signal.throwIfAborted();
    const { instance, offset, deployed } = session;
    answer.reply({ instance, offset });
    await sendRecord(open, RECORD.deployed, utf8(JSON.stringify(deployed ?? null)));
    const over = Promise.withResolvers<void>();
    // Whoever leaves first does not wait for it.
    over.promise.catch(() => undefined);
    sendInput(session, records).catch(over.reject);
    sendOutput(session, open).then(over.resolve, over.reject);
    // Nobody who leaves is kept by a far function that says nothing.
    await orAborted(over.promise, open.signal);
    answer.dataEnd();
  } finally {
    await session.detach();
  }
}

async function sendInput(session: FarSession, records: AsyncIterator<GuestRecord>): Promise<void> {
  for (;;) {
    const next = await records.next();
    if (next.done) break;
    const { kind, payload } = next.value;
    if (kind !== RECORD.message && kind !== RECORD.messageMore) throw unexpected(kind);
    await unlessEnded(session.send(payload, kind === RECORD.message));
  }
  await unlessEnded(session.endInput());
}

/** What is sent to a function that has ended meanwhile is dropped: its output still has to be read. */
async function unlessEnded(sending: Promise<void>): Promise<void> {
  try {
    await sending;
  } catch (error) {
    if (!(error instanceof RemoteRefusal) || error.code !== "already-ended") throw error;
  }
}

async function sendOutput(session: FarSession, open: OpenCall): Promise<void> {
  let resumed = 0;
  session.onResumed = () => {
    resumed++;
  };
  for await (const { bytes, last } of session.chunks()) {
    for (; resumed > 0; resumed--) await sendRecord(open, RECORD.resumed);
    const kinds = { more: RECORD.messageMore, last: last ? RECORD.message : RECORD.messageMore };
    for (const record of recordsOf(bytes, kinds)) await open.send(record);
  }
  const outcome = await session.ended;
  await sendRecord(open, RECORD.ended, utf8(JSON.stringify(outcome)));
}

async function sendRecord(open: OpenCall, kind: number, payload?: Uint8Array): Promise<void> {
  await open.send(encodeRecord(kind, payload));
}

/** The guest's records; the window of a piece is given back when all records in it have been taken. */
async function* recordsFrom(input: CallInput): AsyncGenerator<GuestRecord> {
  const splitter = new RecordSplitter(RECORD_BYTES_MAX);
  try {
    for await (const piece of input) yield* splitter.push(piece);
  } catch (error) {
    if (error instanceof ProtocolError) throw new RemoteRefusal("bad-request", error.message);
    throw error;
  }
}

/** The package at the head of a stream, taken off it; what follows stays for the next reader. */
async function* packageFrom(records: AsyncIterator<GuestRecord>): AsyncGenerator<Uint8Array> {
  for (;;) {
    const next = await records.next();
    if (next.done) throw new RemoteRefusal("bad-request", "Cannot read package: the stream ended in it");
    const { kind, payload } = next.value;
    if (kind !== RECORD.package && kind !== RECORD.packageMore) throw unexpected(kind);
    yield payload;
    if (kind === RECORD.package) return;
  }
}

function unexpected(kind: number): RemoteRefusal {
  return new RemoteRefusal("bad-request", `Cannot take record ${kind} now`);
}
