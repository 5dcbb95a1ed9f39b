// The bytes of session frames (session-frame.ts has the table) for those who need no checking of their JSON: functions,
// whose bundles stay small without it.

import { concat, view } from "../base/bytes.ts";

export const SESSION_TYPE = {
  start: 0x00,
  input: 0x01,
  inputMore: 0x02,
  inputEnd: 0x03,
  ack: 0x04,
  startPacked: 0x05,
  attached: 0x10,
  output: 0x11,
  outputMore: 0x12,
  ended: 0x13,
  problem: 0x14,
} as const;

export const OFFSET_BYTES = 8;

/** `[type u8] [parts]`. */
export function tagged(type: number, ...parts: Uint8Array[]): Uint8Array {
  return concat([Uint8Array.of(type), ...parts]);
}

/** u64, big-endian. */
export function offsetBytes(offset: number): Uint8Array {
  const out = new Uint8Array(OFFSET_BYTES);
  view(out).setBigUint64(0, BigInt(offset));
  return out;
}
