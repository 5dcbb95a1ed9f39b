// A grant of nothing within the smallest limits, for tests that need one and do not care which.

import type { Grant } from "../../src/wire/grant.ts";
import type { FunctionLimits } from "../../src/wire/policy.ts";

export const LEAST_LIMITS: FunctionLimits = {
  memoryBytes: 1,
  cpuPercent: 1,
  pids: 1,
  tmpBytes: 1,
  instances: 1,
  lifetimeMs: 1,
  runtimeMs: 1,
  backlogBytes: 1,
};

export const LEAST_GRANT: Grant = { image: "deno", syscalls: [], box: [], limits: LEAST_LIMITS };
