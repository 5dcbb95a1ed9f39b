// LoadBalancer as people run it: functions in real boxes, over a private network of real tor daemons, fetched from by an
// unmodified tor and curl. Needs root.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { utf8 } from "../../src/base/bytes.ts";
import { type RunningNetwork, startNetwork, stopNetwork } from "../../src/bin/local-network.ts";
import { BoxClient, directDial, type Session } from "../../src/client/client.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { random } from "../../src/onion/crypto/primitives.ts";
import type { LoadBalancerStart, OwnerAnswer } from "../../src/wire/loadbalancer.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import { curl, Owner, siteOf, startOf } from "../support/load-balancer.ts";

let dir: string;
let net: RunningNetwork;
let balancer: PackageInput;
let replica: PackageInput;

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-lb-"));
  [balancer, replica] = (await Promise.all(
    ["loadbalancer", "replica"].map(async (name) => (await loadPackage(name)).package),
  )) as [PackageInput, PackageInput];
  net = await startNetwork({ dir, boxes: 3, detached: false });
});
after(async () => {
  await stopNetwork(dir);
  await rm(dir, { recursive: true, force: true });
});

const FILE = random(400_000);
const say = process.env["LB_LOG"]
  ? (answer: OwnerAnswer) => process.stderr.write(`${JSON.stringify(answer).slice(0, 1500)}\n`)
  : () => undefined;

function clientAt(index: number): BoxClient {
  const address = net.boxes[index]?.direct;
  assert.ok(address);
  return new BoxClient({ address, dial: directDial });
}

async function start(
  client: BoxClient,
  options: Partial<LoadBalancerStart>,
): Promise<{ readonly owner: Owner; readonly session: Session }> {
  const site = siteOf({ "index.html": utf8("hello\n"), big: FILE });
  const { start: args, input } = startOf({ site, replica }, options);
  const session = await client.run({ package: balancer }, { args: [args] });
  for (const bytes of input)
    for (let at = 0; at < bytes.length; at += 200_000) await session.send(bytes.subarray(at, at + 200_000));
  return { owner: new Owner(session, say), session };
}

test("a replica on the own box, then on others as clients come, retired when they have gone", async () => {
  using client = clientAt(0);
  const [, one, two] = net.boxes.map(({ address }) => address);
  const { owner, session } = await start(client, {
    boxes: ["self", one ?? "", two ?? ""],
    scale: {
      replicasMin: 1,
      replicasMax: 3,
      high: { connections: 2 },
      low: { connections: 1 },
      choice: "least-loaded",
    },
  });
  const address = await owner.started();
  const socks = net.testnet.socksTcp();
  assert.equal((await curl(socks, `http://${address}/`)).toString(), "hello\n");
  const big = await curl(socks, `http://${address}/big`);
  assert.deepEqual(new Uint8Array(big), FILE);
  const grown = await owner.event("replica-started", ({ box }) => box !== "self");
  assert.ok(grown.afterMs > 0);
  const stopped = await owner.stop();
  assert.deepEqual(stopped.left, []);
  assert.deepEqual(await session.ended, { kind: "returned" });
});
