// The closed list of codes that a box may answer with: HTTP status, who caused it, what to do next.
// On the wire an error is a problem document (RFC 9457): {"code", "title", "detail"?, "refusals"?}. It never
// carries a stack, a path of the box, or the text of an internal error.

import { z } from "zod";
import { BentoError } from "../base/errors.ts";

interface CodeInfo {
  readonly status: number;
  readonly title: string;
  readonly advice: string;
}

export const ERROR_CODES = {
  "bad-request": info(400, "The request is malformed", "Update the client, or correct what it sends."),
  "bad-manifest": info(400, "The manifest is malformed", "Correct the manifest; `bento check` shows where."),
  "bad-token": info(
    403,
    "The token is unknown, expired or of another kind",
    "Check the token and the box it belongs to.",
  ),
  "unknown-source": info(
    404,
    "The box does not come with this source",
    "Send the source itself: `bento` does so by itself.",
  ),
  "not-found": info(404, "There is no such thing here", "Check the address."),
  "bad-method": info(405, "The method is not allowed here", "Update the client."),
  "already-ended": info(410, "The instance has ended and its output is gone", "Start it again."),
  "offset-gone": info(
    416,
    "Output before this offset was acknowledged and discarded",
    "Attach without an offset to get what is left.",
  ),
  "too-large": info(413, "The request is larger than this box accepts", "Send less, or choose another box."),
  "policy-refused": info(
    422,
    "The box's policy does not grant what the manifest asks for",
    "Ask for less, or choose another box: `bento check FN BOX` shows each rule.",
  ),
  "call-unsupported": info(
    422,
    "Call expressions are for the python image",
    "Pass arguments instead of a call.",
  ),
  "store-closed": info(403, "This box does not take new functions", "Choose another box."),
  "box-full": info(503, "The box has no room left", "Try again later, or choose another box."),
  "too-many-instances": info(
    429,
    "The function already runs as often as it may",
    "Wait until an instance ends, or close one.",
  ),
  "functions-unavailable": info(
    503,
    "The box cannot start functions safely",
    "Its operator sees why with `bento doctor`.",
  ),
  "disk-full": info(507, "The box's disk is full", "Try again later, or choose another box."),
  "taken-over": info(409, "Another client attached to this instance", "Attach again to take it back."),
  "slow-request": info(408, "The request did not arrive in time", "Try again."),
  "shutting-down": info(503, "The box is stopping", "Try again later."),
  internal: info(500, "The box failed", "Tell the box's operator; nothing was changed."),
} as const satisfies Record<string, CodeInfo>;

export type ErrorCode = keyof typeof ERROR_CODES;

function info(status: number, title: string, advice: string): CodeInfo {
  return { status, title, advice };
}

/** One rule of a policy that a manifest breaks. `wanted` and `limit` are for people. */
const refusalSchema = z.strictObject({
  rule: z.string().max(100),
  wanted: z.string().max(500),
  limit: z.string().max(500),
});
export type Refusal = z.infer<typeof refusalSchema>;

export const problemSchema = z.object({
  code: z.string().max(64),
  title: z.string().max(200),
  detail: z.string().max(2000).optional(),
  refusals: z.array(refusalSchema).max(64).optional(),
});
/** RFC 9457 problem document, media type application/problem+json. */
export type Problem = z.infer<typeof problemSchema>;

/** An error that a box reports to its peer as it stands. `message` becomes the problem's detail. */
export class BoxError extends BentoError {
  override readonly name = "BoxError";
  declare readonly code: ErrorCode;
  readonly refusals: readonly Refusal[];

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; refusals?: readonly Refusal[] } = {},
  ) {
    super(code, message, { cause: options.cause, advice: ERROR_CODES[code].advice });
    this.refusals = options.refusals ?? [];
  }

  get status(): number {
    return ERROR_CODES[this.code].status;
  }
}

/** What a peer may learn of any error: a BoxError whole, everything else as "internal". */
export function problemOf(error: unknown): Problem {
  if (!(error instanceof BoxError)) return { code: "internal", title: ERROR_CODES.internal.title };
  return {
    code: error.code,
    title: ERROR_CODES[error.code].title,
    detail: error.message,
    ...(error.refusals.length > 0 ? { refusals: [...error.refusals] } : {}),
  };
}

/** The client's side: a problem document back into an error. Unknown codes are kept as they are. */
export function errorOfProblem(problem: Problem): BentoError {
  const message = problem.detail ?? problem.title;
  if (isErrorCode(problem.code)) {
    return new BoxError(problem.code, message, { refusals: problem.refusals ?? [] });
  }
  return new BentoError(problem.code, message);
}

export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(ERROR_CODES, code);
}
