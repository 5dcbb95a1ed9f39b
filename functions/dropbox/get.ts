// get: hands the content out from any byte on. Each download is entered into the ledger first; when the last one is
// complete the function removes itself, and its token is worth no more than a made-up one.

import type { Json, Self, Session, Storage } from "bento/function";
import { type DropboxAnswer, DropboxLimits } from "../../src/wire/dropbox.ts";
import { within } from "../within.ts";
import { complete, enter, isUsedUp } from "./ledger.ts";
import {
  hashOf,
  isOwner,
  META,
  type Meta,
  optionalCount,
  optionalSecret,
  partKey,
  Refusal,
  readJson,
  SEALED,
} from "./request.ts";

/** Messages that the box sends while the function waits for the client: what the way to it holds, and more. */
const AHEAD = 8;

export async function get(session: Session, storage: Storage, self: Self, request: Json): Promise<void> {
  const [meta, size] = await Promise.all([readJson<Meta>(storage, META), readJson<number>(storage, SEALED)]);
  if (!meta || size === undefined) throw new Refusal("empty");
  const from = optionalCount(request, "from", 0);
  if (from > size) throw new Refusal("bad-request");
  const bytes = Math.min(optionalCount(request, "bytes", size), size - from);
  const writer = optionalSecret(request, "writer");
  if (writer !== undefined) {
    if (!(await isOwner(meta, writer))) throw new Refusal("not-owner");
    await answer(session, { size, from, bytes });
    // Nothing is counted, so nobody has to wait until it has arrived: the box sends it when this instance has ended.
    await sendContent(session, storage, meta, { from, bytes });
    return;
  }
  if (meta.gets === 0) throw new Refusal("not-owner");
  const given = optionalSecret(request, "ticket");
  const ticket = given ?? newTicket();
  const hash = await hashOf(ticket);
  try {
    await enter(storage, meta, { ticket: hash, isNew: given === undefined, bytes });
    await answer(session, { size, from, bytes, ticket });
    const content = await sendContent(session, storage, meta, { from, bytes });
    await content.arrived();
    if (from + bytes === size && (await confirmed(session))) await complete(storage, hash);
  } finally {
    if (await isUsedUp(storage, meta, size)) await self.remove();
  }
}

async function answer(session: Session, message: DropboxAnswer): Promise<void> {
  await session.send(JSON.stringify(message));
}

function newTicket(): string {
  const text = btoa(String.fromCharCode(...crypto.getRandomValues(new Uint8Array(32))));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** What the box answers when the client has it; undefined: there is no such part. */
type Sent = Promise<number | undefined>;

/** Resolves when all is with the box. `arrived` resolves when the client has it. */
async function sendContent(
  session: Session,
  storage: Storage,
  meta: Meta,
  range: { readonly from: number; readonly bytes: number },
): Promise<{ arrived(): Promise<void> }> {
  const { partBytes } = meta;
  const end = range.from + range.bytes;
  const underWay: Sent[] = [];
  for (let at = range.from; at < end; ) {
    if (underWay.length === AHEAD) await taken(session, underWay.shift());
    const offset = at % partBytes;
    // Messages end where the box's own pieces do.
    const whole = DropboxLimits.sentBytes - (offset % DropboxLimits.sentBytes);
    const bytes = Math.min(end - at, partBytes - offset, whole);
    const sent = storage.send(partKey(Math.floor(at / partBytes)), { offset, bytes });
    // Awaited in its turn: until then nobody else looks at it.
    sent.catch(() => undefined);
    underWay.push(sent);
    at += bytes;
  }
  return {
    async arrived() {
      for (const sent of underWay) await taken(session, sent);
    },
  };
}

/** Waits for the client, and gives up when nobody was there to read for a long time: an idle Dropbox holds no process. */
async function taken(session: Session, sent: Sent | undefined): Promise<void> {
  const stepMs = DropboxLimits.absentMs / 10;
  for (let absentMs = 0; ; absentMs = session.attached ? 0 : absentMs + stepMs) {
    if (absentMs >= DropboxLimits.absentMs) throw new Error("nobody reads: the download was given up");
    const bytes = await within(stepMs, Promise.resolve(sent), () => "late" as const);
    if (bytes === undefined) throw new Error("the content is damaged: a part is missing");
    if (bytes !== "late") return;
  }
}

/**
 * Whether the client says that it has everything: by a message, or by having ended its input. A client that vanished
 * says nothing, and may come back with its ticket.
 */
async function confirmed(session: Session): Promise<boolean> {
  const said = session[Symbol.asyncIterator]()
    .next()
    .then(() => true);
  return (await within(DropboxLimits.confirmMs, said, () => false)) && !session.signal.aborted;
}
