// Frames of a session between client and box (spec/wire 4). The peer is untrusted on both sides.
//
// Over WebSocket each binary message is one frame; over `POST /v1/run` each frame is preceded by its length:
//
//   [length u32 BE]? [type u8] [body]          length counts type and body
//   00 00 00 06 01 68 65 6c 6c 6f              input, last fragment, "hello"
//
// client -> box                                   box -> client
//   00 start      JSON Start (run only, first)      10 attached   JSON Attached (first)
//   01 input      bytes, ends a message             11 output     offset u64 BE, bytes, ends a message
//   02 input-more bytes, message goes on            12 output-more  offset u64 BE, bytes, message goes on
//   03 input-end                                    13 ended      JSON Outcome (last)
//   04 ack        offset u64 BE                     14 problem    JSON Problem (last)
//   05 start-packed  length u32 BE, JSON Start without source, deflated source (instead of 00)
//
// Offsets count bytes of output since the instance began, over all messages.

import { z } from "zod";
import { ByteQueue } from "../base/byte-queue.ts";
import { fromUtf8, utf8, view } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";
import { invocationSchema, type Outcome, outcomeSchema, storedSchema } from "./api.ts";
import { type Problem, problemSchema } from "./error-code.ts";
import { Limits } from "./limits.ts";
import { packageSchema, sentPackageSchema } from "./package.ts";
import { packSource, unpackSource } from "./packed-source.ts";
import { OFFSET_BYTES, offsetBytes, SESSION_TYPE, tagged } from "./session-frame-type.ts";

/** First frame of a run: what to install (absent when the token names a stored function) and how to call it. */
const startSchema = z.strictObject({
  package: sentPackageSchema.optional(),
  invocation: invocationSchema,
});
export type Start = z.infer<typeof startSchema>;

/** Its source follows. */
const packedStartSchema = startSchema.extend({ package: packageSchema.omit({ source: true }) });

const attachedSchema = z.object({
  instance: z.string(),
  /** Offset of the first output byte that follows. */
  offset: z.int().nonnegative(),
  /** The tokens of what `run` installed. */
  stored: storedSchema.optional(),
});
export type Attached = z.infer<typeof attachedSchema>;

export type ClientFrame =
  | { readonly kind: "start"; readonly start: Start }
  | { readonly kind: "input"; readonly bytes: Uint8Array; readonly last: boolean }
  | { readonly kind: "input-end" }
  | { readonly kind: "ack"; readonly offset: number };

export type BoxFrame =
  | { readonly kind: "attached"; readonly attached: Attached }
  | { readonly kind: "output"; readonly offset: number; readonly bytes: Uint8Array; readonly last: boolean }
  | { readonly kind: "ended"; readonly outcome: Outcome }
  | { readonly kind: "problem"; readonly problem: Problem };

/** The largest frame either way: a start frame with a package in it. */
export const SESSION_FRAME_BYTES_MAX = Limits.packageBytesMax + Limits.argumentBytesMax + 1024;

export function encodeClientFrame(frame: ClientFrame): Uint8Array {
  switch (frame.kind) {
    case "start":
      return encodeStart(frame.start);
    case "input":
      return tagged(frame.last ? SESSION_TYPE.input : SESSION_TYPE.inputMore, frame.bytes);
    case "input-end":
      return tagged(SESSION_TYPE.inputEnd);
    case "ack":
      return tagged(SESSION_TYPE.ack, offsetBytes(frame.offset));
  }
}

/** Throws ProtocolError. Byte fields are views of `frame`. */
export function decodeClientFrame(frame: Uint8Array): ClientFrame {
  const body = frame.subarray(1);
  switch (frame[0]) {
    case SESSION_TYPE.start:
      return { kind: "start", start: parseJson(body, startSchema) };
    case SESSION_TYPE.startPacked:
      return { kind: "start", start: decodePackedStart(body) };
    case SESSION_TYPE.input:
    case SESSION_TYPE.inputMore:
      return { kind: "input", bytes: fragment(body), last: frame[0] === SESSION_TYPE.input };
    case SESSION_TYPE.inputEnd:
      return { kind: "input-end" };
    case SESSION_TYPE.ack:
      return { kind: "ack", offset: readOffset(body) };
    default:
      throw new ProtocolError("bad-request", "Cannot read session frame: unknown type");
  }
}

function encodeStart(start: Start): Uint8Array {
  const { package: pack } = start;
  const packed = pack && "source" in pack ? packSource(pack.source) : undefined;
  if (!pack || !packed) return tagged(SESSION_TYPE.start, json(start));
  const head = json({ ...start, package: { manifest: pack.manifest } });
  const length = new Uint8Array(4);
  view(length).setUint32(0, head.length);
  return tagged(SESSION_TYPE.startPacked, length, head, packed);
}

