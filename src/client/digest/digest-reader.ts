// Reads a digest as it arrives from a box, which is not trusted (spec/digest): frames, decompression, records, hash.
// Bounded whatever comes: sizes by DigestLimits, decompression by the content limit, waiting by the signal.

import { once } from "node:events";
import { constants, createBrotliDecompress } from "node:zlib";
import { ProtocolError } from "../../base/errors.ts";
import { type DigestRecord, FrameDecoder, RecordDecoder } from "../../wire/digest.ts";

export type DigestEvent =
  | { readonly kind: "record"; readonly record: Exclude<DigestRecord, { kind: "end" }> }
  /** The end record came and its hash is right. Only padding may follow. */
  | { readonly kind: "complete" }
  | {
      readonly kind: "progress";
      /** Bytes of output so far that are no padding. */
      readonly contentBytes: number;
      readonly paddingBytes: number;
      /** All padding, once it has begun. */
      readonly paddingTotal: number | undefined;
    };

/** An incremental parser: `push` bytes, get events, `end`. Dispose it when it is not read to its end. */
export class DigestReader implements Disposable {
  readonly #frames = new FrameDecoder();
  readonly #records: RecordDecoder;
  readonly #brotli = createBrotliDecompress({
    // Windows above 16 MiB are an extension that browsers do not speak either.
    params: { [constants.BROTLI_DECODER_PARAM_LARGE_WINDOW]: 0 },
  });
  #events: DigestEvent[] = [];
  #failure: Error | undefined;
  #isDecompressed = false;
  #contentBytes = 0;
  #paddingBytes = 0;
  #paddingTotal: number | undefined;

  /** Whether the digest's last byte has come. */
  get isEnded(): boolean {
    return this.#frames.isEnded;
  }

  /** @param contentBytesMax all records after decompression */
  constructor(contentBytesMax?: number) {
    this.#records = new RecordDecoder(contentBytesMax);
    this.#brotli.on("data", (bytes: Uint8Array) => {
      this.#decompressed(bytes);
    });
    this.#brotli.on("end", () => {
      this.#isDecompressed = true;
    });
    this.#brotli.on("error", (cause) => {
      this.#fail(
        new ProtocolError("digest", "Cannot read digest: found bytes that are not brotli", { cause }),
      );
    });
  }

  /** Throws ProtocolError; the reader is of no further use then. One call at a time. */
  async push(chunk: Uint8Array): Promise<DigestEvent[]> {
    this.#contentBytes += chunk.length;
    for (const part of this.#frames.push(chunk)) {
      if (part.kind === "content") await this.#decompress(part.bytes);
      else if (part.kind === "padding") {
        this.#contentBytes -= part.bytes;
        this.#paddingBytes += part.bytes;
        // Padding in front of the end of the content is allowed: its total says nothing yet.
        if (this.#records.isEnded) {
          this.#paddingTotal = Math.max(this.#paddingTotal ?? 0, part.total, this.#paddingBytes);
        }
      }
    }
    this.#check();
    this.#events.push({
      kind: "progress",
      contentBytes: this.#contentBytes,
      paddingBytes: this.#paddingBytes,
      paddingTotal: this.#paddingTotal,
    });
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** Nothing more comes. Throws ProtocolError when the digest is not whole. */
  async end(): Promise<void> {
    if (!this.#records.isEnded) {
      throw new ProtocolError("digest", "Cannot read digest: it ended before its last record");
    }
    if (!this.#isDecompressed && !this.#failure) {
      this.#brotli.end();
      await Promise.race([once(this.#brotli, "end"), once(this.#brotli, "close")]).catch(() => undefined);
    }
    this.#check();
    if (!this.#frames.isEnded) {
      throw new ProtocolError("digest", "Cannot read digest: it ended before its end frame");
    }
  }

  [Symbol.dispose](): void {
    this.#brotli.destroy();
  }

  async #decompress(bytes: Uint8Array): Promise<void> {
    this.#check();
    if (bytes.length === 0) return;
    if (this.#records.isEnded && this.#isDecompressed) {
      throw new ProtocolError("digest", "Cannot read digest: found content after its end");
    }
    const done = Promise.withResolvers<void>();
    const onClose = () => {
      done.resolve();
    };
    this.#brotli.once("close", onClose);
    this.#brotli.write(bytes, onClose);
    await done.promise;
    this.#brotli.off("close", onClose);
    this.#check();
  }

  #decompressed(bytes: Uint8Array): void {
    if (this.#failure) return;
    try {
      for (const record of this.#records.push(bytes)) {
        this.#events.push(record.kind === "end" ? { kind: "complete" } : { kind: "record", record });
      }
    } catch (error) {
      this.#fail(error instanceof Error ? error : new ProtocolError("digest", String(error)));
    }
  }

  #check(): void {
    const failure = this.#failure;
    if (failure) throw failure;
  }

  /** First reason wins. Destroying stops the decompression of whatever was written already. */
  #fail(error: Error): void {
    this.#failure ??= error;
    this.#brotli.destroy();
  }
}
