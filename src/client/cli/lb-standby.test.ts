// `bento lb` and a load balancer with a standby, on boxes in this process: without Tor or sandbox.

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { fakeBalancer } from "../../../test/support/fake-balancer/balancer.ts";
import {
  balancerBox,
  cleanUps,
  FAKE,
  type FakeBox,
  lastJson,
  newCli,
  STATUS,
  startOf,
  startOptions,
  until,
} from "../../../test/support/lb-cli.ts";
import { LoadBalancerLimits, type LoadBalancerStart, type StandbyPlace } from "../../wire/loadbalancer.ts";
import { newInstanceId, newInvocationToken, newShutdownToken } from "../../wire/token.ts";
import { BoxClient, directDial } from "../client.ts";
import { makeOnionKey } from "../loadbalancer/onion-key.ts";
import { loadPackage } from "../package-loader.ts";
import { lbStart } from "./lb.ts";
import { saveStandby } from "./lb-saved.ts";
import { lbStatus } from "./lb-status.ts";
import { lbStop } from "./lb-stop.ts";

/** A load balancer at one box and its standby at another, which runs as an instance of its own. */
async function withStandby() {
  const second = await balancerBox({
    script: async (call) => {
      const start = startOf(call);
      await fakeBalancer(start, {
        role: "standby",
        input: call.input,
        send: (text) => call.output(Buffer.from(text)),
      });
      for (const token of second.box.installed) second.box.remove(token);
      return { kind: "returned" };
    },
  });
  const placed: StandbyPlace[] = [];
  const first = await balancerBox({ standby: () => placed[0] ?? assert.fail() });
  const ran = await newCli();
  // The standby is there before: what deploys it is not what is tested here.
  const client = new BoxClient({ address: second.box.address, dial: directDial });
  cleanUps.push(async () => client[Symbol.dispose]());
  const key = await makeOnionKey(path.join(ran.dir, "keys"));
  const args = [{ ...STANDBY_START, key: Buffer.from(key.secret).toString("base64") }];
  const { package: pack } = await loadPackage(FAKE);
  const session = await client.run({ package: pack }, { args });
  const { invocationToken, shutdownToken } = session.stored ?? assert.fail();
  placed.push({ box: second.box.address, instance: session.instance, invocationToken, shutdownToken });
  const options = { standby: [second.box.address], key: key.file };
  assert.equal(await lbStart(ran.cli, startOptions(ran, first.box, options)), 0);
  return { ran, first, second, session };
}

const STANDBY_START: Omit<LoadBalancerStart, "key"> = {
  virtualPort: 80,
  serve: { kind: "files", siteBytes: 0 },
  scale: { replicasMin: 2, replicasMax: 4, high: {}, low: {}, choice: "random" },
  boxes: ["self"],
  packages: { replicaBytes: 0 },
};

test("standby: when the load balancer has crashed, status and stop go to it", async () => {
  const { ran, first, second, session } = await withStandby();
  const { start, packages } = first.read[0] ?? assert.fail();
  assert.deepEqual(packages, ["hello", "fake-balancer"]);
  assert.deepEqual(start.standby, { box: second.box.address, own: first.box.address });
  await session.detach();
  const before = await newCli({ json: true, dir: ran.dir });
  assert.equal(await lbStatus(before.cli, "web", STATUS), 0);
  assert.equal(lastJson(before)["at"], "primary");
  first.crash();
  const after = await newCli({ json: true, dir: ran.dir });
  assert.equal(await lbStatus(after.cli, "web", STATUS), 0);
  assert.equal(lastJson(after)["at"], "standby");
  assert.equal(lastJson(after)["role"], "standby");
  const stop = await newCli({ json: true, dir: ran.dir });
  assert.equal(await lbStop(stop.cli, "web", { direct: true }), 0);
  assert.equal(lastJson(stop)["replicasEnded"], 2);
  assert.deepEqual([first.box.installed, second.box.installed], [[], []]);
});

