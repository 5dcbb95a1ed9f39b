import assert from "node:assert/strict";
import { test } from "node:test";
import { random } from "../crypto/primitives.ts";
import { Paths } from "../paths.ts";
import type { Consensus } from "./consensus.ts";
import { GuardSet } from "./guards.ts";
import { Network, type Relay } from "./network.ts";
import { pickPath, pickWeighted } from "./path.ts";

interface Planned {
  readonly host?: string;
  readonly flags?: readonly string[];
  readonly bandwidth?: number;
  readonly family?: readonly number[];
  readonly familyIds?: readonly string[];
}

const MINUTE_MS = 60_000;
const NOW_MS = 1_700_000_000_000;

/** A network of these relays, named n0, n1, ... with fingerprints 000.., 010101.., ... */
function networkOf(planned: readonly Planned[], weights: Record<string, number> = {}): Network {
  const consensus: Consensus = {
    validAfterMs: NOW_MS,
    freshUntilMs: NOW_MS + 1,
    validUntilMs: NOW_MS + 2,
    parameters: new Map(),
    sharedRandom: { previous: undefined, current: undefined },
    relays: planned.map(({ host, flags, bandwidth }, index) => ({
      nickname: `n${String(index)}`,
      rsa: new Uint8Array(20).fill(index),
      host: host ?? `10.${String(index)}.0.1`,
      port: 9001,
      flags: new Set(flags ?? ["Running", "Valid", "Guard", "Exit", "Fast", "Stable"]),
      microdescriptor: String(index),
      protocols: new Map([
        ["FlowCtrl", [[1, 2]] as const],
        ["Relay", [[2, 6]] as const],
      ]),
      bandwidth: bandwidth ?? 100,
    })),
    weights: new Map(Object.entries(weights)),
    signatures: [],
    digest: random(32),
  };
  const fingerprint = (index: number) => `$${index.toString(16).padStart(2, "0").repeat(20).toUpperCase()}`;
  return new Network(
    consensus,
    planned.map(({ family, familyIds }, index) => ({
      digest: String(index),
      ntorKey: random(32),
      ed25519: new Uint8Array(32).fill(index),
      family: new Set((family ?? []).map(fingerprint)),
      familyIds: new Set(familyIds ?? []),
      exitPorts: { accept: true, ranges: [[80, 80]] as const },
    })),
  );
}

function relayAt(network: Network, index: number): Relay {
  const relay = network.relays[index];
  assert.ok(relay);
  return relay;
}

/** Names of the relays that come up in 200 paths, the guard left out. */
function seen(network: Network, rules = {}): Set<string> {
  const names = new Set<string>();
  for (let left = 200; left > 0; left--) {
    const path = pickPath(network, { guard: relayAt(network, 0), middles: 1, end: { exitPort: 80 }, rules });
    assert.equal(path.length, 3);
    assert.equal(new Set(path).size, 3, "no relay twice");
    for (const { identity } of path.slice(1)) names.add(network.relayOf(identity)?.nickname ?? "unknown");
  }
  return names;
}

test("relays of one family, mutual or proved, and of one /16 do not share a path", () => {
  const plain = [{}, {}, {}, {}];
  assert.deepEqual([...seen(networkOf(plain))].sort(), ["n1", "n2", "n3"]);
  assert.ok(!seen(networkOf([{ family: [3] }, {}, {}, { family: [0] }])).has("n3"), "mutual");
  assert.ok(seen(networkOf([{ family: [3] }, {}, {}, {}])).has("n3"), "one-sided is no family");
  assert.ok(!seen(networkOf([{ familyIds: ["x"] }, {}, {}, { familyIds: ["y", "x"] }])).has("n3"), "proved");
  const near = networkOf([{}, {}, {}, { host: "10.0.9.9" }]);
  assert.ok(!seen(near).has("n3"), "same /16");
  assert.ok(seen(near, { distinctSubnets: false }).has("n3"));
  assert.ok(!seen(networkOf(plain), { avoid: new Set(["03".repeat(20)]) }).has("n3"));
});

test("an end that is the guard itself is reached over two relays more", () => {
  const network = networkOf([{}, {}, {}, {}]);
  const guard = relayAt(network, 0);
  for (let left = 50; left > 0; left--) {
    const path = pickPath(network, { guard, middles: 1, end: guard });
    assert.equal(path.length, 4);
    assert.equal(path.at(-1), guard);
    assert.equal(new Set(path).size, 3);
    for (const [index, relay] of path.entries()) assert.notEqual(relay, path[index + 1]);
  }
});

test("too few relays is an error, not a worse path", () => {
  const network = networkOf([{}, {}]);
  assert.throws(() => pickPath(network, { guard: relayAt(network, 0), middles: 1, end: { exitPort: 80 } }), {
    code: "onion-path",
  });
  assert.throws(
    () =>
      pickPath(networkOf([{}, {}, {}]), { guard: relayAt(network, 0), middles: 1, end: { exitPort: 25 } }),
    { code: "onion-path" },
  );
});

