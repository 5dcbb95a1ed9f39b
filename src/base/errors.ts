// The three kinds of failure, told apart by who caused them.
//
// A peer broke the rules: ProtocolError. The world failed (disk, Tor, a refusal by policy): BentoError.
// We are wrong: `assert` throws a Bug, which ends the task and never leaves the process.
// What a peer may learn of an error is decided in wire/error-code.ts, not here.

/** Anything Bento throws on purpose. `code` is stable and documented; `message` is for people. */
export class BentoError extends Error {
  override readonly name: string = "BentoError";
  readonly code: string;
  /** What the reader can do next, as a sentence; absent when there is nothing to do. */
  readonly advice: string | undefined;

  constructor(code: string, message: string, options: { cause?: unknown; advice?: string } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.advice = options.advice;
  }
}

/** A peer sent something its specification forbids. The connection that carried it is of no further use. */
export class ProtocolError extends BentoError {
  override readonly name = "ProtocolError";
}

/** A broken invariant of our own. Never shown to a peer. */
export class Bug extends Error {
  override readonly name = "Bug";
}

/** Throws Bug unless `condition` holds. One condition per call. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new Bug(message);
}

/** The last line of a switch over a union: compiles only when every case is handled. */
export function unreachable(value: never): never {
  throw new Bug(`Unhandled case: ${JSON.stringify(value)}`);
}

/** The `code` of a system error such as ENOENT, or undefined. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const code: unknown = Reflect.get(error, "code");
  return typeof code === "string" ? code : undefined;
}

/** The message of whatever was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
