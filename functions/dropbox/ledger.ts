// The account of downloads: one entry for each that was started or continued, written before its first byte leaves.
// Entries are only ever added, each under the next number, and creating a key succeeds once: instances that run at
// the same time cannot give out more than there is.

import type { Storage } from "bento/function";
import { DropboxLimits } from "../../src/wire/dropbox.ts";
import { hasCode, type Meta, Refusal, readJson } from "./request.ts";

interface Entry {
  /** SHA-256 of the download's ticket. */
  readonly ticket: string;
  /** Bytes it may take. */
  readonly bytes: number;
  /** When it was written: Unix milliseconds. */
  readonly at: number;
}

/** What the entries come to. */
interface Account {
  readonly entries: number;
  readonly getsLeft: number;
  readonly bytesLeft: number;
  /** Downloads that did not end, and when each was last heard of. */
  readonly open: ReadonlyMap<string, number>;
}

const READ_AT_ONCE = 32;

export async function readAccount(storage: Storage, meta: Meta): Promise<Account> {
  const keys: string[] = [];
  for await (const { key } of storage.list({ prefix: "get-" })) keys.push(key);
  let bytes = 0;
  const open = new Map<string, number>();
  for (let at = 0; at < keys.length; at += READ_AT_ONCE) {
    const reads = keys.slice(at, at + READ_AT_ONCE).map((key) => readJson<Entry>(storage, key));
    for (const entry of await Promise.all(reads)) {
      if (!entry) continue;
      bytes += entry.bytes;
      open.set(entry.ticket, entry.at);
    }
  }
  const getsLeft = meta.gets - open.size;
  for await (const { key } of storage.list({ prefix: "done-" })) open.delete(key.slice("done-".length));
  return { entries: keys.length, getsLeft, bytesLeft: meta.bytes - bytes, open };
}

/**
 * Enters a download of `bytes` bytes. `ticket`: the hash of a known one is continued; `isNew` starts one.
 * Throws Refusal "used-up", or "bad-request" for a ticket that is not known, is done or too old.
 */
export async function enter(
  storage: Storage,
  meta: Meta,
  download: { readonly ticket: string; readonly isNew: boolean; readonly bytes: number },
): Promise<void> {
  const { ticket, isNew, bytes } = download;
  for (;;) {
    const account = await readAccount(storage, meta);
    if (account.entries >= DropboxLimits.ledgerMax) throw new Refusal("used-up");
    const last = account.open.get(ticket);
    if (!isNew && (last === undefined || Date.now() - last > DropboxLimits.ticketMs))
      throw new Refusal("bad-request");
    if ((isNew && account.getsLeft <= 0) || bytes > account.bytesLeft) throw new Refusal("used-up");
    const entry: Entry = { ticket, bytes, at: Date.now() };
    try {
      const key = `get-${String(account.entries).padStart(6, "0")}`;
      await storage.put(key, JSON.stringify(entry), { create: true });
      return;
    } catch (error) {
      // Another instance entered one meanwhile: what is left has to be counted again.
      if (!hasCode(error, "storage-exists")) throw error;
    }
  }
}

/** Notes that a download is complete. */
export async function complete(storage: Storage, ticket: string): Promise<void> {
  await storage.put(`done-${ticket}`, "");
}

/** Whether no download can be started or continued any more. */
export async function isUsedUp(storage: Storage, meta: Meta, size: number): Promise<boolean> {
  const { getsLeft, bytesLeft, open } = await readAccount(storage, meta);
  if (getsLeft > 0 && bytesLeft >= size) return false;
  return ![...open.values()].some((at) => Date.now() - at <= DropboxLimits.ticketMs);
}
