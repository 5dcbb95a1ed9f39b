// Frames of the one channel out of a sandbox: stdin and stdout of the guest (spec/guest 2). For the box the
// guest is hostile; the guest trusts the box. Integers are big-endian.
//
//   [length u32] [type u8] [id u32] [payload: length bytes]
//   00 00 00 05 21 00 00 00 00 68 65 6c 6c 6f     output, last fragment, "hello"
//
// box -> guest                                  guest -> box
//   01 start       JSON GuestStart                20 ready       (the runtime is up, nothing ran yet)
//   02 input       bytes, ends a message          21 output      bytes, ends a message
//   03 input-more  bytes                          22 output-more bytes
//   04 input-end                                  23 done        (last)
//   05 reply       id, JSON result                24 failed      JSON GuestFailure (last)
//   06 refuse      id, JSON {code, message}       25 call        id, JSON {method, params}
//   0b stop        please end                     26 log         JSON {level, text}
//   0c session     JSON {attached}
// both ways, on the id of a call that opened a byte stream:
//   07 data        bytes                          08 data-end
//   09 reset       JSON {code, message}           0a credit      u32 bytes the receiver has consumed
//
// Flow control: each sender may have Limits.streamWindowBytes unconsumed bytes under way per stream and
// direction. Input and output are the stream with id 0: `credit` with id 0 gives them back. A fragment costs
// its whole frame, header included (guestFrameCost), so that empty fragments are bounded too; `data-end` and
// `input-end` are free. Ids are chosen by the guest, from 1 up in order, never reused. Frames on an id whose
// call has ended are dropped: the two ends learn of an end at different times.

import { ByteQueue } from "../base/byte-queue.ts";
import { view } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import type { Invocation } from "./api.ts";
import type { Grant } from "./grant.ts";

export const GUEST_HEADER_BYTES = 9;
/** Largest payload: a start frame with a package's source and its arguments. */
export const GUEST_START_BYTES_MAX = 5 * 1024 * 1024;
/** Largest payload of any other frame, either way. */
export const GUEST_PAYLOAD_BYTES_MAX = 64 * 1024;

export const GUEST_FRAME = {
  start: 0x01,
  input: 0x02,
  inputMore: 0x03,
  inputEnd: 0x04,
  reply: 0x05,
  refuse: 0x06,
  data: 0x07,
  dataEnd: 0x08,
  reset: 0x09,
  credit: 0x0a,
  stop: 0x0b,
  session: 0x0c,
  ready: 0x20,
  output: 0x21,
  outputMore: 0x22,
  done: 0x23,
  failed: 0x24,
  call: 0x25,
  log: 0x26,
} as const;

export interface GuestFrame {
  readonly type: number;
  readonly id: number;
  readonly payload: Uint8Array;
}

/** What the guest gets to run. */
export interface GuestStart {
  readonly name: string;
  /** Absent: what a ready instance has loaded. */
  readonly source?: string;
  /** python: the callable for `args`; `main` when absent. */
  readonly entry?: string;
  readonly invocation: Invocation;
  readonly grant: Grant;
}

/** A function's own error. `traceback` names the function's frames only. */
export interface GuestFailure {
  readonly name: string;
  readonly message: string;
  readonly traceback: string;
}

/** What a fragment of `payloadBytes` takes from the window of its stream. */
export function guestFrameCost(payloadBytes: number): number {
  return GUEST_HEADER_BYTES + payloadBytes;
}

export function encodeGuestFrame(
  type: number,
  id: number,
  payload: Uint8Array = new Uint8Array(),
): Uint8Array {
  const out = new Uint8Array(GUEST_HEADER_BYTES + payload.length);
  const header = view(out);
  header.setUint32(0, payload.length);
  header.setUint8(4, type);
  header.setUint32(5, id);
  out.set(payload, GUEST_HEADER_BYTES);
  return out;
}

/** Cuts a byte stream into frames. Holds at most one frame. */
export class GuestFrameSplitter {
  readonly #payloadBytesMax: number;
  readonly #held = new ByteQueue();

  constructor(payloadBytesMax: number = GUEST_PAYLOAD_BYTES_MAX) {
    this.#payloadBytesMax = payloadBytesMax;
  }

  /** Throws ProtocolError as soon as a header announces more than the limit. */
  push(chunk: Uint8Array): GuestFrame[] {
    this.#held.push(chunk);
    const frames: GuestFrame[] = [];
    for (
      let header = this.#held.peek(GUEST_HEADER_BYTES);
      header;
      header = this.#held.peek(GUEST_HEADER_BYTES)
    ) {
      const fields = view(header);
      const length = fields.getUint32(0);
      if (length > this.#payloadBytesMax) {
        throw new ProtocolError(
          "guest-frame",
          `Cannot read guest frame: ${length} bytes, expected at most ${this.#payloadBytesMax}`,
        );
      }
      const whole = this.#held.take(GUEST_HEADER_BYTES + length);
      if (!whole) break;
      const payload = whole.subarray(GUEST_HEADER_BYTES);
      frames.push({ type: fields.getUint8(4), id: fields.getUint32(5), payload });
    }
    return frames;
  }
}
