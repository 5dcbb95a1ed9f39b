// Extension fields: a count, then (type, length, value) each, as in ntor-v3 messages, ESTABLISH_INTRO and INTRODUCE.
// Spec: rend-spec-v3 3.1.1 "N_EXTENSIONS", proposal 332 A.2.

import { concat } from "../base/bytes.ts";
import { type FieldReader, u8 } from "./fields.ts";

export interface Extension {
  readonly type: number;
  readonly value: Uint8Array;
}

/** Proposal 324 9.2, 10.3. */
export const EXTENSION_CONGESTION_REQUEST = 1;
export const EXTENSION_CONGESTION_RESPONSE = 2;

export function encodeExtensions(extensions: readonly Extension[]): Uint8Array {
  return concat([
    u8(extensions.length),
    ...extensions.flatMap(({ type, value }) => [u8(type), u8(value.length), value]),
  ]);
}

/** Proposal 332 A.2: of several of one type the first counts, unknown ones are ignored by who looks for others. */
export function readExtensions(reader: FieldReader): ReadonlyMap<number, Uint8Array> {
  const extensions = new Map<number, Uint8Array>();
  for (let left = reader.u8(); left > 0; left--) {
    const type = reader.u8();
    const value = reader.bytes(reader.u8());
    if (!extensions.has(type)) extensions.set(type, value);
  }
  return extensions;
}
