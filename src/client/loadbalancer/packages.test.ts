import assert from "node:assert/strict";
import { test } from "node:test";
import { grant } from "../../wire/grant.ts";
import { parseManifest } from "../../wire/manifest.ts";
import type { Policy } from "../../wire/policy.ts";
import { loadPackage } from "../package-loader.ts";
import { TEST_POLICY } from "../test-box.ts";
import { balancerPackage, replicaPackage, standbyPackage } from "./packages.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const BENTO = {
  boxes: ["self", "*"],
  functions: 64,
  invocations: 10_000,
  sessions: 32,
  depth: 2,
  bytes: GIB,
};
const RELAYS = { links: 64, circuitsPerMinute: 6000, bytes: 1024 * GIB };
const POLICY: Policy = { ...TEST_POLICY, bento: BENTO, relays: RELAYS, storage: { bytes: 64 * MIB } };
const BOXES = ["self", `${"b".repeat(56)}.onion:80`];
const balancer = (await loadPackage("loadbalancer")).package;
const replica = (await loadPackage("replica")).package;
const wanted = { boxes: BOXES, replicasMax: 4, siteBytes: 10 * MIB, replicaBytes: 300_000, standbyBoxes: 1 };

test("balancerPackage: a default policy grants it; it names its boxes and lives as long as it may", () => {
  const { manifest } = balancerPackage(balancer, wanted, POLICY);
  const parsed = parseManifest(manifest);
  assert.equal(grant(parsed, POLICY).kind, "granted");
  assert.deepEqual(parsed.bento?.boxes, BOXES);
  assert.equal(parsed.bento?.depth, 1);
  assert.equal(parsed.lifetime, POLICY.function.lifetimeMs);
  assert.equal(parsed.runtime, POLICY.function.runtimeMs);
});

test("balancerPackage: its own box as well, to start its next instance there, where the policy lets it", () => {
  const boxes = BOXES.slice(1);
  const asked = (policy: Policy) =>
    parseManifest(balancerPackage(balancer, { ...wanted, boxes }, policy).manifest).bento?.boxes;
  assert.deepEqual(asked(POLICY), BOXES);
  assert.deepEqual(asked({ ...POLICY, bento: { ...BENTO, boxes: ["*"] } }), boxes);
  assert.deepEqual(
    parseManifest(standbyPackage(balancer, { ...wanted, boxes }, [POLICY], POLICY).manifest).bento?.boxes,
    BOXES,
  );
});

test("standbyPackage: may be placed three times, and leaves as much for the load balancer's own replicas", () => {
  const standby = standbyPackage(balancer, wanted, [POLICY], POLICY);
  const first = parseManifest(balancerPackage(balancer, wanted, POLICY, standby).manifest);
  const second = parseManifest(standby.manifest);
  assert.equal(grant(first, POLICY).kind, "granted");
  assert.equal(grant(second, POLICY).kind, "granted");
  const [a, b] = [first.bento ?? assert.fail(), second.bento ?? assert.fail()];
  assert.ok(b.depth < a.depth);
  assert.ok(a.functions - 3 * (1 + b.functions) >= wanted.replicasMax);
  assert.ok((a.bytes ?? 0) - 3 * (b.bytes ?? 0) >= 4 * (wanted.siteBytes + wanted.replicaBytes));
  assert.ok((a.invocations ?? 0) - 3 * (b.invocations ?? 0) >= 4);
});

test("standbyPackage: for several boxes, what all of them grant; it may have a session with a standby of its own", () => {
  const tight: Policy = { ...POLICY, bento: { ...BENTO, functions: 5, sessions: 9 } };
  const standby = standbyPackage(balancer, { ...wanted, standbyBoxes: 3 }, [POLICY, tight, POLICY], POLICY);
  assert.equal(grant(parseManifest(standby.manifest), tight).kind, "granted");
  const second = parseManifest(standby.manifest).bento ?? assert.fail();
  assert.equal(second.sessions, 9);
  const alone = parseManifest(standbyPackage(balancer, wanted, [POLICY], POLICY).manifest).bento;
  assert.ok((alone?.sessions ?? 0) > 2 * wanted.replicasMax);
  // Once at each of three boxes, and twice anew.
  const first = parseManifest(
    balancerPackage(balancer, { ...wanted, standbyBoxes: 3 }, POLICY, standby).manifest,
  );
  assert.equal(grant(first, POLICY).kind, "granted");
  assert.ok((first.bento?.functions ?? 0) - 5 * (1 + second.functions) >= wanted.replicasMax);
});

test("balancerPackage: what a stingy policy cannot hold is asked for all the same, and refused by name", () => {
  const stingy: Policy = { ...POLICY, bento: { ...BENTO, functions: 3 }, storage: { bytes: MIB } };
  const result = grant(parseManifest(balancerPackage(balancer, wanted, stingy).manifest), stingy);
  assert.equal(result.kind, "refused");
  const rules = result.kind === "refused" ? result.refusals.map(({ rule }) => rule).sort() : [];
  assert.deepEqual(rules, ["bento.functions", "storage"]);
});

test("replicaPackage: room for a large site; a target, and nothing but that", () => {
  const large = parseManifest(replicaPackage(replica, { siteBytes: 200 * MIB }).manifest);
  assert.ok((large.storage?.bytes ?? 0) > 200 * MIB);
  assert.equal(large.net, undefined);
  const to = (host: string) => parseManifest(replicaPackage(replica, { host, port: 80 }).manifest).net?.allow;
  assert.deepEqual(to("example.com"), ["example.com:80"]);
  assert.deepEqual(to("2001:db8::1"), ["[2001:db8::1]:80"]);
});