test("relays that do not run are not in the network, bad exits not exits", () => {
  const network = networkOf([{ flags: ["Valid"] }, { flags: ["Running", "Valid", "Exit", "BadExit"] }, {}]);
  assert.deepEqual(
    network.relays.map(({ nickname }) => nickname),
    ["n1", "n2"],
  );
  assert.deepEqual(
    network.exitsTo(80).map(({ nickname }) => nickname),
    ["n2"],
  );
  assert.deepEqual(network.exitsTo(81), []);
});

test("weights decide how often: bandwidth times the consensus' share for position and flags", () => {
  const flags = ["Running", "Valid"];
  const network = networkOf(
    [{ flags: [...flags, "Guard"] }, { flags: [...flags, "Exit"] }, { flags }, { bandwidth: 300 }],
    { Wmg: 5000, Wme: 0, Wmm: 10_000, Wmd: 1000 },
  );
  assert.deepEqual(
    network.relays.map((relay) => network.weight(relay, "middle")),
    [50, 0, 100, 30],
  );
  const counts = new Map<Relay | undefined, number>();
  for (let step = 0; step < 1800; step++) {
    const relay = pickWeighted(
      network.relays,
      (one) => network.weight(one, "middle"),
      () => step / 1800,
    );
    counts.set(relay, (counts.get(relay) ?? 0) + 1);
  }
  assert.deepEqual(
    network.relays.map((relay) => counts.get(relay) ?? 0),
    [500, 0, 1000, 300],
  );
  assert.equal(
    pickWeighted(
      [1, 2],
      () => 0,
      () => 0.7,
    ),
    2,
    "nobody was measured: evenly",
  );
  assert.equal(
    pickWeighted([], () => 1),
    undefined,
  );
});

test("a guard stays the same over consensuses and restarts, and another takes over while it fails", () => {
  const network = networkOf(Array.from({ length: 30 }, () => ({})));
  const guards = new GuardSet();
  const first = guards.choose(network, NOW_MS);
  for (let left = 20; left > 0; left--) assert.equal(guards.choose(network, NOW_MS), first);
  guards.succeeded(first, NOW_MS);
  const restored = GuardSet.restore(JSON.parse(JSON.stringify(guards)));
  assert.equal(restored.choose(network, NOW_MS), first);
  restored.failed(first, NOW_MS);
  const second = restored.choose(network, NOW_MS);
  assert.notEqual(second, first);
  assert.equal(restored.choose(network, NOW_MS + 9 * MINUTE_MS), second);
  assert.equal(restored.choose(network, NOW_MS + 11 * MINUTE_MS), first, "it is tried again");
  restored.succeeded(first, NOW_MS);
  assert.equal(restored.choose(network, NOW_MS, first), second, "not the relay that the circuit ends at");
});

test("guards: the sample is bounded, old ones go, a network without guards is an error", () => {
  const network = networkOf(Array.from({ length: 60 }, () => ({})));
  const guards = new GuardSet();
  const used = new Set<string>();
  for (let left = 60; left > 0; left--) {
    const guard = guards.choose(network, NOW_MS);
    used.add(guard.fingerprint);
    guards.failed(guard, NOW_MS);
  }
  assert.equal(used.size, 20);
  assert.equal(guards.toJSON().length, 20);
  guards.choose(network, NOW_MS + 200 * 86_400_000);
  assert.ok(guards.toJSON().every(({ addedMs }) => addedMs > NOW_MS));
  assert.throws(() => new GuardSet().choose(networkOf([{ flags: ["Running", "Valid"] }]), NOW_MS), {
    code: "onion-path",
  });
  for (const state of [
    undefined,
    {},
    [1],
    [{ fingerprint: "x" }],
    Array.from({ length: 21 }, () => guards.toJSON()[0]),
  ])
    assert.throws(() => GuardSet.restore(state), { code: "onion-guards" });
});

test("the beginning of a path goes on to an end that suits it, over one relay more when that is the guard itself", () => {
  const network = networkOf(
    [{}, {}, {}, { family: [2] }, {}].map((one, at) => (at === 2 ? { family: [3] } : one)),
  );
  const guard = relayAt(network, 0);
  const paths = new Paths({ network, firstHop: guard });
  for (let turn = 0; turn < 50; turn++) {
    const start = paths.start();
    assert.equal(start.length, 2);
    assert.equal(start[0], guard);
    assert.notEqual(start[1], guard);
  }
  const start = [guard, relayAt(network, 2)];
  assert.deepEqual(paths.rest(start, relayAt(network, 1)), [relayAt(network, 1)]);
  assert.equal(paths.rest(start, relayAt(network, 2)), undefined, "the last relay itself");
  assert.equal(paths.rest(start, relayAt(network, 3)), undefined, "of its family");
  const around = paths.rest(start, guard) ?? [];
  assert.equal(around.length, 2);
  assert.equal(around[1], guard);
  assert.ok(around[0] !== guard && around[0] !== start[1]);
  // A stranger's relay, of which the consensus knows nothing.
  const stranger = { ...relayAt(network, 1), identity: { rsa: random(20), ed25519: random(32) } };
  assert.deepEqual(paths.rest(start, stranger), [stranger]);
});
