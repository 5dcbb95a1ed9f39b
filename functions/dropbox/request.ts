// Requests of a Dropbox, read from arguments that anybody may have chosen, and what it knows of itself.

import type { Json, Storage } from "bento/function";
import { DropboxLimits, type DropboxRefusal } from "../../src/wire/dropbox.ts";

/** Ends an invocation with an answer. */
export class Refusal extends Error {
  readonly reason: DropboxRefusal;

  constructor(reason: DropboxRefusal) {
    super(`refused: ${reason}`);
    this.reason = reason;
  }
}

/** Fixed by the first put, under the key META. */
export interface Meta {
  /** SHA-256 of the owner's secret, hexadecimal. */
  readonly owner: string;
  readonly gets: number;
  readonly bytes: number;
  readonly partBytes: number;
}

export const META = "meta";
/** Its value is the size of the content; there when all of it is. */
export const SEALED = "sealed";

export function partKey(index: number): string {
  return `part-${String(index).padStart(6, "0")}`;
}

/** A field that must be a whole number from `min` to `max`. */
export function count(request: Json, name: string, min: number, max: number): number {
  const value = field(request, name);
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max) return value;
  throw new Refusal("bad-request");
}

export function optionalCount(request: Json, name: string, fallback: number): number {
  return field(request, name) === undefined ? fallback : count(request, name, 0, Number.MAX_SAFE_INTEGER);
}

/** A field that may be absent and is a secret otherwise: 43 characters of base64url. */
export function optionalSecret(request: Json, name: string): string | undefined {
  const value = field(request, name);
  if (value === undefined) return undefined;
  if (typeof value === "string" && /^[A-Za-z0-9_-]{43}$/.test(value)) return value;
  throw new Refusal("bad-request");
}

function field(request: Json, name: string): Json | undefined {
  if (typeof request !== "object" || request === null || Array.isArray(request))
    throw new Refusal("bad-request");
  return Object.hasOwn(request, name) ? (request as { readonly [key: string]: Json })[name] : undefined;
}

export async function readJson<T>(storage: Storage, key: string): Promise<T | undefined> {
  const value = await storage.get(key);
  return value && (JSON.parse(await value.text()) as T);
}

/** Whether `writer` is the owner's secret. Hashes are compared, so that time tells nothing of the secret. */
export async function isOwner(meta: Meta, writer: string | undefined): Promise<boolean> {
  return writer !== undefined && (await hashOf(writer)) === meta.owner;
}

export async function hashOf(secret: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(secret));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Content bytes that a put has stored so far: whole parts, without a gap. */
export async function storedBytes(storage: Storage, meta: Meta): Promise<number> {
  let parts = 0;
  for await (const { key, bytes } of storage.list({ prefix: "part-" })) {
    // A shorter one is the last part of a put that was broken off before it was sealed: it is put again.
    if (key !== partKey(parts) || bytes !== meta.partBytes || parts >= DropboxLimits.partsMax) break;
    parts++;
  }
  return parts * meta.partBytes;
}

/** Whether an error of the storage has this code. */
export function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && Reflect.get(error, "code") === code;
}
