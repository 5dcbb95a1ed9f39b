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
import { parseInstanceId, parseInvocationToken } from "../../src/wire/token.ts";
import { curl, Owner, siteOf, startOf } from "../support/load-balancer.ts";

let dir: string;
let net: RunningNetwork;
let balancer: PackageInput;
let replica: PackageInput;
/** It deploys replicas alone. */
let standbyPackage: PackageInput;

before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-lb-"));
  [balancer, replica] = (await Promise.all(
    ["loadbalancer", "replica"].map(async (name) => (await loadPackage(name)).package),
  )) as [PackageInput, PackageInput];
  standbyPackage = {
    ...balancer,
    manifest: {
      ...balancer.manifest,
      bento: { boxes: ["*", "self"], functions: 8, depth: 1, bytes: "64MiB" },
    },
  };
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
  const standby = options.standby && standbyPackage;
  const { start: args, input } = startOf({ site, replica, standby }, options);
  const session = await client.run({ package: balancer }, { args: [args] });
  for (const bytes of input)
    for (let at = 0; at < bytes.length; at += 200_000) await session.send(bytes.subarray(at, at + 200_000));
  return { owner: new Owner(session, say), session };
}

const fetched = async (address: string, path = "", user?: string) =>
  new Uint8Array(
    await curl(net.testnet.socksTcp(), `http://${address}/${path}`, user === undefined ? {} : { user }),
  );

test("a replica on the own box, then on another as clients come; retired when they have gone", async () => {
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
  assert.deepEqual(await fetched(address), utf8("hello\n"));
  assert.deepEqual(await fetched(address, "big"), FILE);
  const grown = await owner.event("replica-started", ({ box }) => box !== "self");
  assert.equal(grown.box, one);
  const { replicas, introductions } = await owner.report();
  assert.equal(introductions.total, 2);
  assert.equal(replicas.length, 2);
  await owner.say({ scale: { replicasMax: 1 } });
  const retired = await owner.event("replica-retired");
  assert.equal(retired.box, one);
  assert.deepEqual(await fetched(address), utf8("hello\n"));
  const stopped = await owner.stop();
  assert.deepEqual(stopped, { replicasEnded: 1, left: [] });
  assert.deepEqual(await session.ended, { kind: "returned" });
});

test("a box that refuses, a replica that is killed, a point whose relay dies, a crash, and a takeover", async () => {
  using client = clientAt(0);
  using spare = clientAt(2);
  const [, one, two = ""] = net.boxes.map(({ address }) => address);
  // The first box is no box, but a web server's address: it refuses to be one.
  const { owner, session } = await start(client, {
    boxes: [`${net.testnet.plan.webAddress}:9`, one ?? "", "self"],
    standby: { box: two, silentMs: 2000 },
  });
  const refused = await owner.event("replica-refused");
  assert.equal(refused.box, `${net.testnet.plan.webAddress}:9`);
  const address = await owner.started();
  const place = await owner.until((answer) => ("standby" in answer ? answer.standby : undefined));
  await owner.event("standby-ready");
  assert.deepEqual(await fetched(address, "", "steady"), utf8("hello\n"));

  // The crash: the box ends the instance. Another one of the same function goes on, before the standby has noticed.
  const before = await owner.report();
  assert.ok(session.stored);
  await client.close(session.instance, { kill: true });
  const again = await client.run(
    { token: parseInvocationToken(session.stored.invocationToken) },
    { args: [{ resume: true }] },
  );
  const heir = new Owner(again, say);
  assert.equal(await heir.started(), address);
  assert.deepEqual(await fetched(address, "big"), FILE);
  const after = await heir.report();
  assert.deepEqual(
    after.replicas.map(({ id, box }) => ({ id, box })),
    before.replicas.filter(({ state }) => state === "serving").map(({ id, box }) => ({ id, box })),
  );
  const relays = after.introductionPoints.map(({ relay }) => relay);
  for (const { relay } of before.introductionPoints) assert.ok(relays.includes(relay), relay);

  // The primary dies for good.
  await client.close(again.instance, { kill: true });
  const heard = new Owner(await spare.open(parseInstanceId(place.instance)), say);
  const { afterMs } = await heard.event("took-over");
  assert.ok(afterMs < 10_000, `${String(afterMs)} ms`);
  assert.deepEqual(await fetched(address), utf8("hello\n"));

  // An introduction point's relay dies: another takes its place.
  const own = new Set(net.boxes.map(({ fingerprint }) => fingerprint));
  const nodes = await net.testnet.status();
  const points = (await heard.report()).introductionPoints.map(({ relay }) => relay);
  const dying = nodes.find(
    ({ name, pid, role }) =>
      pid !== undefined &&
      role !== "client" &&
      points.includes(fingerprintOf(name)) &&
      !own.has(fingerprintOf(name)),
  );
  if (dying?.pid !== undefined) {
    process.kill(dying.pid, "SIGKILL");
    await heard.event("point-lost", ({ relay }) => relay === fingerprintOf(dying.name));
    await heard.event("point-claimed");
    assert.deepEqual(await fetched(address), utf8("hello\n"));
  }
  await heard.stop();
});

function fingerprintOf(name: string): string {
  try {
    return net.testnet.node(name).fingerprint;
  } catch {
    return "";
  }
}
