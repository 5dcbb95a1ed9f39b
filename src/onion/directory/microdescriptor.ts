// Microdescriptors: what a client needs of a relay besides its line in the consensus. A digest in the consensus names
// each, so any cache may serve them.
// Hostile until the digest was compared, which `parseMicrodescriptors` leaves to its caller: it returns the digest.
// Spec: dir-spec 3.3.

import { sha256 } from "../crypto/primitives.ts";
import { base64, fromBase64 } from "../fields.ts";
import { MICRODESCRIPTOR_BYTES_MAX } from "../limits.ts";
import { documentText, itemsByKeyword, malformed } from "./document.ts";

export interface Microdescriptor {
  /** SHA-256, base64 without padding: what the consensus names it by. */
  readonly digest: string;
  readonly ntorKey: Uint8Array;
  readonly ed25519: Uint8Array;
  /** `$FINGERPRINT` in upper case, or nicknames in lower case: relays that it says it is run together with. */
  readonly family: ReadonlySet<string>;
  /** Proposal 321: names of families that relays prove to be of. */
  readonly familyIds: ReadonlySet<string>;
  readonly exitPorts: PortSummary | undefined;
}

/** dir-spec 3.3 "p": ports that the relay lets (`accept`) or does not let out to most addresses. */
export interface PortSummary {
  readonly accept: boolean;
  readonly ranges: readonly (readonly [from: number, to: number])[];
}

/** Splits and reads a run of microdescriptors; those that are malformed are left out, as one must not hide the others. */
export function parseMicrodescriptors(bytes: Uint8Array): Microdescriptor[] {
  const text = documentText(bytes);
  const starts = [...text.matchAll(/^onion-key$/gmu)].map((match) => match.index);
  const found: Microdescriptor[] = [];
  for (const [index, start] of starts.entries()) {
    const one = bytes.subarray(start, starts[index + 1] ?? bytes.length);
    try {
      found.push(parseMicrodescriptor(one));
    } catch (error) {
      if (!(error instanceof Error) || error.name !== "ProtocolError") throw error;
    }
  }
  return found;
}

// Sample:
//   onion-key
//   ntor-onion-key Fq4koJ4g718cpDQ/0yyotcjBmgKGMbMPvZcd0mnXxSM
//   family $0A371DF2E1D6F2441F8BB091F2E3026AA1992D14
//   p accept 80,443
//   id ed25519 0FWHys7lm/+uQEpeRwe0H1biAm0Wl1e/U3GIjToCzpY
/** Throws ProtocolError `onion-document`. */
export function parseMicrodescriptor(bytes: Uint8Array): Microdescriptor {
  if (bytes.length > MICRODESCRIPTOR_BYTES_MAX) throw malformed("a microdescriptor too long");
  const text = documentText(bytes);
  const items = itemsByKeyword(text, ["onion-key", "ntor-onion-key"]);
  const args = (keyword: string): readonly string[] => items.get(keyword)?.args ?? [];
  // "id" lines: one for each kind of key; only ed25519 matters.
  const id = /^id ed25519 (\S+)$/mu.exec(text)?.[1];
  if (id === undefined) throw malformed("a microdescriptor without Ed25519 identity");
  const [policy, ports = ""] = args("p");
  return {
    digest: base64(sha256(bytes)),
    ntorKey: fromBase64(args("ntor-onion-key")[0] ?? "", 32),
    ed25519: fromBase64(id, 32),
    family: new Set(args("family").map(familyName)),
    familyIds: new Set(args("family-ids")),
    exitPorts: policy === "accept" || policy === "reject" ? readPorts(policy === "accept", ports) : undefined,
  };
}

/** dir-spec 2.1.1 "family": $FP, $FP=nick, $FP~nick, or nick. */
function familyName(word: string): string {
  return word.startsWith("$") ? word.slice(0, 41).toUpperCase() : word.toLowerCase();
}

function readPorts(accept: boolean, list: string): PortSummary {
  const ranges = list.split(",").map((part) => {
    const match = /^([0-9]{1,5})(?:-([0-9]{1,5}))?$/u.exec(part);
    if (!match) throw malformed("a port summary that is none");
    return [Number(match[1]), Number(match[2] ?? match[1])] as const;
  });
  return { accept, ranges };
}

export function letsOut(summary: PortSummary | undefined, port: number): boolean {
  if (!summary) return false;
  return summary.ranges.some(([from, to]) => from <= port && port <= to) === summary.accept;
}
