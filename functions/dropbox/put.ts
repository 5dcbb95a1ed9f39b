// put: content comes in as messages and is stored part by part; an empty message seals it. Told with each part how
// much is kept, the owner can go on after an interruption, and nobody else can.

import type { Json, Session, Storage } from "bento/function";
import { type DropboxAnswer, DropboxLimits } from "../../src/wire/dropbox.ts";
import { within } from "../within.ts";
import {
  count,
  hasCode,
  hashOf,
  isOwner,
  META,
  type Meta,
  optionalSecret,
  partKey,
  Refusal,
  readJson,
  SEALED,
  storedBytes,
} from "./request.ts";

export async function put(session: Session, storage: Storage, request: Json): Promise<void> {
  const meta = await own(storage, request);
  const size = await readJson<number>(storage, SEALED);
  if (size !== undefined) return answer(session, { sealed: size });
  let at = await storedBytes(storage, meta);
  await answer(session, { at });
  const content = new Content(session);
  try {
    for (let index = at / meta.partBytes; ; index++) {
      if (index >= DropboxLimits.partsMax) throw new Refusal("quota");
      if (!(await content.begin())) break;
      const { bytes } = await storage.put(partKey(index), content.part(meta.partBytes));
      at += bytes;
      if (bytes < meta.partBytes) break;
      await answer(session, { at });
    }
    await storage.put(SEALED, String(at), { create: true });
  } catch (error) {
    if (error instanceof Interrupted) return;
    if (hasCode(error, "storage-quota") || hasCode(error, "disk-full")) throw new Refusal("quota");
    // Another put of the owner came first: with the same content, or the owner's downloads will not verify.
    if (!hasCode(error, "storage-exists")) throw error;
  }
  await answer(session, { sealed: (await readJson<number>(storage, SEALED)) ?? at });
}

/** What this Dropbox is, decided by whoever puts first. Throws Refusal for everybody else. */
async function own(storage: Storage, request: Json): Promise<Meta> {
  const writer = optionalSecret(request, "writer");
  if (writer === undefined) throw new Refusal("bad-request");
  const wanted: Meta = {
    owner: await hashOf(writer),
    gets: count(request, "gets", 0, DropboxLimits.getsMax),
    bytes: count(request, "bytes", 0, Number.MAX_SAFE_INTEGER),
    partBytes: count(request, "partBytes", DropboxLimits.messageBytes, 2 ** 30),
  };
  try {
    await storage.put(META, JSON.stringify(wanted), { create: true });
    return wanted;
  } catch (error) {
    if (!hasCode(error, "storage-exists")) throw error;
  }
  const meta = await readJson<Meta>(storage, META);
  if (!meta || !(await isOwner(meta, writer))) throw new Refusal("not-owner");
  return meta;
}

async function answer(session: Session, message: DropboxAnswer): Promise<void> {
  await session.send(JSON.stringify(message));
}

/** The input ended without the empty message: the client gave up or vanished, or the box stops. Nothing is sealed. */
class Interrupted extends Error {}

/** The messages of a session, cut into parts. */
class Content {
  readonly #session: Session;
  readonly #messages: AsyncIterator<Uint8Array>;
  #rest = new Uint8Array();
  #ended = false;

  constructor(session: Session) {
    this.#session = session;
    this.#messages = session[Symbol.asyncIterator]();
  }

  /** Whether there is another part. Throws Interrupted. */
  async begin(): Promise<boolean> {
    if (this.#rest.length === 0 && !this.#ended) await this.#next();
    return this.#rest.length > 0;
  }

  /** The next `partBytes` bytes, or fewer at the end. What throws here keeps the part from being stored. */
  async *part(partBytes: number): AsyncGenerator<Uint8Array> {
    for (let left = partBytes; left > 0; ) {
      if (!(await this.begin())) return;
      const piece = this.#rest.subarray(0, left);
      this.#rest = this.#rest.subarray(piece.length);
      left -= piece.length;
      yield piece;
    }
  }

  async #next(): Promise<void> {
    const { value, done } = await this.#whileAttached(this.#messages.next());
    if (done) throw new Interrupted("the input ended before the content did");
    const message: Uint8Array = value;
    this.#rest = new Uint8Array(message.buffer as ArrayBuffer, message.byteOffset, message.length);
    this.#ended = message.length === 0;
  }

  /** Who was cut off asks anew, and does not send here any more: the part that was begun takes up room that is needed. */
  async #whileAttached<T>(next: Promise<T>): Promise<T> {
    const stepMs = DropboxLimits.senderAbsentMs / 10;
    for (let absentMs = 0; absentMs < DropboxLimits.senderAbsentMs; ) {
      const taken = await within(stepMs, next, () => undefined);
      if (taken) return await next;
      absentMs = this.#session.attached ? 0 : absentMs + stepMs;
    }
    throw new Interrupted("the client is gone");
  }
}
