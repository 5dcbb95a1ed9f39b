// Putting content into a Dropbox: installs it and sends the content in the same round trip; after a lost connection
// goes on where the Dropbox says it is (spec/dropbox 2.1). The box is untrusted and gets what `content` yields.

import { createHash, hkdfSync, randomBytes } from "node:crypto";
import { orAborted } from "../../base/abort.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import { DropboxLimits, type PutRequest } from "../../wire/dropbox.ts";
import { Limits } from "../../wire/limits.ts";
import type { ManifestInput } from "../../wire/manifest.ts";
import type { PackageInput } from "../../wire/package.ts";
import { formatDuration } from "../../wire/quantity.ts";
import type { InstanceId, InvocationToken } from "../../wire/token.ts";
import type { BoxClient, Session, StoredFunction } from "../client.ts";
import { parseDropboxAnswer, putAnswerSchema } from "./answers.ts";
import { orStalled, withRetries } from "./retry.ts";

/** A connection over which nothing moves for this long is given up: milliseconds. */
const STALL_MS = 120_000;
/** Content is sent in messages of at most this many bytes. */
const MESSAGE_BYTES = Limits.inputMessageBytesMax / 4;
/** Content that goes up with the installation, in the same round trip: about what Tor carries meanwhile. */
const AHEAD_BYTES = 512 * 1024;
/** Attempts in a row without progress. */
const ATTEMPTS_MAX = 8;
/**
 * What one download may cost when nothing else is said, in sizes of the content: each time it goes on after its connection
 * broke it is charged all that is left, also when the box answered to nobody.
 */
const GET_SIZES = 16;
/** How long ending the instance of a broken attempt may take, if a stall is not noticed sooner: milliseconds. */
const KILL_MS = 10_000;

/** Content that can be read again from any byte: what a put needs to resume. */
export interface PutContent {
  /** undefined when it is not known before its end. */
  readonly size: number | undefined;
  read(from: number): AsyncIterable<Uint8Array>;
}

export interface PutOptions {
  readonly signal: AbortSignal;
  readonly clock?: Clock;
  /** How long nothing may move; without it the usual waits of the client hold for the first answer. */
  readonly stallMs?: number | undefined;
  readonly attemptsMax?: number;
  /** Called once the box has installed the function: what it has must be saved now, before anything else is done. */
  readonly onStored?: (stored: StoredFunction) => Promise<void> | void;
  /** Content bytes that the Dropbox keeps. */
  readonly onKept?: (bytes: number) => void;
  readonly onRetry?: (retry: { readonly reason: string; readonly delayMs: number }) => void;
}

/** What a Dropbox allows, apart from its lifetime. */
export interface DropboxTerms {
  readonly gets: number;
  /** Content bytes of all downloads; GET_SIZES times the size for each when left out. */
  readonly bytes?: number | undefined;
}

/** A new owner's secret. */
export function newWriter(): string {
  return randomBytes(32).toString("base64url");
}

/** The parameters of a put of `size` content bytes. */
export function putRequest(writer: string, size: number, terms: DropboxTerms): PutRequest {
  let partBytes: number = DropboxLimits.partBytesMin;
  while (Math.ceil(size / partBytes) > DropboxLimits.partsMax) partBytes *= 2;
  return { writer, gets: terms.gets, bytes: terms.bytes ?? GET_SIZES * terms.gets * size, partBytes };
}

/** The package, asking for the storage that `size` content bytes take, for `lifetimeMs`. */
export function dropboxPackage(
  pack: PackageInput,
  request: PutRequest,
  options: { readonly size: number; readonly lifetimeMs?: number | undefined },
): PackageInput {
  const { size, lifetimeMs } = options;
  // What each value costs a function beside its bytes, and each 64 KiB of it (spec/storage 3.2, 3.4).
  const valueBytes = 4096 + 512;
  const values = Math.ceil(size / request.partBytes) + 4 * request.gets + 64;
  const bytes = size + 32 * Math.ceil(size / 65_536) + valueBytes * values;
  const manifest: ManifestInput = {
    ...pack.manifest,
    storage: { bytes: `${bytes}B` },
    ...(lifetimeMs === undefined ? {} : { lifetime: formatDuration(lifetimeMs) }),
  };
  return { ...pack, manifest };
}

