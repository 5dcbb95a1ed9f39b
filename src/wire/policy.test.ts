import assert from "node:assert/strict";
import { test } from "node:test";
import { LEAST_LIMITS } from "../../test/support/least-grant.ts";
import { policySchema } from "./policy.ts";

const POLICY = {
  version: 1,
  store: true,
  images: ["deno"],
  isolation: "process",
  syscalls: [],
  net: { exit: ["accept *:*"], connections: 1, bytes: 1 },
  storage: null,
  bento: null,
  tor: null,
  relays: null,
  box: [],
  packageBytes: 1,
  function: LEAST_LIMITS,
  total: { functions: 1, instances: 1, memoryBytes: 1, cpuPercent: 1, storageBytes: 1 },
};

function accepts(change: object): boolean {
  return policySchema.safeParse({ ...POLICY, ...change }).success;
}

test("policySchema: takes a whole policy as it is", () => {
  assert.deepEqual(policySchema.parse(POLICY), POLICY);
});

test("policySchema: refuses what a box must not send", () => {
  for (const change of [
    { version: 2 },
    { isolation: "none" },
    { images: ["java"] },
    { images: ["deno", "python", "chromium", "deno"] },
    { net: undefined },
    { function: { ...LEAST_LIMITS, pids: -1 } },
    { function: { ...LEAST_LIMITS, pids: 0.5 } },
    { function: { ...LEAST_LIMITS, memoryBytes: 2 ** 53 } },
    { more: 1 },
  ]) {
    assert.ok(!accepts(change), JSON.stringify(change));
  }
});

test("policySchema: takes 2000 exit rules of 200 characters and not one more", () => {
  const net = (rules: number, length: number) => ({
    net: { exit: Array.from({ length: rules }, () => "x".repeat(length)), connections: 1, bytes: 1 },
  });
  assert.ok(accepts(net(2000, 200)));
  assert.ok(!accepts(net(2001, 1)));
  assert.ok(!accepts(net(1, 201)));
});
