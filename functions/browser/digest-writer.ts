// Writes the digest: records, compressed as one stream (spec/digest 3). Where the answer has only so much room, a record
// that would not leave in time is replaced by the failure that says so, so that the digest always ends well.

import { constants, createBrotliCompress } from "node:zlib";
import { type ContentRecord, RecordEncoder } from "../../src/wire/digest.ts";
import { Breather } from "./breather.ts";
import type { PageRecord, RecordSink } from "./engine.ts";
import { failureRecord } from "./failure.ts";
import type { Output } from "./output.ts";

/** Quality 5 is where brotli's gain over gzip costs no more time than gzip; higher ones cost seconds a page. */
const QUALITY = 5;
/** Window of 1 MiB: pages gain little from more, the sandbox's memory does not. */
const WINDOW_BITS = 20;
/** Compressor input at once, so that one large body does not become one large burst of output. */
const PIECE_BYTES = 64 * 1024;
/** The end record, compressed, and the end of the compressed stream. */
const END_BYTES = 256;
/** Kept for failures when a body asks for room. */
const FAILURES_BYTES = 2048;

const PARAMETERS = {
  params: { [constants.BROTLI_PARAM_QUALITY]: QUALITY, [constants.BROTLI_PARAM_LGWIN]: WINDOW_BITS },
};

export class DigestWriter implements RecordSink {
  readonly #output: Output;
  readonly #encoder = new RecordEncoder();
  readonly #breather = new Breather();
  readonly #brotli = createBrotliCompress(PARAMETERS);
  #compressed: Uint8Array[] = [];
  /** What the compressor was given since it was last flushed, at its worst; and what it gave. */
  #givenBytes = 0;
  #gotBytes = 0;
  #failure: Error | undefined;

  constructor(output: Output) {
    this.#output = output;
    this.#brotli.on("data", (bytes: Uint8Array) => {
      this.#compressed.push(bytes);
      this.#gotBytes += bytes.length;
    });
    this.#brotli.on("error", (error) => {
      this.#failure ??= error;
    });
  }

  async record(record: PageRecord): Promise<void> {
    for (const fitting of await this.#fit(record)) await this.#write(fitting);
  }

  /** Sends what the compressor still holds back, so that the client can show it. */
  async flush(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#brotli.flush(constants.BROTLI_OPERATION_FLUSH, resolve);
    });
    this.#givenBytes = 0;
    this.#gotBytes = 0;
    await this.#pass();
  }

  /** The end record and the end of the output. Resolves when the last byte has been sent. */
  async end(): Promise<void> {
    await this.#compress(this.#encoder.end());
    const ended = Promise.withResolvers<void>();
    this.#brotli.once("end", ended.resolve);
    this.#brotli.once("error", ended.reject);
    this.#brotli.end();
    await ended.promise;
    await this.#pass();
    await this.#output.end();
  }

  /** `record` where there is room for it; else what can be said instead. */
  async #fit(record: PageRecord): Promise<PageRecord[]> {
    const room = await this.#room();
    if (room === Number.POSITIVE_INFINITY) return [record];
    if (record.kind !== "page" && record.kind !== "resource") {
      return worstBytes(lengthOf(this.#encoder.parts(record))) <= room ? [record] : [];
    }
    const { body } = record;
    const headBytes = worstBytes(lengthOf(this.#encoder.parts(record)) - body.length);
    const before = room - FAILURES_BYTES - headBytes;
    if (worstBytes(body.length) <= before) return [record];
    const fits = await fittingBytes(body, before);
    // Cells have gone by meanwhile.
    const left = (await this.#room()) - FAILURES_BYTES - headBytes;
    if (fits.bytes === body.length && fits.compressed <= left) return [record];
    const kept =
      record.kind === "page" ? Math.floor((fits.bytes * Math.max(0, left)) / Math.max(1, before)) : 0;
    const cut: ContentRecord[] = kept > 0 ? [{ ...record, body: body.subarray(0, kept) }] : [];
    const reason = kept > 0 ? "truncated" : "too-large";
    return [...cut, failureRecord(record.url, reason, "no room left in an answer of this size")];
  }

  /** Bytes that compressed records may still have, whatever is under way. */
  async #room(): Promise<number> {
    return (await this.#output.room()) - Math.max(0, this.#givenBytes - this.#gotBytes) - END_BYTES;
  }

  async #write(record: PageRecord): Promise<void> {
    for (const part of this.#encoder.parts(record)) {
      for (let at = 0; at < part.length; at += PIECE_BYTES) {
        const piece = part.subarray(at, at + PIECE_BYTES);
        this.#encoder.update(piece);
        await this.#compress(piece);
        await this.#breather.breathe();
      }
    }
  }

  async #compress(piece: Uint8Array): Promise<void> {
    this.#givenBytes += worstBytes(piece.length);
    await new Promise<void>((resolve, reject) => {
      this.#brotli.write(piece, (error) => {
        if (error) reject(error);
        else resolve();
      });
    });
    await this.#pass();
  }

  async #pass(): Promise<void> {
    if (this.#failure) throw this.#failure;
    const parts = this.#compressed;
    this.#compressed = [];
    await this.#output.content(parts);
  }
}

function lengthOf(parts: readonly Uint8Array[]): number {
  return parts.reduce((sum, part) => sum + part.length, 0);
}

/** RFC 7932: bytes that do not compress are stored, with headers of 4 bytes for every 16 KiB at most, and a few more. */
function worstBytes(bytes: number): number {
  return bytes + 4 * (bytes >> 14) + 16;
}

/** How many bytes of `body` come out as at most `room` when they are compressed, and as how many, rounded up. */
async function fittingBytes(body: Uint8Array, room: number): Promise<{ bytes: number; compressed: number }> {
  const brotli = createBrotliCompress(PARAMETERS);
  const breather = new Breather();
  let out = 0;
  brotli.on("data", (bytes: Uint8Array) => {
    out += bytes.length;
  });
  try {
    let compressed = 0;
    for (let at = 0; at < body.length; at += PIECE_BYTES) {
      const piece = body.subarray(at, at + PIECE_BYTES);
      await new Promise<void>((resolve) => {
        brotli.write(piece, () => {
          brotli.flush(constants.BROTLI_OPERATION_FLUSH, resolve);
        });
      });
      await breather.breathe();
      // With other text in front of it, a body comes out a little differently.
      const bytes = Math.ceil(1.02 * out) + 64;
      if (bytes > room) return { bytes: at, compressed };
      compressed = bytes;
    }
    return { bytes: body.length, compressed };
  } finally {
    brotli.destroy();
  }
}
