// What `env.box` may tell a function about the box, as far as its grant names it: measured when asked.

import { freemem, loadavg, totalmem } from "node:os";
import type { JsonValue } from "../wire/api.ts";
import type { Grant } from "../wire/grant.ts";
import type { Policy } from "../wire/policy.ts";

export interface BoxState {
  readonly instances: number;
  readonly promisedMemoryBytes: number;
  readonly policy: Policy;
}

/** The facts that a grant names, undefined when it names none. */
export function boxFacts(
  grant: Grant,
  state: () => BoxState,
): (() => Promise<Readonly<Record<string, JsonValue>>>) | undefined {
  if (grant.box.length === 0) return undefined;
  return async () => Object.fromEntries(grant.box.map((fact) => [fact, measure(fact, grant, state())]));
}

function measure(fact: Grant["box"][number], grant: Grant, state: BoxState): JsonValue {
  switch (fact) {
    case "load":
      return loadavg();
    case "memory":
      return {
        totalBytes: totalmem(),
        freeBytes: freemem(),
        promisedBytes: state.promisedMemoryBytes,
        limitBytes: state.policy.total.memoryBytes,
      };
    case "instances":
      return { running: state.instances, limit: state.policy.total.instances };
    case "limits":
      return { ...grant.limits };
  }
}
