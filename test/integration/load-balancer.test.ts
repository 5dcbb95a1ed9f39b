// LoadBalancer against unmodified tor and curl: its classes in this process, boxes of memory, a private network of real tor
// daemons. What real boxes add is in load-balancer-boxes.test.ts.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { runLoadBalancer } from "../../functions/loadbalancer/run.ts";
import type { KeptState } from "../../functions/loadbalancer/state.ts";
import { checkedReplicaStart } from "../../functions/replica/protocol.ts";
import { runReplica } from "../../functions/replica/replica.ts";
import type { TorAccess } from "../../functions/replica/tor-node.ts";
import { concat, utf8 } from "../../src/base/bytes.ts";
import { systemClock } from "../../src/base/clock.ts";
import { BentoError } from "../../src/base/errors.ts";
import { createLog } from "../../src/base/log.ts";
import { blindKey, readExpandedKey } from "../../src/onion/crypto/blinding.ts";
import { random } from "../../src/onion/crypto/primitives.ts";
import { openLink } from "../../src/onion/link/tls-link.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import {
  type LoadBalancerReport,
  type LoadBalancerStart,
  RENEW_RUNTIME_MS_MIN,
} from "../../src/wire/loadbalancer.ts";
import { InProcessBoxes } from "../support/in-process-boxes.ts";
import { curl, Owner, siteOf, startOf } from "../support/load-balancer.ts";

let temp: string;
let net: Testnet;

before(async () => {
  temp = await mkdtemp(join(tmpdir(), "bento-lb-"));
  net = await Testnet.up({ dir: join(temp, "net"), relays: 3, exits: 2 });
});

after(async () => {
  await net?.down();
  await rm(temp, { recursive: true, force: true });
});

const log = process.env["LB_LOG"]
  ? createLog((line) => process.stderr.write(line), "debug")
  : createLog(() => undefined);

/** What `env.relays` gives, from this process. */
function torAccess(own: string): TorAccess {
  const contact = (name: string) => {
    const { fingerprint, address, orPort } = net.node(name);
    return { fingerprint, ed25519: "", host: address, port: orPort ?? 0 };
  };
  return {
    network: async () => ({
      own: contact(own),
      directories: [contact("a0")],
      authorities: net.authorityLines.map((line) => /v3ident=([0-9A-F]{40})/u.exec(line)?.[1] ?? ""),
    }),
    openLink: async (relay, options) => {
      const { rsa, ed25519 } = relay.identity;
      const identity = ed25519.length === 0 ? { rsa } : { rsa, ed25519 };
      return openLink({ ...relay, identity }, options);
    },
  };
}

const made: InProcessBoxes[] = [];
afterEach(() => {
  // Those of a test that failed, too.
  for (const boxes of made.splice(0)) for (const id of boxes.instances.keys()) boxes.kill(id);
});

function boxesWith(): InProcessBoxes {
  const boxes: InProcessBoxes = new InProcessBoxes({
    replica: async ([given], session, storage) =>
      runReplica(checkedReplicaStart(given), {
        session,
        storage,
        tor: torAccess("e0"),
        clock: systemClock,
        log,
        cpuUs: () => 0,
      }),
    loadbalancer: async ([given], session, storage, box) => {
      await runLoadBalancer(given, {
        session,
        storage,
        tor: torAccess("e1"),
        bento: boxes.bentoAt(box),
        clock: systemClock,
        log,
      });
    },
  });
  made.push(boxes);
  return boxes;
}

const FILE = random(300_000);

const pack = (name: string) => ({ manifest: { name, image: "deno" as const }, source: "" });

async function start(boxes: InProcessBoxes, options: Partial<LoadBalancerStart> = {}) {
  const site = siteOf({ "index.html": utf8("hello\n"), big: FILE });
  const standby = options.standby && pack("loadbalancer");
  const {
    start: args,
    input,
    secrets,
  } = startOf({ site, replica: pack("replica"), standby }, { boxes: ["one", "two", "three"], ...options });
  const session = await boxes.run("balancer", pack("loadbalancer"), { args: [args] });
  await session.send(concat(input));
  const owner = new Owner(session, (answer) => log.debug("answer", { answer: JSON.stringify(answer) }));
  return { session, owner, secrets };
}

