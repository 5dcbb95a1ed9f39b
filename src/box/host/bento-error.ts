// What a function learns when another box refused, or was not reached: codes and text that come from that box or from
// this table, nothing of this machine (addresses of proxies, system errors).

import { BentoError, ProtocolError } from "../../base/errors.ts";
import { BoxError, type Refusal } from "../../wire/error-code.ts";

/** An error of `env.bento`, meant for the function as it stands. */
export class RemoteRefusal extends BentoError {
  override readonly name = "RemoteRefusal";
  /** The rules of a policy that stand against a manifest; empty otherwise. */
  readonly refusals: readonly Refusal[];

  constructor(
    code: string,
    message: string,
    options: { cause?: unknown; refusals?: readonly Refusal[] } = {},
  ) {
    super(code, message, options);
    this.refusals = options.refusals ?? [];
  }
}

/** Errors of the client library whose texts say nothing of this machine. */
const SAID_AS_IT_IS: ReadonlySet<string> = new Set([
  "bad-token",
  "bad-request",
  "too-large",
  "already-ended",
  "integrity",
  "input-lost",
]);

/** What to tell the function. Errors that are no BentoError stay as they are: they are ours, and not for functions. */
export function remoteRefusal(error: unknown): unknown {
  if (error instanceof RemoteRefusal || !(error instanceof BentoError)) return error;
  if (error instanceof BoxError) {
    return new RemoteRefusal(error.code, error.message, { cause: error, refusals: error.refusals });
  }
  if (SAID_AS_IT_IS.has(error.code)) return new RemoteRefusal(error.code, error.message, { cause: error });
  if (error.code === "box-timeout") {
    return new RemoteRefusal("box-timeout", "Cannot reach box: it did not answer in time", { cause: error });
  }
  if (error instanceof ProtocolError || error.code === "bad-answer") {
    return new RemoteRefusal("bad-answer", "Cannot read answer: it is not what a box may say", {
      cause: error,
    });
  }
  return new RemoteRefusal("box-unreachable", "Cannot reach box: no connection", { cause: error });
}
