import assert from "node:assert/strict";
import test from "node:test";
import { blocksInUse } from "./block.ts";
import { NODES_PER_KIND_MAX, planTestnet } from "./plan.ts";
import { bandwidthFile, torrcOf } from "./torrc.ts";

test("planTestnet: every node has its own address; defaults as documented", () => {
  const { nodes, links } = planTestnet(7);
  assert.deepEqual(
    nodes.map(({ name, address }) => `${name} ${address}`),
    [
      "a0 127.7.1.1",
      "a1 127.7.1.2",
      "a2 127.7.1.3",
      "r0 127.7.2.1",
      "r1 127.7.2.2",
      "e0 127.7.3.1",
      "e1 127.7.3.2",
      "e2 127.7.3.3",
      "c0 127.7.4.1",
    ],
  );
  assert.deepEqual(links, {});
});

test("planTestnet: proxies stand where a link is shaped or traced, and nowhere else", () => {
  assert.deepEqual(Object.keys(planTestnet(1, { relays: 1, exits: 1, latencyMs: 5 }).links), [
    "a0",
    "a1",
    "a2",
    "r0",
    "e0",
  ]);
  const { links, nodes } = planTestnet(1, { links: { r0: { rateMbit: 8 } }, traced: ["e1"] });
  assert.deepEqual(links, { r0: { latencyMs: 0, rateMbit: 8 }, e1: { latencyMs: 0, rateMbit: 0 } });
  for (const { name, orPort, listenPort } of nodes) assert.equal(orPort !== listenPort, name in links);
  const shared = planTestnet(1, { links: { e0: { intoMbit: 8 } } });
  assert.deepEqual(shared.links, { e0: { latencyMs: 0, rateMbit: 0, intoMbit: 8 } });
});

test("planTestnet: numbers out of range and unknown names are refused", () => {
  planTestnet(1, { relays: NODES_PER_KIND_MAX });
  for (const options of [
    { relays: NODES_PER_KIND_MAX + 1 },
    { authorities: 2 },
    { exits: 0 },
    { relays: 1.5 },
    { latencyMs: -1 },
    { latencyMs: Number.NaN },
    { rateMbit: -1 },
    { traced: ["c0"] },
    { links: { nobody: {} } },
    { links: { e0: { intoMbit: 0 } } },
    { links: { e0: { intoMbit: 100_001 } } },
    { bandwidths: { nobody: 1 } },
  ])
    assert.throws(() => planTestnet(1, options), { code: "testnet-bad-options" }, JSON.stringify(options));
});

test("bandwidthFile: relays are equal but for those that are named", () => {
  const relays = ["a0", "e0"].map((name, index) => ({ name, fingerprint: String(index).repeat(40) }));
  const lines = bandwidthFile(relays, 1_795_116_340_000, { e0: 10 }).split("\n");
  assert.deepEqual(lines, [
    "1795116340",
    `node_id=$${"0".repeat(40)} nick=a0 bw=10000`,
    `node_id=$${"1".repeat(40)} nick=e0 bw=10`,
    "",
  ]);
});

test("torrcOf: an exit's own policy replaces the default; a proxied relay advertises the proxy", () => {
  const plan = planTestnet(1, {
    latencyMs: 5,
    extraTorrc: ({ name }) =>
      name === "e1" ? ["ExitPolicy accept 127.1.3.2:80", "ExitPolicy reject *:*"] : undefined,
  });
  const input = { plan, authorityLines: [], dataDir: "/d", bandwidthPath: "/b", resolverPath: "/r" };
  const torrc = (name: string) =>
    torrcOf(plan.nodes.find((node) => node.name === name) ?? assert.fail(), input);
  assert.match(torrc("e0"), /^ExitPolicy accept \*:\*$/mu);
  assert.doesNotMatch(torrc("e1"), /^ExitPolicy accept \*:\*$/mu);
  assert.match(torrc("r0"), /^ORPort 127\.1\.2\.1:21001 IPv4Only NoListen$/mu);
  assert.match(torrc("r0"), /^ORPort 127\.1\.2\.1:21002 IPv4Only NoAdvertise$/mu);
  for (const { name } of plan.nodes) assert.match(torrc(name), /^OutboundBindAddress 127\.1\./mu);
});

test("blocksInUse: finds listeners in 127.A, but neither connections, other addresses nor the claim port", () => {
  const table = [
    "  sl  local_address rem_address   st tx_queue rx_queue",
    "   0: 0103017F:5209 00000000:0000 0A 00000000:00000000",
    "   1: 0103027F:5209 0100007F:1234 01 00000000:00000000",
    "   2: 0100007F:0050 00000000:0000 0A 00000000:00000000",
    "   3: 0103030A:0050 00000000:0000 0A 00000000:00000000",
    "   4: 0100047F:55EF 00000000:0000 0A 00000000:00000000",
    "  15: 0102FA7F:5209 00000000:0000 0A 00000000:00000000",
  ].join("\n");
  assert.deepEqual([...blocksInUse(table)], [1, 250]);
});