test("unmodified tor and curl fetch from a replica", async () => {
  const boxes = boxesWith();
  const { owner, session } = await start(boxes);
  const address = await owner.started();
  const socks = net.socksTcp();
  assert.equal((await curl(socks, `http://${address}/`)).toString(), "hello\n");
  assert.deepEqual(new Uint8Array(await curl(socks, `http://${address}/big`)), FILE);
  await owner.say({ watch: { everyMs: 100 } });
  await owner.until((answer) =>
    "report" in answer && answer.report.introductions.total === 2 && answer.report.replicas[0]?.met === 2
      ? true
      : undefined,
  );
  assert.deepEqual(await owner.stop(), { replicasEnded: 1, left: [] });
  assert.deepEqual(await session.ended, { kind: "returned" });
});

test("a replica that dies is replaced; its clients come again and get another", async () => {
  const boxes = boxesWith();
  boxes.refusing.set("one", new BentoError("box-full", "no room"));
  const { owner } = await start(boxes);
  const refused = await owner.event("replica-refused");
  assert.deepEqual([refused.box, refused.code], ["one", "box-full"]);
  const address = await owner.started();
  const user = "steady";
  assert.equal((await curl(net.socksTcp(), `http://${address}/`, { user })).toString(), "hello\n");
  const [running] = boxes.on("two");
  assert.ok(running);
  boxes.kill(running.id);
  const lost = await owner.event("replica-lost");
  assert.equal(lost.box, "two");
  // The same circuits of the same client: its tor notices that the replica is gone, before this or because of it.
  const again = { user, insists: true };
  assert.equal((await curl(net.socksTcp(), `http://${address}/`, again)).toString(), "hello\n");
  const { replicas, introductions } = await owner.report();
  assert.equal(introductions.dropped, 0);
  assert.equal(replicas.find(({ state }) => state === "serving")?.box, "three");
  await owner.stop();
});

test("the function's own restart: same address, same points, the replica goes on with its clients", async () => {
  const boxes = boxesWith();
  const { owner, session } = await start(boxes);
  const address = await owner.started();
  const before = await owner.report();
  const download = curl(net.socksTcp(), `http://${address}/big`, { args: ["--limit-rate", "100k"] });
  await owner.say({ watch: { everyMs: 100 } });
  await owner.until((answer) =>
    "report" in answer && answer.report.replicas[0]?.bytesTotal ? true : undefined,
  );
  boxes.kill(session.instance);
  assert.ok(session.deployment);
  const again = await boxes.run(
    "balancer",
    { token: session.deployment.invocationToken },
    { args: [{ resume: true }] },
  );
  const heir = new Owner(again, (answer) => log.debug("heir", { answer: JSON.stringify(answer) }));
  for (const _ of before.introductionPoints) await heir.event("point-claimed");
  const report = await heir.report();
  assert.equal(report.address, address);
  assertHasPoints(report, before);
  assert.equal(report.replicas[0]?.id, before.replicas[0]?.id);
  assert.equal((await curl(net.socksTcp(), `http://${address}/`)).toString(), "hello\n");
  assert.deepEqual(new Uint8Array(await download), FILE);
  assert.equal(boxes.on("one").length, 1, "no replica was started again");
  await heir.stop();
});

/** All that there were; one more is for clients that came while nobody was there. */
function assertHasPoints(report: LoadBalancerReport, before: LoadBalancerReport): void {
  const relays = new Set(report.introductionPoints.map(({ relay }) => relay));
  for (const { relay } of before.introductionPoints) assert.ok(relays.has(relay), relay);
  assert.ok(report.introductionPoints.length <= before.introductionPoints.length + 1);
}

