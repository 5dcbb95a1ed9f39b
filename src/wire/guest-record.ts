// Records on the byte stream of a `bento.run` or `bento.open` call (spec/guest 5.2): messages keep their boundaries
// between a function and the far function that it talks to. For the box the guest is hostile. Integers are big-endian.
//
//   [kind u8] [length u32] [payload: length bytes]
//   01 00 00 00 05 68 65 6c 6c 6f     message, last part, "hello"
//
// both ways                        guest -> box                      box -> guest
//   01 message  ends a message       03 package  ends the package      05 deployed  JSON, null (first)
//   02 message-more                  04 package-more                   06 resumed   no payload
//                                                                      07 ended     JSON Outcome (last)

import { ByteQueue } from "../base/byte-queue.ts";
import { view } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";

export const RECORD = {
  message: 1,
  messageMore: 2,
  package: 3,
  packageMore: 4,
  deployed: 5,
  resumed: 6,
  ended: 7,
} as const;

const HEADER_BYTES = 5;
/** Largest payload of a message or package record: with its header it fits one frame of the guest channel. */
export const RECORD_BYTES_MAX = 60 * 1024;
/** Largest payload that a splitter takes: the texts of an outcome, all escapes in JSON. */
const PAYLOAD_BYTES_MAX = 512 * 1024;

export interface GuestRecord {
  readonly kind: number;
  readonly payload: Uint8Array;
}

export function encodeRecord(kind: number, payload: Uint8Array = new Uint8Array()): Uint8Array {
  const out = new Uint8Array(HEADER_BYTES + payload.length);
  const header = view(out);
  header.setUint8(0, kind);
  header.setUint32(1, payload.length);
  out.set(payload, HEADER_BYTES);
  return out;
}

/** `bytes` as records of at most RECORD_BYTES_MAX; an empty message is one empty record. */
export function* recordsOf(bytes: Uint8Array, kinds: { more: number; last: number }): Generator<Uint8Array> {
  let at = 0;
  do {
    const part = bytes.subarray(at, at + RECORD_BYTES_MAX);
    at += part.length;
    yield encodeRecord(at < bytes.length ? kinds.more : kinds.last, part);
  } while (at < bytes.length);
}

/** Cuts a byte stream into records. Holds at most one. */
export class RecordSplitter {
  readonly #held = new ByteQueue();
  readonly #payloadBytesMax: number;

  constructor(payloadBytesMax: number = PAYLOAD_BYTES_MAX) {
    this.#payloadBytesMax = payloadBytesMax;
  }

  /** Throws ProtocolError as soon as a header announces more than the limit. */
  *push(chunk: Uint8Array): Generator<GuestRecord> {
    this.#held.push(chunk);
    for (let header = this.#held.peek(HEADER_BYTES); header; header = this.#held.peek(HEADER_BYTES)) {
      const fields = view(header);
      const length = fields.getUint32(1);
      if (length > this.#payloadBytesMax) {
        throw new ProtocolError(
          "guest-record",
          `Cannot read record: ${length} bytes, expected at most ${this.#payloadBytesMax}`,
        );
      }
      const whole = this.#held.take(HEADER_BYTES + length);
      if (!whole) return;
      yield { kind: fields.getUint8(0), payload: whole.subarray(HEADER_BYTES) };
    }
  }
}
