// Fetching from a Dropbox, from any byte on, going on after lost connections with the ticket of the download
// (spec/dropbox 2.2). Box and function are untrusted: what comes is checked by whoever opens it.

import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import type { GetRequest } from "../../wire/dropbox.ts";
import { BoxError } from "../../wire/error-code.ts";
import type { InvocationToken } from "../../wire/token.ts";
import type { BoxClient, OutputChunk, Session } from "../client.ts";
import { ANSWER_BYTES_MAX, getAnswerSchema, parseDropboxAnswer, statusAnswerSchema } from "./answers.ts";
import { orStalled, withRetries } from "./retry.ts";

/** Content of a Dropbox that does not move for this long is asked for anew: milliseconds. */
const STALL_MS = 120_000;
const ATTEMPTS_MAX = 5;

export interface GetOptions {
  readonly signal: AbortSignal;
  readonly clock?: Clock;
  /** How long nothing may move; without it the usual waits of the client hold for the first answer. */
  readonly stallMs?: number | undefined;
  readonly attemptsMax?: number;
  readonly from?: number;
  /** At most so many bytes. */
  readonly bytes?: number;
  readonly ticket?: string | undefined;
  readonly writer?: string | undefined;
  /** Called with each answer: the ticket must be saved to go on in another process. */
  readonly onBegun?: (begun: {
    readonly size: number;
    readonly ticket: string | undefined;
  }) => Promise<void> | void;
  readonly onRetry?: (retry: { readonly reason: string; readonly delayMs: number }) => void;
}

/** One download. Iterate `content()` once, then `confirm()` what was verified. */
export class Download implements AsyncDisposable {
  readonly #client: BoxClient;
  readonly #token: InvocationToken;
  readonly #options: GetOptions;
  #session: Session | undefined;
  #chunks: AsyncGenerator<OutputChunk> | undefined;
  #at: number;
  #size: number | undefined;
  #end = 0;
  #ticket: string | undefined;

  constructor(client: BoxClient, token: InvocationToken, options: GetOptions) {
    this.#client = client;
    this.#token = token;
    this.#options = options;
    this.#at = options.from ?? 0;
    this.#ticket = options.ticket;
  }

  /** Size of the whole content; undefined before the first byte. */
  get size(): number | undefined {
    return this.#size;
  }

