import assert from "node:assert/strict";
import { test } from "node:test";
import * as fc from "fast-check";
import { type Grant, grant, type RuleVerdict } from "./grant.ts";
import { type Manifest, type ManifestInput, parseManifest } from "./manifest.ts";
import type { FunctionLimits, Policy } from "./policy.ts";

const MIB = 2 ** 20;
const LIMITS: FunctionLimits = {
  memoryBytes: 128 * MIB,
  cpuPercent: 100,
  pids: 64,
  tmpBytes: 16 * MIB,
  instances: 4,
  lifetimeMs: 86_400_000,
  runtimeMs: 3_600_000,
  backlogBytes: MIB,
};
const POLICY: Policy = {
  version: 1,
  store: true,
  images: ["deno"],
  isolation: "process",
  syscalls: ["files"],
  net: { exit: ["reject *:25", "accept *:*"], connections: 4, bytes: MIB },
  bento: null,
  tor: null,
  relays: null,
  storage: { bytes: 10 * MIB },
  box: ["load"],
  packageBytes: MIB,
  function: LIMITS,
  total: { functions: 10, instances: 10, memoryBytes: 2 ** 30, cpuPercent: 100, storageBytes: 2 ** 30 },
};

function manifest(change: Partial<ManifestInput> = {}): Manifest {
  return parseManifest({ name: "f", image: "deno", ...change });
}

function granted(change: Partial<ManifestInput>, policy: Policy = POLICY): Grant {
  const result = grant(manifest(change), policy);
  assert.ok(result.kind === "granted", JSON.stringify(result));
  return result.grant;
}

function refusedRules(change: Partial<ManifestInput>, policy: Policy = POLICY): string[] {
  const result = grant(manifest(change), policy);
  return result.kind === "refused" ? result.refusals.map(({ rule }) => rule) : [];
}

test("grant: what the manifest leaves open is a default within the policy", () => {
  const { limits, net, storage } = granted({});
  assert.equal(limits.memoryBytes, 64 * MIB);
  assert.equal(limits.instances, 4);
  assert.equal(net, undefined);
  assert.equal(storage, undefined);
  const small = granted({ net: { allow: ["*:443"] } });
  assert.deepEqual(small.net, { allow: ["*:443"], connections: 4, bytes: MIB });
});

test("grant: each limit is granted to the last unit and refused by name one above", () => {
  const rows = [
    ["memory", (n: number) => `${n}B`, LIMITS.memoryBytes],
    ["cpu", (n: number) => `${n}%`, LIMITS.cpuPercent],
    ["pids", (n: number) => n, LIMITS.pids],
    ["tmp", (n: number) => `${n}B`, LIMITS.tmpBytes],
    ["instances", (n: number) => n, LIMITS.instances],
    ["lifetime", (n: number) => `${n}ms`, LIMITS.lifetimeMs],
    ["runtime", (n: number) => `${n}ms`, LIMITS.runtimeMs],
    ["backlog", (n: number) => `${n}B`, LIMITS.backlogBytes],
  ] as const;
  for (const [rule, write, limit] of rows) {
    assert.deepEqual(refusedRules({ [rule]: write(limit) }), [], rule);
    assert.deepEqual(refusedRules({ [rule]: write(limit + 1) }), [rule]);
  }
  assert.deepEqual(refusedRules({ storage: { bytes: `${10 * MIB}B` } }), []);
  assert.deepEqual(refusedRules({ storage: { bytes: `${10 * MIB + 1}B` } }), ["storage"]);
  assert.deepEqual(refusedRules({ net: { allow: ["*:1"], connections: 4, bytes: "1MiB" } }), []);
  assert.deepEqual(refusedRules({ net: { allow: ["*:1"], connections: 5, bytes: "1048577B" } }), [
    "net.connections",
    "net.bytes",
  ]);
});

test("grant: what the policy does not offer at all is refused by name", () => {
  assert.deepEqual(refusedRules({ image: "python" }), ["image"]);
  assert.deepEqual(refusedRules({ syscalls: ["files", "fork"] }), ["syscalls"]);
  assert.deepEqual(refusedRules({ box: ["memory"] }), ["box"]);
  const closed: Policy = { ...POLICY, store: false, net: null, storage: null };
  assert.deepEqual(refusedRules({ net: { allow: ["*:1"] }, storage: { bytes: "1B" } }, closed), [
    "store",
    "net",
    "storage",
  ]);
});

