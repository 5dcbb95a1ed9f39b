import assert from "node:assert/strict";
import { test } from "node:test";
import { BoxError } from "../../wire/error-code.ts";
import { parsePackage } from "../../wire/package.ts";
import { parseBoxConfig } from "../config.ts";
import type { FunctionId } from "../store/function-store.ts";
import { Admission } from "./admit.ts";
import { publishedPolicy } from "./policy.ts";

const A = "a".repeat(32) as FunctionId;
const B = "b".repeat(32) as FunctionId;

function policyOf(toml: string) {
  return publishedPolicy(parseBoxConfig(toml).policy, ["accept *:443", "reject *:*"]);
}

function admission(toml = ""): Admission {
  const admission = new Admission(policyOf(toml));
  admission.setAvailable(true);
  return admission;
}

function pack(manifest: object = {}, source = "x") {
  return parsePackage({ manifest: { name: "f", image: "deno", ...manifest }, source });
}

function hasCode(code: string) {
  return (error: unknown) => error instanceof BoxError && error.code === code;
}

function limitsOf(box: Admission, manifest: object) {
  return box.admitFunction(pack(manifest)).limits;
}

test("Admission: admits n instances of a function and not n+1, until one gives its slot back", () => {
  const box = admission();
  const limits = limitsOf(box, { instances: 2 });
  const first = box.reserveInstance(A, limits);
  box.reserveInstance(A, limits);
  assert.throws(() => box.reserveInstance(A, limits), hasCode("too-many-instances"));
  box.reserveInstance(B, limits);
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  assert.equal(box.used.instances, 2);
  box.reserveInstance(A, limits);
  assert.throws(() => box.reserveInstance(A, limits), hasCode("too-many-instances"));
});

test("Admission: admits n instances in all and not n+1", () => {
  const box = admission("[policy.total]\ninstances = 2");
  const limits = limitsOf(box, {});
  assert.equal(box.accepting, true);
  box.reserveInstance(A, limits);
  using _last = box.reserveInstance(B, limits);
  assert.equal(box.accepting, false);
  assert.throws(() => box.reserveInstance(B, limits), hasCode("box-full"));
});

test("Admission: promises memory up to the total and not a byte more", () => {
  const box = admission('[policy.total]\nmemory = "128MiB"');
  const half = limitsOf(box, { memory: "64MiB" });
  box.reserveInstance(A, half);
  assert.throws(() => box.reserveInstance(B, limitsOf(box, { memory: "67108865B" })), hasCode("box-full"));
  box.reserveInstance(B, half);
  assert.equal(box.used.memoryBytes, 128 * 2 ** 20);
  assert.throws(() => box.reserveInstance(B, limitsOf(box, { memory: "1B" })), hasCode("box-full"));
});

test("Admission: starts nothing before the sandbox was found working, nor after it failed", () => {
  const box = new Admission(policyOf(""));
  const { limits } = box.admitFunction(pack());
  assert.equal(box.accepting, false);
  assert.throws(() => box.reserveInstance(A, limits), hasCode("functions-unavailable"));
  box.setAvailable(true);
  box.reserveInstance(A, limits);
  box.setAvailable(false);
  assert.throws(() => box.reserveInstance(A, limits), hasCode("functions-unavailable"));
});

test("Admission.admitFunction: refuses a package one byte too large", () => {
  const box = admission('[policy]\npackage = "100B"');
  const manifestBytes = JSON.stringify(pack().manifestInput).length;
  box.admitFunction(pack({}, "x".repeat(100 - manifestBytes)));
  assert.throws(() => box.admitFunction(pack({}, "x".repeat(101 - manifestBytes))), hasCode("too-large"));
});

test("Admission: a box that takes no new functions runs those it has", () => {
  const box = admission("[policy]\nstore = false");
  assert.throws(() => box.admitFunction(pack()), hasCode("store-closed"));
  assert.equal(box.admitInvocation(pack()).image, "deno");
});

test("Admission: names each rule that stands against a manifest, also under a policy that changed later", () => {
  const box = admission();
  const greedy = pack({ memory: "1GiB", pids: 1000 });
  assert.throws(
    () => box.admitFunction(greedy),
    (error) => error instanceof BoxError && error.refusals.map(({ rule }) => rule).join() === "memory,pids",
  );
  const installed = pack({ memory: "100MiB" });
  box.admitFunction(installed);
  box.setPolicy(policyOf('[policy.function]\nmemory = "64MiB"'));
  assert.throws(() => box.admitInvocation(installed), hasCode("policy-refused"));
});

test("publishedPolicy: gives no network while the relay's exit policy is unknown or accepts nothing", () => {
  const { policy } = parseBoxConfig("");
  assert.equal(publishedPolicy(policy, null).net, null);
  assert.equal(publishedPolicy(policy, ["reject *:*"]).net, null);
  assert.ok(publishedPolicy(policy, ["accept *:80", "reject *:*"]).net);
  assert.equal(
    publishedPolicy(parseBoxConfig("[policy.net]\nenabled = false").policy, ["accept *:*"]).net,
    null,
  );
});

test("publishedPolicy: publishes 2000 exit rules, and no network with one more", () => {
  const { policy } = parseBoxConfig("");
  const relay = (count: number) => Array.from({ length: count }, () => "accept *:80");
  assert.equal(publishedPolicy(policy, relay(1999)).net?.exit.length, 2000);
  assert.equal(publishedPolicy(policy, relay(2000)).net, null);
});

test("publishedPolicy: the operator's rules come before the relay's, private networks before all", () => {
  const { policy } = parseBoxConfig('[policy.net]\nreject = ["reject *:25"]');
  const rules = ["reject private:*", "reject *:25", "accept *:*"];
  assert.deepEqual(publishedPolicy(policy, ["accept *:*"]).net?.exit, rules);
  const test = parseBoxConfig('[policy.net]\nprivate_networks_allowed = ["10.0.0.0/8"]');
  assert.deepEqual(publishedPolicy(test.policy, ["accept *:*"]).net?.exit, ["accept *:*"]);
});
