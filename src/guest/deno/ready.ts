// What a ready instance begins with: a function that the box comes with, loaded and prepared before anybody asks for it
// (spec/guest 3.1). Its process is as single use as any other; what was loaded is the same for everybody.

import type { FunctionDefinition } from "../function.ts";

/** Where the main file of a ready instance leaves the way to load its function. */
export const READY_GLOBAL = "bentoReady";

export type FunctionModule = { readonly default?: unknown };

/** The module of a ready instance, prepared; undefined in all others. */
export async function loadReady(): Promise<FunctionModule | undefined> {
  const load: unknown = Reflect.get(globalThis, READY_GLOBAL);
  Reflect.deleteProperty(globalThis, READY_GLOBAL);
  if (typeof load !== "function") return undefined;
  const module = await (load as () => Promise<FunctionModule>)();
  const definition = module.default as Partial<FunctionDefinition> | undefined;
  await definition?.prepare?.();
  return module;
}
