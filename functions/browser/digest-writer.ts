// Writes the digest: records, compressed as one stream, framed, padded to an exact multiple (spec/digest 2, 3).
// `send` makes the back-pressure: no more is compressed until the client has taken what came out.

import { constants, createBrotliCompress } from "node:zlib";
import { concat } from "../../src/base/bytes.ts";
import {
  DIGEST_END,
  DIGEST_MAGIC,
  type DigestRecord,
  encodeContentFrames,
  paddingPlan,
  RecordEncoder,
} from "../../src/wire/digest.ts";

/** Quality 5 is where brotli's gain over gzip costs no more time than gzip; higher ones cost seconds a page. */
const QUALITY = 5;
/** Window of 1 MiB: pages gain little from more, the sandbox's memory does not. */
const WINDOW_BITS = 20;
/** Compressor input at once, so that one large body does not become one large burst of output. */
const PIECE_BYTES = 64 * 1024;

export class DigestWriter {
  readonly #send: (bytes: Uint8Array) => Promise<void>;
  readonly #encoder = new RecordEncoder();
  readonly #brotli = createBrotliCompress({
    params: { [constants.BROTLI_PARAM_QUALITY]: QUALITY, [constants.BROTLI_PARAM_LGWIN]: WINDOW_BITS },
  });
  #compressed: Uint8Array[] = [];
  #bytesSent = 0;
  #failure: Error | undefined;

  constructor(send: (bytes: Uint8Array) => Promise<void>) {
    this.#send = send;
    this.#brotli.on("data", (bytes: Uint8Array) => this.#compressed.push(bytes));
    this.#brotli.on("error", (error) => {
      this.#failure ??= error;
    });
  }

  get bytesSent(): number {
    return this.#bytesSent;
  }

  async record(record: Exclude<DigestRecord, { kind: "end" }>): Promise<void> {
    for (const part of this.#encoder.encode(record)) await this.#compress(part);
  }

  /** Sends what the compressor still holds back, so that the client can show it. */
  async flush(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#brotli.flush(constants.BROTLI_OPERATION_FLUSH, resolve);
    });
    await this.#pass();
  }

  /** The end record, the end of the compressed stream, and padding to a multiple of `multiple`; 0 for none. */
  async end(multiple: number): Promise<void> {
    await this.#compress(this.#encoder.end());
    const ended = Promise.withResolvers<void>();
    this.#brotli.once("end", ended.resolve);
    this.#brotli.once("error", ended.reject);
    this.#brotli.end();
    await ended.promise;
    await this.#pass();
    await this.#pad(multiple);
  }

  async #compress(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += PIECE_BYTES) {
      const piece = bytes.subarray(at, at + PIECE_BYTES);
      await new Promise<void>((resolve, reject) => {
        this.#brotli.write(piece, (error) => {
          if (error) reject(error);
          else resolve();
        });
      });
      await this.#pass();
    }
  }

  async #pass(): Promise<void> {
    if (this.#failure) throw this.#failure;
    const parts = this.#compressed;
    this.#compressed = [];
    let frame: Uint8Array[] = this.#bytesSent === 0 ? [DIGEST_MAGIC] : [];
    let length = 0;
    for (const part of parts) {
      // What comes out of the compressor at once is far below the limit of a frame.
      frame.push(...encodeContentFrames(part));
      length += part.length;
      if (length < PIECE_BYTES / 2) continue;
      await this.#out(concat(frame));
      frame = [];
      length = 0;
    }
    if (length > 0) await this.#out(concat(frame));
  }

  async #pad(multiple: number): Promise<void> {
    const { header, bodyBytes } = paddingPlan(this.#bytesSent, multiple);
    if (header.length > 0) await this.#out(header);
    // Random, so that nothing between here and the client can compress it away.
    const noise = crypto.getRandomValues(new Uint8Array(Math.min(bodyBytes, PIECE_BYTES)));
    for (let left = bodyBytes; left > 0; left -= noise.length) {
      await this.#out(noise.subarray(0, Math.min(left, noise.length)));
    }
    await this.#out(DIGEST_END);
  }

  async #out(bytes: Uint8Array): Promise<void> {
    this.#bytesSent += bytes.length;
    await this.#send(bytes);
  }
}