/**
 * Puts `content` and seals it. `what` is a package to install, or the token of a Dropbox of ours that an earlier put
 * did not finish. Resolves with the sealed size.
 */
export async function putContent(
  client: BoxClient,
  what: { readonly package: PackageInput } | { readonly token: InvocationToken },
  request: PutRequest,
  content: PutContent,
  options: PutOptions,
): Promise<number> {
  let target = what;
  let broken: InstanceId | undefined;
  const { stallMs, signal, clock = systemClock } = options;
  const attempt = async (progress: () => void): Promise<number> => {
    // The last attempt's instance waits for input that will not come.
    if (broken) {
      const waitMs = Math.min(KILL_MS, stallMs ?? KILL_MS);
      await endQuietly(client, broken, AbortSignal.any([signal, AbortSignal.timeout(waitMs)]));
    }
    broken = undefined;
    const lost = Promise.withResolvers<never>();
    lost.promise.catch(() => undefined);
    // What is installed now has nothing yet: content need not wait for it to say so.
    using outgoing =
      "package" in target ? await Outgoing.from(content, request.partBytes, signal) : undefined;
    await using session = await orStalled({ signal, clock, stallMs }, (until) =>
      client.run(
        target,
        { args: ["put", request] },
        {
          signal: until,
          input: outgoing?.ahead,
          onEvent: (event) => {
            // Input on its way is lost with the connection: only asking anew tells where to go on.
            if (event.kind === "interrupted") lost.reject(new BentoError("connection-lost", event.reason));
          },
        },
      ),
    );
    broken = session.instance;
    if (session.stored) {
      const stored = session.stored as StoredFunction;
      target = { token: stored.invocationToken };
      await options.onStored?.(stored);
    }
    const transfer = new Transfer(session, content, { ...options, progress, outgoing });
    const size = await transfer.run(lost.promise);
    broken = undefined;
    return size;
  };
  return withRetries(attempt, {
    clock,
    signal,
    attemptsMax: options.attemptsMax ?? ATTEMPTS_MAX,
    onRetry: options.onRetry,
  });
}

async function endQuietly(client: BoxClient, instance: InstanceId, signal: AbortSignal): Promise<void> {
  try {
    await client.close(instance, { kill: true, signal });
  } catch {
    // It ends by itself when nobody comes back.
  }
}

/** Content as messages; the first of them are read before it is known where they go. */
class Outgoing implements Disposable {
  readonly ahead: Uint8Array[] = [];
  readonly #pieces: AsyncIterator<Uint8Array>;

  private constructor(pieces: AsyncIterator<Uint8Array>) {
    this.#pieces = pieces;
  }

  /** From the first byte on. Reads at most a part ahead: more may wait for what is kept. Throws the signal's reason. */
  static async from(content: PutContent, partBytes: number, signal: AbortSignal): Promise<Outgoing> {
    const outgoing = new Outgoing(content.read(0)[Symbol.asyncIterator]());
    for (let bytes = 0; bytes < Math.min(AHEAD_BYTES, partBytes); ) {
      const piece = await orAborted(outgoing.#pieces.next(), signal);
      if (piece.done) break;
      outgoing.ahead.push(...messagesOf(piece.value));
      bytes += piece.value.length;
    }
    return outgoing;
  }

  /** What is left after `ahead`. */
  async *rest(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const piece = await this.#pieces.next();
      if (piece.done) return;
      yield piece.value;
    }
  }

  /** Lets go of the content. Does not wait: what it waits for may never come. */
  [Symbol.dispose](): void {
    this.#pieces.return?.().catch(() => undefined);
  }
}

