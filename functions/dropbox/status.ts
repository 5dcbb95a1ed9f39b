// status: what the owner may know of its Dropbox.

import type { Json, Session, Storage } from "bento/function";
import type { DropboxAnswer } from "../../src/wire/dropbox.ts";
import { readAccount } from "./ledger.ts";
import {
  isOwner,
  META,
  type Meta,
  optionalSecret,
  Refusal,
  readJson,
  SEALED,
  storedBytes,
} from "./request.ts";

export async function status(session: Session, storage: Storage, request: Json): Promise<void> {
  const meta = await readJson<Meta>(storage, META);
  if (!meta) throw new Refusal("empty");
  if (!(await isOwner(meta, optionalSecret(request, "writer")))) throw new Refusal("not-owner");
  const size = await readJson<number>(storage, SEALED);
  const stored = size ?? (await storedBytes(storage, meta));
  const { getsLeft, bytesLeft } = await readAccount(storage, meta);
  const answer: DropboxAnswer = { stored, isSealed: size !== undefined, getsLeft, bytesLeft };
  await session.send(JSON.stringify(answer));
}
