// Why something is not in the digest: thrown inside the function, recorded for the client.

import type { FailureReason, FailureRecord } from "../../src/wire/digest.ts";

export class FetchFailure extends Error {
  override readonly name = "FetchFailure";
  readonly reason: FailureReason;

  constructor(reason: FailureReason, detail: string, options: { cause?: unknown } = {}) {
    super(detail, options);
    this.reason = reason;
  }
}

/** Whatever was thrown, as a failure. The text of a network error names the host that failed and the rule that refused. */
export function failureOf(error: unknown): FetchFailure {
  if (error instanceof FetchFailure) return error;
  const messages: string[] = [];
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 4; at = at.cause, depth++) {
    if (at.message !== "" && !messages.includes(at.message)) messages.push(at.message);
  }
  return new FetchFailure("network", messages.join(": ") || "failed", { cause: error });
}

/** Cuts what pages and servers chose to what the digest holds. */
export function failureRecord(url: string, reason: FailureReason, detail: string): FailureRecord {
  return {
    kind: "failure",
    url: url.slice(0, 1000).toWellFormed(),
    reason,
    detail: detail.slice(0, 160).toWellFormed(),
  };
}