test("a standby takes over from a primary that it hears no more, and the primary, which lives, is fenced off", async () => {
  const boxes = boxesWith();
  const { owner, session } = await start(boxes, { standby: { box: "spare", silentMs: 1500 } });
  const { address } = await owner.startedWithStandby();
  assert.equal((await curl(net.socksTcp(), `http://${address}/`)).toString(), "hello\n");
  const before = await owner.report();
  const [standby] = boxes.on("spare");
  assert.ok(standby);
  standby.isFrozen = true;
  await owner.event("fenced-off");
  assert.deepEqual(await session.ended, { kind: "returned" });
  standby.isFrozen = false;
  assert.equal((await curl(net.socksTcp(), `http://${address}/`)).toString(), "hello\n");
  const heir = new Owner(await boxes.open("spare", standby.id), (answer) =>
    log.debug("heir", { answer: JSON.stringify(answer) }),
  );
  const report = await heir.report();
  assert.equal(report.address, address);
  assertHasPoints(report, before);
  assert.equal(report.replicas[0]?.id, before.replicas[0]?.id);
  await heir.stop();
});

test("a standby takes over from a primary that died, within a second after it noticed", async () => {
  const boxes = boxesWith();
  boxes.grant = { limits: { runtimeMs: 3600_000 } };
  const { owner, session, secrets } = await start(boxes, { standby: { box: "spare", silentMs: 6000 } });
  const { address, place } = await owner.startedWithStandby();
  await owner.say({ renew: { token: session.deployment?.invocationToken, runtimeMs: 3600_000 } });
  // A client that has been there, and asks while nobody is: its tor holds that against the points.
  const user = "patient";
  assert.equal((await curl(net.socksTcp(), `http://${address}/`, { user })).toString(), "hello\n");
  const kept = boxes.storageOf(session.deployment?.invocationToken ?? "")?.text("state");
  boxes.kill(session.instance);
  await assert.rejects(curl(net.socksTcp(), `http://${address}/`));
  const heir = new Owner(await boxes.open(place.box, place.instance), (answer) =>
    log.debug("heir", { answer: JSON.stringify(answer) }),
  );
  const { afterMs } = await heir.event("took-over");
  // 16 ms where nothing else runs.
  assert.ok(afterMs < 10_000, `${afterMs} ms`);
  const state = JSON.parse(boxes.storageOf(place.invocationToken)?.text("state") ?? "{}") as KeptState;
  // The points that the primary had: nobody was sent the one that the standby adds.
  scanForKeys(boxes, secrets, JSON.parse(kept ?? "{}") as KeptState);
  // It starts its own next instance, and none of the one that died.
  const { invocationToken, shutdownToken } = place;
  assert.deepEqual(state.renew, { token: invocationToken, shutdownToken, runtimeMs: 3600_000 });
  // The one that asked in between comes in again, by the point that is new.
  const insisting = { user, insists: true };
  assert.equal((await curl(net.socksTcp(), `http://${address}/`, insisting)).toString(), "hello\n");
  await heir.stop();
});

test("before its time ends an instance starts the next one: clients, replicas and standby notice nothing", async () => {
  const boxes = boxesWith();
  const { owner, session } = await start(boxes, { standby: { box: "spare", silentMs: 3000 } });
  const { address } = await owner.startedWithStandby();
  const before = await owner.report();
  const download = curl(net.socksTcp(), `http://${address}/big`, { args: ["--limit-rate", "100k"] });
  await owner.say({ watch: { everyMs: 100 } });
  await owner.until((answer) =>
    "report" in answer && answer.report.replicas[0]?.bytesTotal ? true : undefined,
  );
  const token = session.deployment?.invocationToken ?? assert.fail();
  const where = async () => {
    const asked = new Owner(await boxes.run("balancer", { token }, { args: [{ where: true }] }));
    return asked.until((answer) => ("at" in answer ? answer.at : undefined));
  };
  assert.deepEqual(await where(), { instance: null, role: "primary" }, "none yet");
  await owner.say({ renew: { token, runtimeMs: RENEW_RUNTIME_MS_MIN } });
  const over = new AbortController();
  const clients = (async () => {
    for (let count = 0; !over.signal.aborted || count < 2; count++)
      assert.equal((await curl(net.socksTcp(), `http://${address}/`)).toString(), "hello\n");
  })();
  await owner.event("renewed");
  assert.deepEqual(await session.ended, { kind: "returned" });
  over.abort();
  const { instance } = await where();
  const heir = new Owner(await boxes.open("balancer", instance ?? assert.fail()), (answer) =>
    log.debug("heir", { answer: JSON.stringify(answer) }),
  );
  // The third one is none of this test.
  await heir.say({ renew: { token, runtimeMs: 3600_000 } });
  await clients;
  assert.deepEqual(new Uint8Array(await download), FILE);
  const report = await heir.report();
  assert.deepEqual([report.address, report.role], [address, "primary"]);
  assert.deepEqual(
    new Set(report.introductionPoints.map(({ relay }) => relay)),
    new Set(before.introductionPoints.map(({ relay }) => relay)),
  );
  assert.deepEqual(
    report.replicas.map(({ id }) => id),
    before.replicas.map(({ id }) => id),
  );
  assert.equal(report.standby?.isReady, true);
  assert.equal(report.introductions.dropped, 0);
  await heir.stop();
});

