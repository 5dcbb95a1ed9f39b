// The line format of directory documents and onion service descriptors: keyword lines, some with an object after them.
// Documents come from directory caches: hostile until their signatures or digests were checked, and mostly parsed before.
// Spec: dir-spec 1.2 "Document meta-format".

import { ProtocolError } from "../../base/errors.ts";
import { fromBase64 } from "../fields.ts";

export interface Item {
  readonly keyword: string;
  readonly args: readonly string[];
  /** What stands between BEGIN and END, decoded; and the name there. */
  readonly object: { readonly name: string; readonly bytes: Uint8Array } | undefined;
  /** Where the item begins in the document, in bytes. */
  readonly from: number;
  /** Where its keyword line ends, after the newline. */
  readonly lineEnd: number;
}

const BEGIN = /^-----BEGIN ([A-Z0-9][A-Z0-9 ]{0,60})-----$/u;
/** No keyword line of a valid document is nearly as long; descriptors of big families have 20 KiB. */
const LINE_BYTES_MAX = 128 * 1024;

/**
 * Documents are ASCII; contact lines may hold anything. One character for each byte, so that places in the text are
 * places in the bytes.
 */
export function documentText(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}

// Sample:
//   ntor-onion-key Fq4koJ4g718cpDQ/0yyotcjBmgKGMbMPvZcd0mnXxSM
//   directory-signature sha256 0FF7D5F7B062AED116D7682421AA4E35A1DE0586 3B4A41103CEA22A06F4E5DEB27D70FFE4DC73F96
//   -----BEGIN SIGNATURE-----
//   NMXoDcJHY5ndv2Csz7ou/o3TOSiQgnOZFcqV2a7woHv8y59fV/UuBdDg2pSo+098
//   -----END SIGNATURE-----
/** Reads item by item. Throws ProtocolError `onion-document` at the first line that is none. */
export function* readItems(text: string): Generator<Item> {
  for (let at = 0; at < text.length; ) {
    const from = at;
    const line = lineAt(text, at);
    at += line.length + 1;
    // dir-spec 1.2: "opt" and empty lines are of old formats; empty ones are harmless.
    if (line === "") continue;
    const [keyword = "", ...args] = line.split(" ").filter((word) => word !== "");
    if (!/^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/u.test(keyword)) throw malformed("a line without keyword");
    const lineEnd = at;
    const begin = text.startsWith("-----BEGIN ", at) ? BEGIN.exec(lineAt(text, at)) : undefined;
    let object: Item["object"];
    if (begin) {
      const name = begin[1] ?? "";
      const bodyFrom = at + begin[0].length + 1;
      const end = `\n-----END ${name}-----`;
      const bodyEnd = text.indexOf(end, bodyFrom - 1);
      if (bodyEnd < 0) throw malformed(`${keyword} has an object without end`);
      object = { name, bytes: fromBase64(text.slice(bodyFrom, bodyEnd).replaceAll("\n", "")) };
      at = bodyEnd + end.length;
      if (at < text.length && text[at] !== "\n") throw malformed(`${keyword} goes on after its object`);
      at += 1;
    }
    yield { keyword, args, object, from, lineEnd };
  }
}

function lineAt(text: string, at: number): string {
  const end = text.indexOf("\n", at);
  const line = text.slice(at, end < 0 ? text.length : end);
  if (line.length > LINE_BYTES_MAX) throw malformed(`a line of ${String(line.length)} bytes`);
  return line;
}

/** Items by keyword, for documents in which none repeats. Throws ProtocolError for one that does and must not. */
export function itemsByKeyword(text: string, once: readonly string[]): ReadonlyMap<string, Item> {
  const items = new Map<string, Item>();
  for (const item of readItems(text)) {
    if (!items.has(item.keyword)) items.set(item.keyword, item);
    else if (once.includes(item.keyword)) throw malformed(`${item.keyword} twice`);
  }
  for (const keyword of once) if (!items.has(keyword)) throw malformed(`no ${keyword}`);
  return items;
}

// Sample: 2026-11-21 13:45:00
/** Unix milliseconds; dir-spec 1.2: times are UTC. Throws ProtocolError. */
export function parseTime(day = "", time = ""): number {
  const ms =
    /^\d{4}-\d\d-\d\d$/u.test(day) && /^\d\d:\d\d:\d\d$/u.test(time)
      ? Date.parse(`${day}T${time}Z`)
      : Number.NaN;
  if (Number.isNaN(ms)) throw malformed("a time that is none");
  return ms;
}

// Sample: Wbd=3333 Wbe=0 cc_alg=2
/** `name=integer` pairs; those that are none are left out. */
export function parseNumbers(words: readonly string[]): ReadonlyMap<string, number> {
  const numbers = new Map<string, number>();
  for (const word of words) {
    const match = /^([A-Za-z0-9_-]{1,64})=(-?[0-9]{1,10})$/u.exec(word);
    if (match?.[1] !== undefined) numbers.set(match[1], Number(match[2]));
  }
  return numbers;
}

/** dir-spec 1.2: an object, with lines of 64 characters. */
export function armor(name: string, bytes: Uint8Array): string {
  const lines =
    Buffer.from(bytes)
      .toString("base64")
      .match(/.{1,64}/gu) ?? [];
  return `-----BEGIN ${name}-----\n${lines.join("\n")}\n-----END ${name}-----\n`;
}

export function malformed(found: string): ProtocolError {
  return new ProtocolError("onion-document", `Cannot read directory document: ${found}`);
}
