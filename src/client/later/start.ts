// Leaving a function to be run while the client is away (spec/later): the Dropbox first, at one box, so that where the
// answer will be is known before anything runs; then the `later` function at another, which takes it from there. The
// Dropbox's box gets no key; what runs at the other box that one sees, as always.

import { fromUtf8, utf8 } from "../../base/bytes.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import type { Invocation } from "../../wire/api.ts";
import type { PutRequest } from "../../wire/dropbox.ts";
import { ANSWER_END_BYTES, LaterLimits, type LaterRequest } from "../../wire/later.ts";
import { Limits } from "../../wire/limits.ts";
import { type ManifestInput, parseManifest } from "../../wire/manifest.ts";
import type { PackageInput } from "../../wire/package.ts";
import { SELF } from "../../wire/policy.ts";
import { type Padding, sealedSize } from "../../wire/sealed-file.ts";
import type { BoxClient, StoredFunction } from "../client.ts";
import { dropboxPackage, putRequest } from "../dropbox/put.ts";
import { orStalled } from "../dropbox/retry.ts";

/** How long the box may take to start the function and reach the Dropbox: milliseconds. */
const START_MS = 300_000;
/** Packages and input go in messages of at most this. */
const MESSAGE_BYTES = Limits.inputMessageBytesMax / 4;
/** What calls to other boxes cost beside the bytes of an answer: packages, arguments, attempts. */
const CALLS_BYTES = 4 * 1024 * 1024;

/** What an answer may come to, and how often it may be fetched. */
export interface AnswerTerms {
  readonly outputBytesMax: number;
  readonly padding: Padding;
  readonly gets: number;
  readonly lifetimeMs?: number | undefined;
}

/** Size of the largest answer, sealed. */
function answerBytesMax({ outputBytesMax, padding }: AnswerTerms): number {
  return sealedSize(outputBytesMax + ANSWER_END_BYTES, padding);
}

/** A Dropbox with room for the answer, and what the first put, by the box that runs the function, says. */
export function answerDropbox(
  pack: PackageInput,
  writer: string,
  terms: AnswerTerms,
): { readonly package: PackageInput; readonly put: PutRequest } {
  const size = answerBytesMax(terms);
  const put = putRequest(writer, size, { gets: terms.gets });
  return { put, package: dropboxPackage(pack, put, { size, lifetimeMs: terms.lifetimeMs }) };
}

/** The `later` function, asking for what it takes to run `inner` and to reach the Dropbox at `box`, and no more. */
export function laterPackage(
  pack: PackageInput,
  inner: PackageInput,
  box: string,
  terms: AnswerTerms,
): PackageInput {
  const { bento, ...asked } = parseManifest(inner.manifest);
  const boxes = [...new Set([SELF, box, ...(bento?.boxes ?? [])])];
  // What the function deploys counts against whoever deployed it (spec/guest).
  const invocations = LaterLimits.attemptsMax + 2 + (bento ? (bento.invocations ?? 8 * bento.functions) : 0);
  const bytes = 3 * answerBytesMax(terms) + 2 * inner.source.length + CALLS_BYTES + (bento?.bytes ?? 0);
  const manifest: ManifestInput = {
    ...pack.manifest,
    bento: {
      boxes,
      functions: 1 + (bento?.functions ?? 0),
      invocations,
      sessions: 2 + (bento ? (bento.sessions ?? 16) : 0),
      depth: 1 + (bento?.depth ?? 0),
      bytes: `${bytes}B`,
    },
    ...(asked.runtime === undefined ? {} : { runtime: inner.manifest.runtime }),
  };
  return { ...pack, manifest };
}

export interface LaterStart {
  /** As laterPackage made it. */
  readonly package: PackageInput;
  readonly inner: PackageInput;
  readonly invocation: Invocation;
  /** Messages for the function; read to their end before the start counts. */
  readonly input: AsyncIterable<Uint8Array | string>;
  readonly key: Uint8Array;
  readonly terms: AnswerTerms;
  /** The Dropbox as the box that runs the function names it. */
  readonly dropbox: LaterRequest["dropbox"];
}

/**
 * Starts it at the box of `client`. Resolves when the function runs, has its input, and the Dropbox answered: then the
 * client may go. `onStored` is told at once what has been installed. Throws what the box refuses, BentoError
 * "function-failed" when it could not be started there.
 */
export async function startLater(
  client: BoxClient,
  start: LaterStart,
  options: {
    readonly signal: AbortSignal;
    readonly clock?: Clock;
    readonly onStored?: (stored: StoredFunction) => Promise<void> | void;
  },
): Promise<void> {
  const { signal, clock = systemClock } = options;
  const inner = utf8(JSON.stringify(start.inner));
  const request: LaterRequest = {
    packageBytes: inner.length,
    ...start.invocation,
    outputBytesMax: start.terms.outputBytesMax,
    key: Buffer.from(start.key).toString("base64url"),
    padding: start.terms.padding,
    dropbox: start.dropbox,
  };
  const run = (until: AbortSignal) =>
    client.run({ package: start.package }, { args: [request] }, { signal: until });
  await orStalled({ signal, clock, stallMs: START_MS }, async (until) => {
    await using session = await run(until);
    if (session.stored) await options.onStored?.(session.stored as StoredFunction);
    const sending = (async () => {
      for (let at = 0; at < inner.length; at += MESSAGE_BYTES)
        await session.send(inner.subarray(at, at + MESSAGE_BYTES));
      for await (const message of start.input) await session.send(message);
      await session.endInput();
    })();
    const aborted = Promise.withResolvers<never>();
    aborted.promise.catch(() => undefined);
    const onAbort = () => aborted.reject(until.reason as Error);
    until.addEventListener("abort", onAbort, { once: true });
    if (until.aborted) onAbort();
    try {
      const started = (async () => {
        for await (const message of session) {
          checkStarted(message);
          return;
        }
        const outcome = await session.ended;
        const why =
          outcome.kind === "failed"
            ? outcome.message
            : outcome.kind === "killed"
              ? outcome.reason
              : "it ended";
        throw new BentoError("function-failed", `Cannot start it at the box: ${why}`);
      })();
      started.catch(() => undefined);
      // Input that cannot be sent any more says less than how the function ended.
      const failed = sending.then(
        () => started,
        async (error: unknown) => {
          if (error instanceof BentoError && error.code === "already-ended") return started;
          throw error;
        },
      );
      await Promise.race([started, failed, aborted.promise]);
    } finally {
      until.removeEventListener("abort", onAbort);
    }
  });
}

function checkStarted(message: Uint8Array): void {
  if (message.length <= ANSWER_END_BYTES && fromUtf8(message) === '{"started":true}') return;
  throw new ProtocolError("bad-answer", "Cannot read answer: this is not how `later` answers");
}