// The last one: the network has a relay less afterwards.
test("an introduction point whose relay dies is replaced, and clients come in", async () => {
  const boxes = boxesWith();
  // Of seven relays that may be one: so one of the three that may die is among them, and one is left.
  const { owner } = await start(boxes, { introductionPoints: 5 });
  const address = await owner.started();
  const points = (await owner.report()).introductionPoints.map(({ relay }) => relay);
  // Not the relays that the functions of these tests stand beside, nor an authority.
  const dying = ["r0", "r1", "r2"]
    .map((name) => net.node(name))
    .find(({ fingerprint }) => points.includes(fingerprint));
  assert.ok(dying);
  {
    // Whose guard dies comes in again only when its tor has found another, which says nothing about the service.
    await using control = await net.control("c0");
    await control.setConf([["EntryNodes", net.node("e1").fingerprint]]);
  }
  const { pid } = (await net.status()).find(({ name }) => name === dying.name) ?? {};
  assert.ok(pid !== undefined);
  process.kill(pid, "SIGKILL");
  await owner.event("point-lost", ({ relay }) => relay === dying.fingerprint);
  await owner.event("point-claimed", ({ relay }) => relay !== dying.fingerprint);
  assert.equal((await curl(net.socksTcp(), `http://${address}/`, { insists: true })).toString(), "hello\n");
  await owner.stop();
});

/** No secret of the service in anything that a replica was sent, as bytes, hexadecimal or base64. */
function scanForKeys(boxes: InProcessBoxes, [scalar, prefix]: readonly Uint8Array[], state: KeptState): void {
  assert.ok(scalar && prefix);
  const publicKey = readExpandedKey(concat([scalar, prefix])).publicKey;
  const number = Math.floor(Date.now() / (8 * 60_000));
  const blinded = Array.from({ length: 9 }, (_, by) =>
    blindKey({ publicKey, scalar, prefix }, { number: number + by - 4, minutes: 8 }),
  ).flatMap((key) => [key.scalar, key.prefix]);
  const points = state.points.flatMap(({ secrets }) => {
    const bytes = Buffer.from(secrets, "base64");
    return [bytes.subarray(0, 32), bytes.subarray(32)];
  });
  assert.ok(points.length >= 6);
  const found = (where: readonly Uint8Array[], secret: Uint8Array) => {
    const all = Buffer.concat(where);
    const bytes = Buffer.from(secret);
    return (
      all.includes(bytes) ||
      all.includes(bytes.toString("hex")) ||
      // Of any alignment within a longer text.
      [0, 1, 2].some((by) =>
        all.includes(bytes.subarray(by, by + 3 * Math.floor((32 - by) / 3)).toString("base64")),
      )
    );
  };
  const toReplicas = boxes.sent
    .filter(({ box }) => ["one", "two", "three"].includes(box))
    .map(({ bytes }) => bytes);
  const toStandby = boxes.sent.filter(({ box }) => box === "spare").map(({ bytes }) => bytes);
  assert.ok(toReplicas.length > 0);
  for (const secret of [scalar, prefix, ...blinded, ...points])
    assert.equal(found(toReplicas, secret), false);
  // The same scan finds them where they are: a standby has the key and the points.
  for (const secret of [scalar, prefix, ...points]) assert.equal(found(toStandby, secret), true);
}