function rejected(allow: string, ...exit: string[]): boolean {
  return refusedRules(
    { net: { allow: [allow] } },
    { ...POLICY, net: { exit, connections: 9, bytes: MIB } },
  ).includes("net");
}

test("grant: a destination of which the exit policy leaves nothing is refused by name", () => {
  const result = grant(manifest({ net: { allow: ["*:443", "*:25", "mail.example:25"] } }), POLICY);
  assert.deepEqual(result, {
    kind: "refused",
    refusals: [
      { rule: "net", wanted: "*:25, mail.example:25", limit: "the relay's exit policy rejects all of it" },
    ],
  });
});

test("grant: a destination of which the exit policy leaves something is granted", () => {
  assert.ok(!rejected("*:24-26", "reject *:25", "accept *:*"));
  assert.ok(!rejected("*:*", "accept *:443", "reject *:*"));
  assert.ok(rejected("*:1-442", "accept *:443", "reject *:*"));
  assert.ok(!rejected("a.example:443", "reject 0.0.0.0/8:*", "accept *4:443", "reject *:*"));
  assert.ok(!rejected("a.example:443", "reject *6:*", "accept *:443", "reject *:*"));
  assert.ok(!rejected("a.example:443", "reject *4:*", "accept6 *:443", "reject *:*"));
  assert.ok(rejected("a.example:443", "reject *4:*", "reject6 *:*", "accept *:443"));
  assert.ok(!rejected("192.0.2.1:80", "accept 192.0.2.1:80", "reject *:*"));
  assert.ok(rejected("192.0.2.2:80", "accept 192.0.2.1:80", "reject *:*"));
  assert.ok(rejected("192.0.2.1:80", "reject 192.0.2.0/24:*", "accept *:*"));
  assert.ok(
    rejected("[64:ff9b::192.0.2.1]:80", "reject 192.0.2.0/24:*", "accept *:*"),
    "through a translator",
  );
});

test("grant: an exit policy that cannot be read accepts nothing", () => {
  assert.ok(rejected("*:443", "accept *:*", "gibberish"));
  assert.ok(rejected("*:443"));
});

test("grant: gives an image what it cannot do without, and refuses less", () => {
  const offered = (change: Partial<FunctionLimits> = {}): Policy => ({
    ...POLICY,
    images: ["deno", "chromium"],
    function: { ...LIMITS, memoryBytes: 256 * MIB, tmpBytes: 64 * MIB, ...change },
  });
  const { limits } = granted({ image: "chromium" }, offered());
  assert.equal(limits.memoryBytes, 128 * MIB);
  assert.equal(limits.pids, 64);
  assert.equal(limits.tmpBytes, 32 * MIB);
  assert.equal(
    granted({ image: "deno" }, offered()).limits.memoryBytes,
    64 * MIB,
    "no other image is changed",
  );
  const refusals = (change: Partial<ManifestInput>, policy: Policy) => {
    const result = grant(manifest({ image: "chromium", ...change }), policy);
    return result.kind === "refused" ? result.refusals : [];
  };
  assert.deepEqual(refusals({ memory: "128MiB", pids: 64, tmp: "32MiB" }, offered()), []);
  assert.deepEqual(refusals({ memory: "127MiB", pids: 63, tmp: "31MiB" }, offered()), [
    { rule: "memory", wanted: "127 MiB", limit: "image chromium needs 128 MiB" },
    { rule: "pids", wanted: "63", limit: "image chromium needs 64" },
    { rule: "tmp", wanted: "31 MiB", limit: "image chromium needs 32 MiB" },
  ]);
  assert.deepEqual(refusals({}, offered({ pids: 63 })), [
    { rule: "pids", wanted: "64", limit: "at most 63" },
  ]);
  assert.deepEqual(refusals({}, { ...offered(), images: ["deno"] }), [
    { rule: "image", wanted: "chromium", limit: "deno" },
  ]);
});

