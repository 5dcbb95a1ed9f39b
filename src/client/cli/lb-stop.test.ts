// `bento lb stop` against boxes in this process, without Tor or sandbox.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fakeBalancer } from "../../../test/support/fake-balancer/balancer.ts";
import { balancerBox, lastJson, newCli, startOf, startOptions } from "../../../test/support/lb-cli.ts";
import { readOnionKey } from "../loadbalancer/onion-key.ts";
import { type TestScript } from "../test-box.ts";
import { lbStart } from "./lb.ts";
import { lbStop } from "./lb-stop.ts";
import { shutdown } from "./owner.ts";

test("lb stop: ends it, sees that it is gone, forgets it and keeps the key", async () => {
  const fake = await balancerBox();
  const ran = await newCli({ json: true });
  await lbStart(ran.cli, startOptions(ran, fake.box));
  await assert.rejects(shutdown(ran.cli, "web", {}), { code: "usage", message: /load balancer/ });
  assert.equal(await lbStop(ran.cli, "web", { direct: true }), 0);
  const said = lastJson(ran);
  assert.equal(said["replicasEnded"], 1);
  assert.deepEqual(said["boxes"], [{ box: fake.box.address, role: "primary", ended: true }]);
  assert.deepEqual(fake.box.installed, []);
  const data = await ran.cli.context.read();
  assert.deepEqual([data.functions, data.balancers], [{}, {}]);
  await readOnionKey(String(said["keyFile"]));
});

test("lb stop: a function that claims to have stopped, and has not, is shut down by its token", async () => {
  const script: TestScript = async (call) => {
    const start = startOf(call);
    await fakeBalancer(start, { input: call.input, send: (text) => call.output(Buffer.from(text)) });
    for await (const _ of call.input);
    return { kind: "returned" };
  };
  const { box } = await balancerBox({ script });
  const ran = await newCli();
  await lbStart(ran.cli, startOptions(ran, box));
  assert.equal(await lbStop(ran.cli, "web", { direct: true }), 0);
  assert.deepEqual(box.installed, []);
});

test("lb stop: a box that is gone keeps its name, until it is to be forgotten", async () => {
  const fake = await balancerBox();
  const ran = await newCli();
  await lbStart(ran.cli, startOptions(ran, fake.box));
  await fake.box[Symbol.asyncDispose]();
  await assert.rejects(lbStop(ran.cli, "web", { direct: true }), { code: "box-unreachable" });
  assert.ok((await ran.cli.context.read()).balancers["web"]);
  await assert.rejects(lbStop(ran.cli, "web", { direct: true, forget: true }), { code: "box-unreachable" });
  assert.deepEqual((await ran.cli.context.read()).balancers, {});
});
