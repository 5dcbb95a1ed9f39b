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

export async function get(session: Session, storage: Storage, self: Self, request: Json): Promise<void> {
  const meta = await readJson<Meta>(storage, META);
  const size = await readJson<number>(storage, SEALED);
  if (!meta || size === undefined) throw new Refusal("empty");
  const from = optionalCount(request, "from", 0);
  if (from > size) throw new Refusal("bad-request");
  const bytes = Math.min(optionalCount(request, "bytes", size), size - from);
  const writer = optionalSecret(request, "writer");
  if (writer !== undefined) {
    if (!(await isOwner(meta, writer))) throw new Refusal("not-owner");
    await answer(session, { size, from, bytes });
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
    await sendContent(session, storage, meta, { from, bytes });
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

async function sendContent(
  session: Session,
  storage: Storage,
  meta: Meta,
  range: { readonly from: number; readonly bytes: number },
): Promise<void> {
  let left = range.bytes;
  for (let at = range.from; left > 0; ) {
    const index = Math.floor(at / meta.partBytes);
    const part = await storage.get(partKey(index), { offset: at - index * meta.partBytes });
    if (!part) throw new Error("the content is damaged: a part is missing");
    for await (const chunk of part.readable) {
      const piece = chunk.subarray(0, left);
      await sendPatiently(session, piece);
      at += piece.length;
      left -= piece.length;
      if (left === 0) return;
    }
  }
}

/** Sends, and gives up when nobody was there to read for a long time: an idle Dropbox holds no process. */
async function sendPatiently(session: Session, bytes: Uint8Array): Promise<void> {
  const sent = session.send(bytes).then(() => true);
  const stepMs = DropboxLimits.absentMs / 10;
  for (let absentMs = 0; ; absentMs = session.attached ? 0 : absentMs + stepMs) {
    if (absentMs >= DropboxLimits.absentMs) throw new Error("nobody reads: the download was given up");
    if (await within(stepMs, sent, () => false)) return;
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
