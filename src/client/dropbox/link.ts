// The link of a Dropbox: one line that is all it takes to fetch what lies there (spec/dropbox 4). It holds the
// invocation token and, for what the client encrypted, the key: a secret as a whole.
//
//   bento:dropbox?box=….onion:80&token=6f1e…&key=q83v…

import { BentoError } from "../../base/errors.ts";
import { SEAL_KEY_BYTES } from "../../wire/sealed-file.ts";
import { type InvocationToken, parseInvocationToken } from "../../wire/token.ts";
import { type BoxAddress, formatAddress, tryParseAddress } from "../address.ts";

export interface DropboxLink {
  readonly box: BoxAddress;
  readonly token: InvocationToken;
  /** undefined when the content was put as it is. */
  readonly key: Uint8Array | undefined;
  /** The content is the answer of a function that ran meanwhile (spec/later). */
  readonly isAnswer?: boolean;
}

const LINK_START = "bento:dropbox?";

export function isDropboxLink(text: string): boolean {
  return text.startsWith(LINK_START);
}

export function formatLink(link: DropboxLink): string {
  const key = link.key === undefined ? "" : `&key=${Buffer.from(link.key).toString("base64url")}`;
  return `${LINK_START}box=${formatAddress(link.box)}&token=${link.token}${key}${link.isAnswer ? "&later=1" : ""}`;
}

/** Throws BentoError "bad-token"; the text is never repeated in it. */
export function parseLink(text: string): DropboxLink {
  const fields = new URLSearchParams(text.slice(LINK_START.length));
  const known = ["box", "token", "key", "later"];
  const names = [...fields.keys()];
  const box = tryParseAddress(fields.get("box") ?? "");
  const key = parseKey(fields.get("key"));
  const later = fields.get("later");
  const isWhole =
    (later === null || later === "1") &&
    isDropboxLink(text) &&
    names.every((name) => known.includes(name)) &&
    new Set(names).size === names.length;
  if (!isWhole || !box || key === null) {
    throw new BentoError("bad-token", "Cannot use link: expected bento:dropbox?box=…&token=…&key=…", {
      advice: "Check that the whole line was copied.",
    });
  }
  const token = parseInvocationToken(fields.get("token") ?? "");
  return { box, token, key, ...(later === null ? {} : { isAnswer: true }) };
}

/** null for a malformed one. */
function parseKey(text: string | null): Uint8Array | undefined | null {
  if (text === null) return undefined;
  const key = Buffer.from(text, "base64url");
  return key.length === SEAL_KEY_BYTES && key.toString("base64url") === text ? key : null;
}
