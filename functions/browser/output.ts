// How the bytes of a digest leave the box: as they come, or in cells at a constant rate (spec/browse 4). What writes the
// digest sees the same interface; `room` is what makes a shaped answer hold all of it.

import type { Answers } from "bento/function";
import { concat } from "../../src/base/bytes.ts";
import type { Shape } from "../../src/wire/browse.ts";
import { DIGEST_END, DIGEST_MAGIC, encodeContentFrames, paddingPlan } from "../../src/wire/digest.ts";

export type BucketShape = Shape & { kind: "bucket" };

/** Resolves when there is room for more. */
export type Send = (bytes: Uint8Array) => Promise<void>;

export interface Output {
  /** Content that can still leave; infinite where only the digest's own limits count. */
  room(): Promise<number>;
  /** Compressed records. Resolves when there is room for more; drops them when the answer has ended. */
  content(parts: readonly Uint8Array[]): Promise<void>;
  /** No more content. Resolves when the last byte has been sent. */
  end(): Promise<void>;
  /** Resolves when the last byte has been sent, rejects when sending failed. */
  readonly ended: Promise<void>;
}

/** Messages of about so much: small ones cost frames of their own on each hop. */
const MESSAGE_BYTES = 32 * 1024;

export class PlainOutput implements Output {
  readonly #send: Send;
  readonly #multiple: number;
  readonly #ended = Promise.withResolvers<void>();
  #bytesSent = 0;

  /** @param multiple the whole output is a multiple of it; 0 for no padding */
  constructor(send: Send, multiple: number) {
    this.#send = send;
    this.#multiple = multiple;
    this.#ended.promise.catch(() => undefined);
  }

  get ended(): Promise<void> {
    return this.#ended.promise;
  }

  async room(): Promise<number> {
    return Number.POSITIVE_INFINITY;
  }

  async content(parts: readonly Uint8Array[]): Promise<void> {
    let message: Uint8Array[] = this.#bytesSent === 0 ? [DIGEST_MAGIC] : [];
    let length = 0;
    for (const part of parts) {
      message.push(...encodeContentFrames(part));
      length += part.length;
      if (length < MESSAGE_BYTES) continue;
      await this.#out(concat(message));
      message = [];
      length = 0;
    }
    if (length > 0) await this.#out(concat(message));
  }

  async end(): Promise<void> {
    const { header, bodyBytes } = paddingPlan(this.#bytesSent, this.#multiple);
    if (header.length > 0) await this.#out(header);
    // Random, so that nothing between here and the client can compress it away.
    const noise = crypto.getRandomValues(new Uint8Array(Math.min(bodyBytes, 2 * MESSAGE_BYTES)));
    for (let left = bodyBytes; left > 0; left -= noise.length) {
      await this.#out(noise.subarray(0, Math.min(left, noise.length)));
    }
    await this.#out(DIGEST_END);
    this.#ended.resolve();
  }

  async #out(bytes: Uint8Array): Promise<void> {
    this.#bytesSent += bytes.length;
    try {
      await this.#send(bytes);
    } catch (error) {
      this.#ended.reject(error);
      throw error;
    }
  }
}

/** Share of the cells that may pass without content while the last records are on their way through the compressor. */
const RESERVE_SHARE = 1 / 16;

/** Content of an answer whose cells the box sends: when, and how many, is not up to anything in this sandbox. */
export class ShapedOutput implements Output {
  readonly ended: Promise<void>;
  readonly #shape: BucketShape;
  readonly #send: Send;
  readonly #answers: Answers;

  constructor(shape: BucketShape, send: Send, answers: Answers) {
    this.#shape = shape;
    this.#send = send;
    this.#answers = answers;
    this.ended = answers.ended();
    this.ended.catch(() => undefined);
  }

  async room(): Promise<number> {
    return Math.max(0, (await this.#answers.room()) - this.#reserveBytes);
  }

  /** For how long content can still come, while the circuit takes what the rate says: milliseconds. */
  async leftMs(): Promise<number> {
    return ((await this.room()) / this.#shape.rate) * 1000;
  }

  async content(parts: readonly Uint8Array[]): Promise<void> {
    for (const part of parts) await this.#send(part);
  }

  async end(): Promise<void> {
    await this.#answers.finish();
  }

  get #reserveBytes(): number {
    return Math.ceil(RESERVE_SHARE * (this.#shape.bytes.at(-1) ?? 0));
  }
}
