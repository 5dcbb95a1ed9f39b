// LoadBalancer as people run it: functions in real boxes, over a private network of real tor daemons, fetched from by an
// unmodified tor and curl. Needs root.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { utf8 } from "../../src/base/bytes.ts";
import { type RunningNetwork, startNetwork, stopNetwork } from "../../src/bin/local-network.ts";
import { BoxClient, directDial, type Session } from "../../src/client/client.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { random } from "../../src/onion/crypto/primitives.ts";
import {
  type LoadBalancerStart,
  type OwnerAnswer,
  RENEW_RUNTIME_MS_MIN,
} from "../../src/wire/loadbalancer.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import { parseInstanceId, parseInvocationToken, parseShutdownToken } from "../../src/wire/token.ts";
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

test("clients reach a TCP target of the replica's box", async () => {
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on("data", (part: Buffer) => parts.push(part));
    request.on("end", () => response.end(Buffer.concat([Buffer.from("target got "), ...parts])));
  }).listen(0, net.testnet.plan.webAddress);
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const host = net.testnet.plan.webAddress;
  using client = clientAt(0);
  const site = new Uint8Array(0);
  const targeted = {
    ...replica,
    manifest: { ...replica.manifest, net: { allow: [`${host}:${String(port)}`] } },
  };
  const { start: args, input } = startOf(
    { site, replica: targeted },
    { serve: { kind: "target", host, port } },
  );
  const session = await client.run({ package: balancer }, { args: [args] });
  for (const bytes of input)
    for (let at = 0; at < bytes.length; at += 200_000) await session.send(bytes.subarray(at, at + 200_000));
  const owner = new Owner(session, say);
  const address = await owner.started();
  const socks = net.testnet.socksTcp();
  const answer = await curl(socks, `http://${address}/`, { args: ["--data-binary", "x".repeat(100_000)] });
  assert.equal(answer.toString(), `target got ${"x".repeat(100_000)}`);
  await owner.stop();
  server.close();
});

test("a box that refuses, an instance that starts the next one, a crash after which another goes on, and two takeovers", async () => {
  using client = clientAt(0);
  using spare = clientAt(2);
  const [own = "", one = "", two = ""] = net.boxes.map(({ address }) => address);
  // The first box is no box, but a web server's address: it refuses to be one.
  const { owner, session } = await start(client, {
    boxes: [`${net.testnet.plan.webAddress}:9`, one, "self"],
    standby: { box: two, others: [one], own, silentMs: 6000 },
  });
  await owner.event("replica-refused", ({ box }) => box === `${net.testnet.plan.webAddress}:9`);
  const { address, place } = await owner.startedWithStandby();
  const reserve = await owner.until((answer) => ("reserve" in answer ? answer.reserve : undefined));
  assert.equal(reserve.box, one);
  assert.deepEqual(await fetched(address, "", "steady"), utf8("hello\n"));

  // The instance believes that its time ends soon.
  const before = await owner.report();
  assert.ok(session.stored);
  const token = parseInvocationToken(session.stored.invocationToken);
  await owner.say({ renew: { token, runtimeMs: RENEW_RUNTIME_MS_MIN } });
  await owner.event("renewed");
  assert.deepEqual(await session.ended, { kind: "returned" });
  const asked = new Owner(await client.run({ token }, { args: [{ where: true }] }));
  const { instance } = await asked.until((answer) => ("at" in answer ? answer.at : undefined));
  const renewed = new Owner(await client.open(parseInstanceId(instance ?? "")), say);
  const { shutdownToken } = session.stored;
  await renewed.say({ renew: { token, runtimeMs: 3600_000, shutdownToken } });
  assert.deepEqual(await fetched(address), utf8("hello\n"));
  assert.deepEqual(
    new Set((await renewed.report()).introductionPoints.map(({ relay }) => relay)),
    new Set(before.introductionPoints.map(({ relay }) => relay)),
  );

  // The crash: the box ends the instance. Another one of the same function goes on, before the standby has noticed.
  await client.close(parseInstanceId(instance ?? ""), { kill: true });
  const again = await client.run({ token }, { args: [{ resume: true }] });
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

  // It has a standby of its own, where its primary installed the function; and dies as well.
  const second = await heard.until((answer) => ("standby" in answer ? answer.standby : undefined));
  assert.deepEqual([second.box, second.invocationToken], [one, reserve.invocationToken]);
  await heard.event("standby-ready", ({ box }) => box === one);
  assert.deepEqual(await fetched(address), utf8("hello\n"));
  await spare.close(parseInstanceId(place.instance), { kill: true });
  using last = clientAt(1);
  const reserved = new Owner(await last.open(parseInstanceId(second.instance)), say);
  await reserved.event("took-over");
  assert.deepEqual(await fetched(address, "big"), FILE);
  // And again: now where the first one was, or the second.
  const { box } = await reserved.event("standby-ready");
  assert.ok([own, two].includes(box), box);
  const stopped = await reserved.stop();
  assert.deepEqual(stopped.left, []);
  for (const [at, ended] of [
    [client, shutdownToken],
    [spare, place.shutdownToken],
    [last, reserve.shutdownToken],
  ] as const)
    await assert.rejects(at.list(parseShutdownToken(ended)), { code: "bad-token" });
});