test("grant: never gives more than the policy, whatever is asked", () => {
  const amount = fc.integer({ min: 1, max: 2 ** 31 });
  const wanted = fc.record(
    {
      memory: amount.map((n) => `${n}B`),
      pids: fc.integer({ min: 1, max: 200 }),
      instances: fc.integer({ min: 1, max: 10 }),
      runtime: amount.map((n) => `${n}ms`),
      storage: amount.map((n) => ({ bytes: `${n}B` })),
      net: fc.record({
        allow: fc.constant<string[]>(["*:443"]),
        connections: fc.integer({ min: 1, max: 9 }),
      }),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(wanted, (change) => {
      const result = grant(manifest(change), POLICY);
      if (result.kind === "refused") {
        assert.ok(result.refusals.length > 0);
        return;
      }
      const { limits, net, storage } = result.grant;
      for (const key of Object.keys(LIMITS) as (keyof FunctionLimits)[])
        assert.ok(limits[key] <= LIMITS[key], key);
      assert.ok((net?.connections ?? 0) <= 4 && (net?.bytes ?? 0) <= MIB);
      assert.ok((storage?.bytes ?? 0) <= 10 * MIB);
    }),
  );
});

const OPEN: Policy = {
  ...POLICY,
  bento: { boxes: ["self"], functions: 4, invocations: 20, sessions: 2, depth: 2, bytes: MIB },
  tor: { routines: ["circuits"], circuits: 2, streams: 3, onions: 0, extendsPerMinute: 10, bytes: MIB },
};

function rulesRefused(change: Partial<ManifestInput>, policy: Policy = OPEN): string[] {
  const result = grant(manifest(change), policy);
  return result.kind === "refused" ? result.refusals.map(({ rule }) => rule) : [];
}

test("grant: deploying functions is refused without a policy for it, on closed boxes, and beyond each number", () => {
  assert.deepEqual(rulesRefused({ bento: { functions: 1 } }, POLICY), ["bento"]);
  assert.deepEqual(rulesRefused({ bento: { functions: 4, boxes: ["self"], depth: 2, sessions: 2 } }), []);
  assert.deepEqual(
    rulesRefused({
      bento: { boxes: ["*"], functions: 5, invocations: 21, sessions: 3, depth: 3, bytes: "2MiB" },
    }),
    ["bento.boxes", "bento.functions", "bento.invocations", "bento.sessions", "bento.depth", "bento.bytes"],
  );
});

test('grant: "*" in a policy opens every other box, not this one', () => {
  const abroad: Policy = { ...OPEN, bento: OPEN.bento && { ...OPEN.bento, boxes: ["*"] } };
  assert.deepEqual(rulesRefused({ bento: { functions: 1, boxes: ["box.example:5005", "*"] } }, abroad), []);
  assert.deepEqual(rulesRefused({ bento: { functions: 1, boxes: ["self"] } }, abroad), ["bento.boxes"]);
});

test("grant: Tor is refused without a policy for it, beyond each number, and for other routines", () => {
  assert.deepEqual(rulesRefused({ tor: { routines: ["circuits"] } }, POLICY), ["tor"]);
  assert.deepEqual(rulesRefused({ tor: { routines: ["circuits"], circuits: 2 } }), []);
  assert.deepEqual(
    rulesRefused({
      tor: { routines: ["onions"], circuits: 3, streams: 4, onions: 1, extendsPerMinute: 11, bytes: "2MiB" },
    }),
    ["tor.routines", "tor.circuits", "tor.streams", "tor.onions", "tor.extendsPerMinute", "tor.bytes"],
  );
});

test("grant: tells each rule it looked at, and refuses exactly those that do not hold", () => {
  const told: RuleVerdict[] = [];
  const manifest = parseManifest({
    name: "a",
    image: "deno",
    memory: "64MiB",
    cpu: "200%",
    syscalls: ["loopback"],
    net: { allow: ["*:443"] },
  });
  const result = grant(manifest, POLICY, (verdict) => told.push(verdict));
  assert.ok(result.kind === "refused");
  assert.deepEqual(
    told.filter(({ holds }) => !holds).map(({ rule, wanted, limit }) => ({ rule, wanted, limit })),
    result.refusals,
  );
  const asked = told.filter(({ asked }) => asked).map(({ rule }) => rule);
  assert.deepEqual(asked.sort(), ["cpu", "image", "memory", "net", "store", "syscalls"]);
  assert.ok(told.some(({ rule, asked }) => rule === "pids" && !asked));
});
