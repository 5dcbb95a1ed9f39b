// Capabilities that cross the wire: who holds the text may act. The box keeps hashes only (spec/tokens).
//
// invocation token  UUIDv4  may start instances of one function; may be shared
// shutdown token    "end-" + 43 base64url characters (256 bits)  the owner's: list and end the function
// instance id       UUIDv4  may attach to, close or kill one instance
//
// None of them ever stands in a URL, an argument list or a log.

import { createHash, randomBytes, randomUUID } from "node:crypto";
import { BentoError } from "../base/errors.ts";

declare const brand: unique symbol;
export type InvocationToken = string & { readonly [brand]: "invocation" };
export type ShutdownToken = string & { readonly [brand]: "shutdown" };
export type InstanceId = string & { readonly [brand]: "instance" };
/** SHA-256 of a token, hex: what the box stores and looks up. */
export type TokenHash = string & { readonly [brand]: "hash" };

const UUID_V4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const SHUTDOWN = /^end-[A-Za-z0-9_-]{43}$/;

export function newInvocationToken(): InvocationToken {
  return randomUUID() as InvocationToken;
}

export function newShutdownToken(): ShutdownToken {
  return `end-${randomBytes(32).toString("base64url")}` as ShutdownToken;
}

export function newInstanceId(): InstanceId {
  return randomUUID() as InstanceId;
}

/** Throws BentoError "bad-token" on text of another form; the text itself is never repeated in the error. */
export function parseInvocationToken(text: string): InvocationToken {
  return checked(text.toLowerCase(), UUID_V4, "an invocation token (UUIDv4)") as InvocationToken;
}

export function parseShutdownToken(text: string): ShutdownToken {
  return checked(text, SHUTDOWN, "a shutdown token (end-...)") as ShutdownToken;
}

export function parseInstanceId(text: string): InstanceId {
  return checked(text.toLowerCase(), UUID_V4, "an instance id (UUIDv4)") as InstanceId;
}

/**
 * Tokens carry at least 122 random bits, so one plain SHA-256 is as hard to invert as the token is to guess,
 * and looking the hash up in an index tells an attacker nothing about the token by its timing.
 */
export function hashToken(token: InvocationToken | ShutdownToken | InstanceId): TokenHash {
  return createHash("sha256").update(token).digest("hex") as TokenHash;
}

function checked(text: string, form: RegExp, wanted: string): string {
  if (form.test(text)) return text;
  throw new BentoError("bad-token", `Cannot use token: expected ${wanted}`, {
    advice: "Check that the whole token was copied and that it is of the right kind.",
  });
}
