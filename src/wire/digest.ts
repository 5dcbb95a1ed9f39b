// The digest: a web page with its sub-resources as one padded stream (spec/digest). Browser writes it on the box, the
// client reads it. Everything here is pure: frames of the outer stream and records of the inner one.
//
//   42 44 47 02                                magic "BDG", version 2
//   01 [length u16 BE] [bytes]                 content: a piece of one brotli stream of records
//   02 [length u32 BE] [bytes]                 padding, any bytes
//   00                                         padding of one byte
//   03                                         the end: last byte of the digest
//
// The peer is untrusted on the reading side: each decoder is bounded and throws ProtocolError.

import { createHash } from "node:crypto";
import { ByteQueue } from "../base/byte-queue.ts";
import { concat, fromUtf8, utf8, view } from "../base/bytes.ts";
import { assert, ProtocolError, unreachable } from "../base/errors.ts";

export const DigestLimits = {
  /** A URL, as it stands in the page or after redirects: bytes of UTF-8. Browsers and servers stop far below. */
  urlBytesMax: 8192,
  /** A Content-Type header. */
  typeBytesMax: 256,
  /** What went wrong, for people. */
  detailBytesMax: 512,
  /** Body of one record: larger things are not parts of a page. */
  bodyBytesMax: 16 * 1024 * 1024,
  /** All records of a digest after decompression: what a client is ready to hold in memory. */
  contentBytesMax: 96 * 1024 * 1024,
  /** Records in a digest: bounds the tables of the client. */
  recordsMax: 8192,
  /** Payload of one content frame. */
  contentFrameBytesMax: 0xffff,
  /** Largest multiple to pad to, and so the most padding a digest may carry. */
  paddingBytesMax: 64 * 1024 * 1024,
} as const;

export const DIGEST_MAGIC = Uint8Array.of(0x42, 0x44, 0x47, 0x02);

/** Why something that the page refers to is not in the digest. */
export const FAILURE_REASONS = [
  "network",
  "http-status",
  "timeout",
  "deadline",
  "too-large",
  "too-many",
  "truncated",
  "redirect",
  "mixed-content",
  "bad-url",
  "bad-type",
  "not-fetched",
  "stopped",
  "other",
] as const;
export type FailureReason = (typeof FAILURE_REASONS)[number];

/** The page itself (first of its kind wins) or something it refers to. */
export interface ContentRecord {
  readonly kind: "page" | "resource";
  /** As referred to: absolute, without fragment. */
  readonly url: string;
  /** After redirects: the base of relative references in the body. */
  readonly finalUrl: string;
  /** HTTP status. */
  readonly status: number;
  /** Content-Type as the server sent it; "" for none. */
  readonly type: string;
  readonly body: Uint8Array;
}

export interface FailureRecord {
  readonly kind: "failure";
  readonly url: string;
  readonly reason: FailureReason;
  /** For people, may be empty. */
  readonly detail: string;
}

export type DigestRecord =
  | ContentRecord
  | FailureRecord
  /** The page and all its style sheets have come. `resources`: how many records the page has as far as is known. */
  | { readonly kind: "styled"; readonly resources: number }
  /** The last record. `hash`: SHA-256 over magic and all records before this one. */
  | { readonly kind: "end"; readonly hash: Uint8Array };

const KIND = { page: 1, resource: 2, failure: 3, styled: 4, end: 5 } as const;
/** Kinds from here on may be skipped by a reader that does not know them. */
const KIND_OPTIONAL = 0x80;
const RECORD_HEADER_BYTES = 5;
/** Fields of a record in front of its body: both URLs, type, their lengths and the status. */
const FIELD_BYTES_MAX = 2 * DigestLimits.urlBytesMax + DigestLimits.typeBytesMax + 64;

/** Turns records into bytes and hashes them on the way. `end()` gives the last record. */
export class RecordEncoder {
  readonly #hash = createHash("sha256").update(DIGEST_MAGIC);

  /** `[kind u8] [length u32 BE] [fields]`, in one or two parts so that bodies are not copied. */
  encode(record: Exclude<DigestRecord, { kind: "end" }>): readonly Uint8Array[] {
    const parts = this.parts(record);
    for (const part of parts) this.update(part);
    return parts;
  }