function decodePackedStart(body: Uint8Array): Start {
  const length = body.length < 4 ? undefined : view(body).getUint32(0);
  if (length === undefined || length > body.length - 4) {
    throw new ProtocolError("bad-request", "Cannot read session frame: its head is longer than it");
  }
  const { invocation, package: pack } = parseJson(body.subarray(4, 4 + length), packedStartSchema);
  return {
    package: { manifest: pack.manifest, source: unpackSource(body.subarray(4 + length)) },
    invocation,
  };
}

export function encodeBoxFrame(frame: BoxFrame): Uint8Array {
  switch (frame.kind) {
    case "attached":
      return tagged(SESSION_TYPE.attached, json(frame.attached));
    case "output":
      return tagged(
        frame.last ? SESSION_TYPE.output : SESSION_TYPE.outputMore,
        offsetBytes(frame.offset),
        frame.bytes,
      );
    case "ended":
      return tagged(SESSION_TYPE.ended, json(frame.outcome));
    case "problem":
      return tagged(SESSION_TYPE.problem, json(frame.problem));
  }
}

/** Throws ProtocolError. Byte fields are views of `frame`. */
export function decodeBoxFrame(frame: Uint8Array): BoxFrame {
  const body = frame.subarray(1);
  switch (frame[0]) {
    case SESSION_TYPE.attached:
      return { kind: "attached", attached: parseJson(body, attachedSchema) };
    case SESSION_TYPE.output:
    case SESSION_TYPE.outputMore:
      return {
        kind: "output",
        offset: readOffset(body),
        bytes: fragment(body.subarray(OFFSET_BYTES)),
        last: frame[0] === SESSION_TYPE.output,
      };
    case SESSION_TYPE.ended:
      return { kind: "ended", outcome: parseJson(body, outcomeSchema) };
    case SESSION_TYPE.problem:
      return { kind: "problem", problem: parseJson(body, problemSchema) };
    default:
      throw new ProtocolError("bad-request", "Cannot read session frame: unknown type");
  }
}

/** Puts the length before a frame, for a byte stream. */
export function prefixLength(frame: Uint8Array): Uint8Array {
  const out = new Uint8Array(4 + frame.length);
  view(out).setUint32(0, frame.length);
  out.set(frame, 4);
  return out;
}

/** What comes before the `bytes` bytes of an output frame on a byte stream, its length included. */
export function outputHead(offset: number, bytes: number, last: boolean): Uint8Array {
  const head = prefixLength(
    tagged(last ? SESSION_TYPE.output : SESSION_TYPE.outputMore, offsetBytes(offset)),
  );
  view(head).setUint32(0, head.length - 4 + bytes);
  return head;
}

/** Cuts a byte stream into length-prefixed frames. Holds at most one frame of `frameBytesMax`. */
export class FrameSplitter {
  readonly #frameBytesMax: number;
  readonly #held = new ByteQueue();

  constructor(frameBytesMax: number = SESSION_FRAME_BYTES_MAX) {
    this.#frameBytesMax = frameBytesMax;
  }

  /** The frames that `chunk` completes. Throws ProtocolError on a length of 0 or above the limit. */
  push(chunk: Uint8Array): Uint8Array[] {
    this.#held.push(chunk);
    const frames: Uint8Array[] = [];
    for (let header = this.#held.peek(4); header; header = this.#held.peek(4)) {
      const length = view(header).getUint32(0);
      if (length === 0 || length > this.#frameBytesMax) {
        throw new ProtocolError(
          "bad-request",
          `Cannot read frame: length ${length}, expected 1 to ${this.#frameBytesMax}`,
        );
      }
      const whole = this.#held.take(4 + length);
      if (!whole) break;
      frames.push(whole.subarray(4));
    }
    return frames;
  }

  /** Throws ProtocolError when the stream ended inside a frame. */
  end(): void {
    if (this.#held.length > 0) {
      throw new ProtocolError("bad-request", "Cannot read frame: stream ended inside it");
    }
  }
}

function json(value: unknown): Uint8Array {
  return utf8(JSON.stringify(value));
}

function parseJson<T>(bytes: Uint8Array, schema: z.ZodType<T>): T {
  let value: unknown;
  try {
    value = JSON.parse(fromUtf8(bytes));
  } catch (cause) {
    throw new ProtocolError("bad-request", "Cannot read session frame: not JSON", { cause });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  throw new ProtocolError(
    "bad-request",
    `Cannot read session frame: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "malformed"}`.slice(
      0,
      500,
    ),
  );
}

function fragment(bytes: Uint8Array): Uint8Array {
  if (bytes.length <= Limits.fragmentBytesMax) return bytes;
  throw new ProtocolError(
    "bad-request",
    `Cannot read session frame: fragment of ${bytes.length} bytes, expected at most ${Limits.fragmentBytesMax}`,
  );
}

function readOffset(bytes: Uint8Array): number {
  if (bytes.length < OFFSET_BYTES)
    throw new ProtocolError("bad-request", "Cannot read session frame: no offset");
  const offset = view(bytes).getBigUint64(0);
  if (offset > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new ProtocolError("bad-request", "Cannot read session frame: offset out of range");
  }
  return Number(offset);
}