function* messagesOf(piece: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < piece.length; at += MESSAGE_BYTES) yield piece.subarray(at, at + MESSAGE_BYTES);
}

interface TransferOptions extends PutOptions {
  readonly progress: () => void;
  /** Where the function was installed with this attempt. */
  readonly outgoing: Outgoing | undefined;
}

/** One attempt: content out, answers in. */
class Transfer {
  readonly #session: Session;
  readonly #content: PutContent;
  readonly #options: TransferOptions;
  readonly #start = Promise.withResolvers<number>();
  readonly #stalled = Promise.withResolvers<never>();
  #cancelStall: () => void = () => undefined;
  #done = false;

  constructor(session: Session, content: PutContent, options: TransferOptions) {
    this.#session = session;
    this.#content = content;
    this.#options = options;
    this.#start.promise.catch(() => undefined);
    this.#stalled.promise.catch(() => undefined);
  }

  async run(lost: Promise<never>): Promise<number> {
    const { signal } = this.#options;
    this.#moved();
    try {
      const answered = this.#readAnswers();
      const sent = this.#send().then(() => answered);
      sent.catch(() => undefined);
      return await orAborted(Promise.race([answered, sent, lost, this.#stalled.promise]), signal);
    } finally {
      this.#done = true;
      this.#cancelStall();
      this.#start.reject(new BentoError("closed", "The transfer is over"));
    }
  }

  async #readAnswers(): Promise<number> {
    const isNew = this.#options.outgoing !== undefined;
    let kept = -1;
    let sealed: number | undefined;
    for await (const message of this.#session) {
      this.#moved();
      const answer = parseDropboxAnswer(message, putAnswerSchema);
      if ("sealed" in answer) {
        sealed = answer.sealed;
        continue;
      }
      if (answer.at < kept || (isNew && kept < 0 && answer.at > 0))
        throw new ProtocolError("bad-answer", "Cannot go on: the Dropbox does not have what was put");
      if (answer.at > kept && kept >= 0) this.#options.progress();
      kept = answer.at;
      this.#start.resolve(answer.at);
      this.#options.onKept?.(answer.at);
    }
    const outcome = await this.#session.ended;
    if (sealed !== undefined) return sealed;
    throw new BentoError(
      "function-failed",
      `Cannot put: the Dropbox ended (${outcome.kind}) before it had all`,
    );
  }

  async #send(): Promise<void> {
    const { outgoing } = this.#options;
    for await (const piece of outgoing ? outgoing.rest() : await this.#resumed()) {
      for (const message of messagesOf(piece)) {
        if (this.#done) return;
        await this.#session.send(message);
        this.#moved();
      }
    }
    if (!this.#done) await this.#session.send(new Uint8Array());
  }

  /** Content from where the Dropbox says it is. */
  async #resumed(): Promise<AsyncIterable<Uint8Array>> {
    const at = await this.#start.promise;
    const { size } = this.#content;
    if (size !== undefined && at > size)
      throw new ProtocolError("bad-answer", "Cannot go on: the Dropbox says it has more than there is");
    return this.#content.read(at);
  }

  #moved(): void {
    if (this.#done) return;
    this.#cancelStall();
    const { clock = systemClock, stallMs = STALL_MS } = this.#options;
    this.#cancelStall = clock.after(stallMs, () => {
      this.#stalled.reject(new BentoError("stalled", `Connection stalled for ${stallMs / 1000} s`));
    });
  }
}

/** A secret of its own for each use, from one that is kept. */
export function derivedSecret(master: Uint8Array, use: string): Uint8Array {
  return new Uint8Array(hkdfSync("sha256", master, new Uint8Array(), use, 32));
}

/** What names a token where the token itself may not stand. */
export function tokenName(token: string): string {
  return createHash("sha256").update(token).digest("base64url").slice(0, 16);
}
