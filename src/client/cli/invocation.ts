// Arguments of a call as the command line gives them.

import { type Invocation, invocationSchema } from "../../wire/api.ts";
import { usage } from "./cli.ts";

export interface InvocationOptions {
  /** A Python call expression. */
  readonly call?: string | undefined;
  /** Arguments as a JSON array, in place of strings. */
  readonly argsJson?: string | undefined;
}

/** Strings by default; `--args-json` for other values; `--call` for a Python expression. One of the three. */
export function invocationOf(args: readonly string[], options: InvocationOptions): Invocation {
  const given = [args.length > 0, options.call !== undefined, options.argsJson !== undefined].filter(
    Boolean,
  ).length;
  if (given > 1)
    throw usage("Cannot call function: give arguments, --args-json or --call, not several of them");
  if (options.call !== undefined) {
    if (options.call.trim() === "")
      throw usage("Cannot call function: --call is empty, wanted e.g. 'hello()'");
    return { call: options.call };
  }
  if (options.argsJson === undefined) return { args: [...args] };
  let value: unknown;
  try {
    value = JSON.parse(options.argsJson);
  } catch {
    throw usage(
      `Cannot call function: --args-json is not JSON`,
      `Wanted an array, e.g. --args-json '["a", 1]'.`,
    );
  }
  const result = invocationSchema.safeParse({ args: value });
  if (!result.success)
    throw usage("Cannot call function: --args-json is not an array", `E.g. --args-json '["a", 1]'.`);
  return result.data;
}