  /** As `encode`, for writers that pass large bodies on in pieces: each must be given to `update`, in order. */
  parts(record: Exclude<DigestRecord, { kind: "end" }>): readonly Uint8Array[] {
    return encodeRecord(record);
  }

  update(piece: Uint8Array): void {
    this.#hash.update(piece);
  }

  end(): Uint8Array {
    return concat(encodeRecord({ kind: "end", hash: this.#hash.digest() }));
  }
}

/**
 * ```
 * 02 00 00 00 2e                                            resource, 46 bytes
 *    00 c8  00 10 "http://a.test/b."  00 00 ""  00 08 "text/css"  "p{color:red}"
 * ```
 * An empty final URL stands for "the same".
 */
function encodeRecord(record: DigestRecord): readonly Uint8Array[] {
  switch (record.kind) {
    case "page":
    case "resource": {
      const { url, finalUrl, type, body } = record;
      assert(body.length <= DigestLimits.bodyBytesMax, "record body over its limit");
      const status = new Uint8Array(2);
      view(status).setUint16(0, record.status);
      const fields = [
        status,
        text(url, DigestLimits.urlBytesMax),
        text(finalUrl === url ? "" : finalUrl, DigestLimits.urlBytesMax),
        text(type, DigestLimits.typeBytesMax),
      ];
      return [framed(KIND[record.kind], fields, body.length), body];
    }
    case "failure":
      return [
        framed(KIND.failure, [
          text(record.url, DigestLimits.urlBytesMax),
          text(record.reason, DigestLimits.typeBytesMax),
          text(record.detail, DigestLimits.detailBytesMax),
        ]),
      ];
    case "styled": {
      const count = new Uint8Array(4);
      view(count).setUint32(0, record.resources);
      return [framed(KIND.styled, [count])];
    }
    case "end":
      return [framed(KIND.end, [record.hash])];
    default:
      return unreachable(record);
  }
}

function framed(kind: number, fields: readonly Uint8Array[], bodyBytes = 0): Uint8Array {
  const payload = concat(fields);
  const header = new Uint8Array(RECORD_HEADER_BYTES);
  header[0] = kind;
  view(header).setUint32(1, payload.length + bodyBytes);
  return concat([header, payload]);
}

/** `[length u16 BE] [UTF-8]`. Longer text is a mistake of the caller: URLs are checked where they are found. */
function text(value: string, bytesMax: number): Uint8Array {
  const bytes = utf8(value);
  assert(bytes.length <= bytesMax, "text over its limit");
  const length = new Uint8Array(2);
  view(length).setUint16(0, bytes.length);
  return concat([length, bytes]);
}

/** Cuts decompressed bytes into records. After the end record it takes no more. */
export class RecordDecoder {
  readonly #held = new ByteQueue();
  readonly #hash = createHash("sha256").update(DIGEST_MAGIC);
  readonly #bytesMax: number;
  #bytes = 0;
  #records = 0;
  #isEnded = false;

  constructor(contentBytesMax: number = DigestLimits.contentBytesMax) {
    this.#bytesMax = contentBytesMax;
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** The records that `chunk` completes. Throws ProtocolError; a wrong hash too. The chunk is kept, not copied. */
  push(chunk: Uint8Array): DigestRecord[] {
    this.#bytes += chunk.length;
    if (this.#bytes > this.#bytesMax) throw bad(`more than ${this.#bytesMax} bytes of content`);
    this.#held.push(chunk);
    const records: DigestRecord[] = [];
    for (let header = this.#next(); header; header = this.#next()) {
      const kind = header[0] ?? 0;
      const length = view(header).getUint32(1);
      if (length > DigestLimits.bodyBytesMax + FIELD_BYTES_MAX) throw bad(`a record of ${length} bytes`);
      const whole = this.#held.take(RECORD_HEADER_BYTES + length);
      if (!whole) break;
      const record = decodeRecord(kind, new Fields(whole.subarray(RECORD_HEADER_BYTES)));
      if (++this.#records > DigestLimits.recordsMax) {
        throw bad(`more than ${DigestLimits.recordsMax} records`);
      }
      if (record?.kind === "end") this.#checkEnd(record.hash);
      else this.#hash.update(whole);
      if (record) records.push(record);
    }
    if (this.#isEnded && this.#held.length > 0) throw bad("bytes after the end record");
    return records;
  }

  #next(): Uint8Array | undefined {
    return this.#isEnded ? undefined : this.#held.peek(RECORD_HEADER_BYTES);
  }

  #checkEnd(hash: Uint8Array): void {
    // The hash finds damage, not forgery: whoever writes the digest writes the hash. No secret is compared.
    if (!this.#hash.digest().equals(hash)) throw bad("the hash does not match");
    this.#isEnded = true;
  }
}

function decodeRecord(kind: number, fields: Fields): DigestRecord | undefined {
  switch (kind) {
    case KIND.page:
    case KIND.resource: {
      const status = fields.uint(2);
      const url = fields.text(DigestLimits.urlBytesMax);
      const finalUrl = fields.text(DigestLimits.urlBytesMax) || url;
      const type = fields.text(DigestLimits.typeBytesMax);
      const body = fields.rest(DigestLimits.bodyBytesMax);
      return { kind: kind === KIND.page ? "page" : "resource", url, finalUrl, status, type, body };
    }
    case KIND.failure: {
      const url = fields.text(DigestLimits.urlBytesMax);
      const named = fields.text(DigestLimits.typeBytesMax);
      const detail = fields.text(DigestLimits.detailBytesMax);
      fields.done();
      return {
        kind: "failure",
        url,
        reason: FAILURE_REASONS.find((reason) => reason === named) ?? "other",
        detail,
      };
    }
    case KIND.styled: {
      const resources = fields.uint(4);
      fields.done();
      return { kind: "styled", resources };
    }
    case KIND.end: {
      const hash = fields.rest(32);
      if (hash.length !== 32) throw bad(`a hash of ${hash.length} bytes`);
      return { kind: "end", hash };
    }
    default:
      if (kind >= KIND_OPTIONAL) return undefined;
      throw bad(`a record of kind ${kind}`);
  }
}

class Fields {
  #bytes: Uint8Array;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  uint(size: 2 | 4): number {
    const bytes = view(this.#take(size));
    return size === 2 ? bytes.getUint16(0) : bytes.getUint32(0);
  }

  text(bytesMax: number): string {
    const length = this.uint(2);
    if (length > bytesMax) throw bad(`a text of ${length} bytes, expected at most ${bytesMax}`);
    try {
      return fromUtf8(this.#take(length));
    } catch (cause) {
      if (cause instanceof ProtocolError) throw cause;
      throw new ProtocolError("digest", "Cannot read digest: a text that is not UTF-8", { cause });
    }
  }

  rest(bytesMax: number): Uint8Array {
    if (this.#bytes.length > bytesMax) throw bad(`a body of ${this.#bytes.length} bytes`);
    return this.#take(this.#bytes.length);
  }

  done(): void {
    if (this.#bytes.length > 0) throw bad("a record longer than its fields");
  }

  #take(count: number): Uint8Array {
    if (this.#bytes.length < count) throw bad("a record shorter than its fields");
    const taken = this.#bytes.subarray(0, count);
    this.#bytes = this.#bytes.subarray(count);
    return taken;
  }
}

const FRAME = { filler: 0, content: 1, padding: 2, end: 3 } as const;
/** What content costs beyond its own bytes, for each frame. */
export const CONTENT_HEADER_BYTES = 3;
const PADDING_HEADER_BYTES = 5;
/** The frame that ends a digest: one byte. */
export const DIGEST_END = Uint8Array.of(FRAME.end);

/** Content frames around compressed bytes, as parts to be sent one behind the other. */
export function encodeContentFrames(bytes: Uint8Array): Uint8Array[] {
  const parts: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += DigestLimits.contentFrameBytesMax) {
    const piece = bytes.subarray(at, at + DigestLimits.contentFrameBytesMax);
    const header = new Uint8Array(CONTENT_HEADER_BYTES);
    header[0] = FRAME.content;
    view(header).setUint16(1, piece.length);
    parts.push(header, piece);
  }
  return parts;
}

/**
 * What brings a stream of `bytesSent`, with the end frame behind the padding, to the next multiple of `multiple` exactly;
 * `multiple` 0 asks for none.
 */
export function paddingPlan(
  bytesSent: number,
  multiple: number,
): { readonly header: Uint8Array; readonly bodyBytes: number } {
  const unpadded = bytesSent + DIGEST_END.length;
  return paddingOf(multiple === 0 ? 0 : (multiple - (unpadded % multiple)) % multiple);
}

/** Padding of `missing` bytes, header included. */
export function paddingOf(missing: number): { readonly header: Uint8Array; readonly bodyBytes: number } {
  // Too little for a header: single filler bytes.
  if (missing < PADDING_HEADER_BYTES) return { header: new Uint8Array(missing), bodyBytes: 0 };
  const header = new Uint8Array(PADDING_HEADER_BYTES);
  header[0] = FRAME.padding;
  view(header).setUint32(1, missing - PADDING_HEADER_BYTES);
  return { header, bodyBytes: missing - PADDING_HEADER_BYTES };
}

export type FramePart =
  | { readonly kind: "content"; readonly bytes: Uint8Array }
  /** `bytes` of padding arrived, of `total` that this frame announced. */
  | { readonly kind: "padding"; readonly bytes: number; readonly total: number }
  /** The end frame. */
  | { readonly kind: "end" };

/** Cuts the outer stream into parts as they arrive: never holds more than a header. */
export class FrameDecoder {
  readonly #held = new ByteQueue();
  #magicLeft = true;
  #contentLeft = 0;
  #paddingLeft = 0;
  #paddingTotal = 0;
  #isEnded = false;

  /** Whether the end frame has come. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** Throws ProtocolError. The parts are views into `chunk` where they can be. */
  push(chunk: Uint8Array): FramePart[] {
    this.#held.push(chunk);
    const parts: FramePart[] = [];
    while (this.#step(parts)) {
      /* as long as something could be cut off */
    }
    if (this.#isEnded && this.#held.length > 0) throw bad("bytes after the end of the digest");
    return parts;
  }

  #step(parts: FramePart[]): boolean {
    if (this.#isEnded) return false;
    if (this.#magicLeft) return this.#magic();
    if (this.#contentLeft > 0) {
      const bytes = this.#held.take(Math.min(this.#contentLeft, this.#held.length));
      if (!bytes || bytes.length === 0) return false;
      this.#contentLeft -= bytes.length;
      parts.push({ kind: "content", bytes });
      return true;
    }
    if (this.#paddingLeft > 0) {
      const count = Math.min(this.#paddingLeft, this.#held.length);
      if (count === 0) return false;
      this.#held.take(count);
      this.#paddingLeft -= count;
      parts.push({ kind: "padding", bytes: count, total: this.#paddingTotal });
      return true;
    }
    return this.#header(parts);
  }

  #magic(): boolean {
    const magic = this.#held.take(DIGEST_MAGIC.length);
    if (!magic) return false;
    if (!DIGEST_MAGIC.every((byte, at) => magic[at] === byte)) throw bad("not a digest of version 2");
    this.#magicLeft = false;
    return true;
  }

  #header(parts: FramePart[]): boolean {
    const kind = this.#held.peek(1)?.[0];
    if (kind === undefined) return false;
    if (kind === FRAME.filler) {
      this.#held.take(1);
      parts.push({ kind: "padding", bytes: 1, total: 1 });
      return true;
    }
    if (kind === FRAME.end) {
      this.#held.take(1);
      this.#isEnded = true;
      parts.push({ kind: "end" });
      return true;
    }
    if (kind === FRAME.content) {
      const header = this.#held.take(CONTENT_HEADER_BYTES);
      if (!header) return false;
      this.#contentLeft = view(header).getUint16(1);
      return true;
    }
    if (kind !== FRAME.padding) throw bad(`a frame of type ${kind}`);
    const header = this.#held.take(PADDING_HEADER_BYTES);
    if (!header) return false;
    this.#paddingLeft = view(header).getUint32(1);
    if (this.#paddingLeft > DigestLimits.paddingBytesMax) throw bad(`${this.#paddingLeft} bytes of padding`);
    this.#paddingTotal = this.#paddingLeft + PADDING_HEADER_BYTES;
    parts.push({ kind: "padding", bytes: PADDING_HEADER_BYTES, total: this.#paddingTotal });
    return true;
  }
}

function bad(found: string): ProtocolError {
  return new ProtocolError("digest", `Cannot read digest: found ${found}`);
}
