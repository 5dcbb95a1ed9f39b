// Request bodies from anyone on Tor: bounded in bytes before they are held, and in time by a least rate, so that
// a client that drips bytes cannot hold a connection (spec/wire 2.3).

import type { IncomingMessage } from "node:http";
import { concat, fromUtf8 } from "../../base/bytes.ts";
import type { Clock } from "../../base/clock.ts";
import { BoxError } from "../../wire/error-code.ts";
import { SERVE_LIMITS } from "./serve-limits.ts";

/** Bytes of bodies that are being received, over all connections. */
export class BodyBudget {
  #held = 0;

  take(bytes: number): void {
    if (this.#held + bytes > SERVE_LIMITS.bodyBytes) {
      throw new BoxError("box-full", "Cannot take request: too many others are being received");
    }
    this.#held += bytes;
  }

  give(bytes: number): void {
    this.#held -= bytes;
  }
}

/** Aborts when a body arrives more slowly than the least rate. */
export class SlowBodyGuard implements Disposable {
  readonly #clock: Clock;
  readonly #startMs: number;
  readonly #onSlow: () => void;
  #cancel: () => void;
  #bytes = 0;

  constructor(clock: Clock, onSlow: () => void) {
    this.#clock = clock;
    this.#startMs = clock.now();
    this.#onSlow = onSlow;
    this.#cancel = clock.after(SERVE_LIMITS.bodyGraceMs, () => {
      this.#check();
    });
  }

  count(bytes: number): void {
    this.#bytes += bytes;
  }

  [Symbol.dispose](): void {
    this.#cancel();
  }

  #check(): void {
    const earnedMs = (this.#bytes / SERVE_LIMITS.bodyBytesPerSecond) * 1000;
    const leftMs = this.#startMs + SERVE_LIMITS.bodyGraceMs + earnedMs - this.#clock.now();
    if (leftMs <= 0) {
      this.#onSlow();
      return;
    }
    this.#cancel = this.#clock.after(leftMs, () => {
      this.#check();
    });
  }
}

/** The whole body. Throws BoxError "too-large" as soon as it is clear, "slow-request", "bad-request", "box-full". */
export async function readBody(
  request: IncomingMessage,
  options: { bytesMax: number; clock: Clock; budget: BodyBudget },
): Promise<Uint8Array> {
  const announced = Number(request.headers["content-length"] ?? 0);
  if (announced > options.bytesMax) throw tooLarge(options.bytesMax);
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  let over = false;
  const slow = Promise.withResolvers<never>();
  using guard = new SlowBodyGuard(options.clock, () => {
    slow.reject(new BoxError("slow-request", "Cannot take request: it arrives too slowly"));
  });
  const read = async () => {
    for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
      if (over) return;
      guard.count(chunk.length);
      if (bytes + chunk.length > options.bytesMax) throw tooLarge(options.bytesMax);
      options.budget.take(chunk.length);
      bytes += chunk.length;
      chunks.push(chunk);
    }
  };
  const reading = read();
  try {
    await Promise.race([reading, slow.promise]);
    return concat(chunks);
  } catch (error) {
    reading.catch(() => undefined);
    if (error instanceof BoxError) throw error;
    throw new BoxError("bad-request", "Cannot read request: it ended early", { cause: error });
  } finally {
    over = true;
    options.budget.give(bytes);
  }
}

/** A JSON body. An empty one reads as `undefined`. */
export function parseJson(bytes: Uint8Array): unknown {
  if (bytes.length === 0) return undefined;
  try {
    return JSON.parse(fromUtf8(bytes));
  } catch (cause) {
    throw new BoxError("bad-request", "Cannot read request: the body is not JSON", { cause });
  }
}

function tooLarge(bytesMax: number): BoxError {
  return new BoxError("too-large", `Cannot take request: expected at most ${bytesMax} bytes`);
}
