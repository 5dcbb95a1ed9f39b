// The messages of a Dropbox, checked: the box and what runs on it are untrusted (spec/dropbox 2).

import { z } from "zod";
import { fromUtf8 } from "../../base/bytes.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import type { DropboxRefusal } from "../../wire/dropbox.ts";

const count = z.int().nonnegative();

export const putAnswerSchema = z.union([z.strictObject({ at: count }), z.strictObject({ sealed: count })]);
export const getAnswerSchema = z.strictObject({
  size: count,
  from: count,
  bytes: count,
  ticket: z.string().max(100).optional(),
});
export const statusAnswerSchema = z.strictObject({
  stored: count,
  isSealed: z.boolean(),
  getsLeft: z.int(),
  bytesLeft: z.int(),
});

const refusalSchema = z.strictObject({ refused: z.string().max(64) });

/** Bytes of a message that is not content. */
export const ANSWER_BYTES_MAX = 4096;

/**
 * Throws BentoError for what the Dropbox refuses, ProtocolError for what is no answer.
 * @param known `hadContent`: the Dropbox has handed some of its content out before.
 */
export function parseDropboxAnswer<T>(
  message: Uint8Array,
  schema: z.ZodType<T>,
  known: { readonly hadContent: boolean } = { hadContent: false },
): T {
  let value: unknown;
  try {
    if (message.length > ANSWER_BYTES_MAX) throw new RangeError("too long");
    value = JSON.parse(fromUtf8(message));
  } catch (cause) {
    throw notAnAnswer(cause);
  }
  const refusal = refusalSchema.safeParse(value);
  if (refusal.success) throw refused(refusal.data.refused as DropboxRefusal, known.hadContent);
  const result = schema.safeParse(value);
  if (!result.success) throw notAnAnswer(result.error);
  return result.data;
}

function notAnAnswer(cause: unknown): ProtocolError {
  return new ProtocolError("bad-answer", "Cannot read answer: this is not how a Dropbox answers", {
    cause,
    advice: "The token may belong to another function, or the box may be lying.",
  });
}

function refused(reason: DropboxRefusal, hadContent: boolean): BentoError {
  switch (reason) {
    case "empty":
      if (hadContent) {
        return new BentoError("dropbox-empty", "Cannot go on: the box has lost the content", {
          advice:
            "It was restarted, and what it keeps is in its memory alone: the rest cannot be had any more.",
        });
      }
      return new BentoError("dropbox-empty", "Cannot fetch: nothing was put there yet, or not all of it", {
        advice: "Try again later, unless the box was restarted: that loses what it kept.",
      });
    case "not-owner":
      return new BentoError("bad-token", "Cannot change this Dropbox: its content is its owner's");
    case "used-up":
      return new BentoError("bad-token", "Cannot fetch: as many downloads as allowed were started");
    case "quota":
      return new BentoError("too-large", "Cannot put: the content is larger than what the box granted");
    default:
      return new ProtocolError("bad-answer", "Cannot go on: the Dropbox does not take the request");
  }
}