  /** The bytes from `from` on. Throws when they cannot be had to the end. */
  async *content(): AsyncGenerator<Uint8Array> {
    const { clock = systemClock, signal, attemptsMax = ATTEMPTS_MAX, onRetry } = this.#options;
    for (;;) {
      const piece = await withRetries((progress) => this.#next(progress), {
        clock,
        signal,
        attemptsMax,
        onRetry,
      });
      if (!piece) return;
      yield piece;
    }
  }

  /** Tells the Dropbox that everything arrived, and waits until it has taken note. */
  async confirm(): Promise<void> {
    const session = this.#session;
    if (!session) return;
    try {
      await session.send("done");
      await session.drain();
    } catch (error) {
      // The content is here. A Dropbox that was not told keeps it until it expires.
      this.#options.signal.throwIfAborted();
      if (!(error instanceof BentoError)) throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#session?.detach();
    this.#session = undefined;
  }

  /** The next piece, over a new invocation when there is none or the last one broke. */
  async #next(progress: () => void): Promise<Uint8Array | undefined> {
    try {
      this.#chunks ??= await this.#begin();
      if (this.#at >= this.#end) {
        // Nothing more is read: without this the Dropbox would not learn that the last piece has arrived.
        this.#session?.acknowledge();
        return undefined;
      }
      const next = await this.#orStalled(this.#chunks.next()).catch(instanceGone);
      if (next.done) throw await this.#endedEarly();
      const { bytes } = next.value;
      this.#at += bytes.length;
      if (this.#at > this.#end)
        throw new ProtocolError("bad-answer", "Cannot go on: the Dropbox sends more than it announced");
      progress();
      return bytes;
    } catch (error) {
      const broken = this.#session;
      this.#session = undefined;
      this.#chunks = undefined;
      await broken?.detach();
      throw error;
    }
  }

  async #begin(): Promise<AsyncGenerator<OutputChunk>> {
    const { from = 0, bytes, writer, signal } = this.#options;
    const request: GetRequest = {
      from: this.#at,
      ...(bytes === undefined ? {} : { bytes: bytes - (this.#at - from) }),
      ...(this.#ticket === undefined ? {} : { ticket: this.#ticket }),
      ...(writer === undefined ? {} : { writer }),
    };
    const { clock = systemClock, stallMs, onRetry } = this.#options;
    this.#session = await orStalled({ signal, clock, stallMs }, (until) =>
      this.#client.run(
        { token: this.#token },
        { args: ["get", request] },
        {
          signal: until,
          // What was sent meanwhile is taken up again; only if that fails is the download asked for anew.
          onEvent: (event) => {
            if (event.kind === "interrupted") onRetry?.(event);
          },
        },
      ),
    );
    const chunks = this.#session.chunks();
    const first = await this.#orStalled(firstMessage(chunks));
    const answer = parseDropboxAnswer(first, getAnswerSchema, { hadContent: this.#size !== undefined });
    const isAsAsked = answer.from === this.#at && answer.from + answer.bytes <= answer.size;
    if (!isAsAsked || (this.#size !== undefined && this.#size !== answer.size))
      throw new ProtocolError(
        "bad-answer",
        "Cannot fetch: the Dropbox offers other content than was asked for",
      );
    this.#size = answer.size;
    this.#end = answer.from + answer.bytes;
    this.#ticket = answer.ticket;
    await this.#options.onBegun?.({ size: answer.size, ticket: answer.ticket });
    return chunks;
  }

  async #endedEarly(): Promise<BentoError> {
    const outcome = await (this.#session as Session).ended;
    return new BentoError("function-failed", `Cannot fetch: the Dropbox ended early (${outcome.kind})`, {
      advice: "Try again; if it happens again the content is lost.",
    });
  }

  async #orStalled<T>(wait: Promise<T>): Promise<T> {
    const { clock = systemClock, stallMs = STALL_MS, signal } = this.#options;
    const given = Promise.withResolvers<never>();
    const cancel = clock.after(stallMs, () => {
      given.reject(new BentoError("stalled", `Connection stalled for ${stallMs / 1000} s`));
    });
    const onAbort = () => given.reject(signal.reason as Error);
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
    wait.catch(() => undefined);
    try {
      return await Promise.race([wait, given.promise]);
    } finally {
      cancel();
      signal.removeEventListener("abort", onAbort);
    }
  }
}

/** A box that was restarted knows no instance of before: whether the Dropbox is there yet, asking it anew tells. */
function instanceGone(error: unknown): never {
  if (error instanceof BoxError && error.code === "bad-token")
    throw new BentoError("connection-lost", "Connection lost: the box has ended the download", {
      cause: error,
    });
  throw error;
}

/** What the owner may ask of a Dropbox. */
export async function dropboxStatus(
  client: BoxClient,
  token: InvocationToken,
  options: { readonly writer: string; readonly signal: AbortSignal },
) {
  const { writer, signal } = options;
  const invocation = { args: ["status", { writer }] };
  await using session = await client.run({ token }, invocation, { endInput: true, signal });
  return parseDropboxAnswer(await firstMessage(session.chunks()), statusAnswerSchema);
}

/** The first message, which is no content. */
async function firstMessage(chunks: AsyncGenerator<OutputChunk>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const next = await chunks.next();
    if (next.done)
      throw new ProtocolError("bad-answer", "Cannot read answer: the function ended without one");
    parts.push(next.value.bytes);
    length += next.value.bytes.length;
    if (length > ANSWER_BYTES_MAX)
      throw new ProtocolError("bad-answer", "Cannot read answer: it is longer than any of a Dropbox");
    if (next.value.last) return Buffer.concat(parts);
  }
}
