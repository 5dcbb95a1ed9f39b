// How long a box says that it lets each instance of a function run.

import type { Deployment } from "bento/function";

/** A box that claims to end instances sooner is not believed: nobody is to have us start them all the time. */
export const RUNTIME_MS_MIN = 30_000;

/** Milliseconds; it is the box's word. undefined: it did not say, or is not believed. */
export function runtimeOf({ grant }: Pick<Deployment, "grant">): number | undefined {
  const { limits } = grant as { readonly limits?: { readonly runtimeMs?: unknown } };
  const runtimeMs = limits?.runtimeMs;
  return typeof runtimeMs === "number" && runtimeMs >= RUNTIME_MS_MIN ? runtimeMs : undefined;
}