test("standby: while the load balancer holds it, a client that cannot reach that one leaves it alone", async () => {
  const { ran, first, second, session } = await withStandby();
  await first.box[Symbol.asyncDispose]();
  const failure = { code: "balancer-out-of-reach" };
  await assert.rejects(lbStatus(ran.cli, "web", STATUS), failure);
  await assert.rejects(lbStop(ran.cli, "web", { direct: true }), failure);
  assert.equal(second.box.installed.length, 1);
  // The session that stands for the first load balancer ends: then the standby is asked.
  await session.detach();
  await until(async () => !(await isHeld(second, session.stored?.shutdownToken)));
  assert.equal(await lbStatus(ran.cli, "web", STATUS), 0);
  // The first box is not there to say that it has nothing left.
  assert.equal(await lbStop(ran.cli, "web", { direct: true }), 9);
  assert.deepEqual(second.box.installed, []);
});

async function isHeld({ box }: FakeBox, token: string | undefined): Promise<boolean> {
  using client = new BoxClient({ address: box.address, dial: directDial });
  const { instances } = await client.list(token as Parameters<typeof client.list>[0]);
  return instances.some(({ attached }) => attached);
}

test("standby: a place at another box than the one asked for is not believed", async () => {
  const elsewhere = { box: "127.0.0.1:1", instance: "x", invocationToken: "x", shutdownToken: "x" };
  const wanted = await balancerBox();
  const place = {
    ...elsewhere,
    instance: newInstanceId(),
    invocationToken: newInvocationToken(),
    shutdownToken: newShutdownToken(),
  };
  const first = await balancerBox({ standby: () => place });
  const ran = await newCli();
  const options = startOptions(ran, first.box, { standby: [wanted.box.address] });
  await assert.rejects(lbStart(ran.cli, options), { code: "integrity" });
  assert.deepEqual(first.box.installed, []);
});

const tokens = () => ({ invocationToken: newInvocationToken(), shutdownToken: newShutdownToken() });

test("standby: boxes where it may be are named in order, saved as they are prepared, and found from then on", async () => {
  const [one, two] = [await balancerBox(), await balancerBox()];
  const place = { box: one.box.address, instance: newInstanceId(), ...tokens(), expiresAt: 1e12 };
  const reserve = { box: two.box.address, ...tokens() };
  const first = await balancerBox({ standby: () => place, reserves: () => [reserve] });
  const ran = await newCli({ json: true });
  const standby = [one.box.address, two.box.address];
  assert.equal(await lbStart(ran.cli, startOptions(ran, first.box, { standby })), 0);
  assert.deepEqual(first.read[0]?.start.standby, {
    box: one.box.address,
    others: [two.box.address],
    own: first.box.address,
  });
  const said = lastJson(ran);
  assert.deepEqual(said["standby"], { box: one.box.address, isReady: true });
  assert.deepEqual(said["reserves"], { boxes: [two.box.address], ready: 1 });
  const entry = (await ran.cli.context.read()).balancers["web"] ?? assert.fail();
  assert.equal(entry.own, first.box.address);
  const { instance, invocationToken, shutdownToken, expiresAt } = entry.standby ?? assert.fail();
  assert.deepEqual({ box: place.box, instance, invocationToken, shutdownToken, expiresAt }, place);
  assert.equal(entry.reserves?.[0]?.invocationToken, reserve.invocationToken);
  assert.equal(entry.reserves?.[0]?.instance, undefined);
  // Later one is placed at the reserve's box, or where the load balancer itself was; but nowhere else.
  await saveStandby(ran.cli, "web", { ...place, box: two.box.address });
  await saveStandby(ran.cli, "web", { ...place, box: first.box.address });
  const after = (await ran.cli.context.read()).balancers["web"];
  assert.equal(after?.reserves?.[0]?.instance, place.instance);
  const elsewhere = saveStandby(ran.cli, "web", { ...place, box: "127.0.0.1:1" });
  await assert.rejects(elsewhere, { code: "integrity" });
  // As many as there may be, and one more.
  const many = (count: number) => Array.from({ length: count }, (_, at) => `127.0.0.${at + 2}:1`);
  const tooMany = { standby: many(LoadBalancerLimits.standbyOthersMax + 2) };
  await assert.rejects(lbStart(ran.cli, startOptions(ran, first.box, tooMany)), { code: "usage" });
});
