// `bento lb start` against boxes that keep to the protocol, and against boxes that lie: in this process, without Tor or sandbox.

import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import {
  balancerBox,
  cleanUps,
  lastJson,
  MIB,
  newCli,
  startOptions,
  until,
} from "../../../test/support/lb-cli.ts";
import { readOnionKey } from "../loadbalancer/onion-key.ts";
import { TEST_POLICY, TestBox, type TestScript } from "../test-box.ts";
import { type LbStartOptions, lbStart } from "./lb.ts";

test("lb start: everything arrives, the address is the key's, what is needed later is saved", async () => {
  const fake = await balancerBox();
  const ran = await newCli();
  const options = { replicas: "2..3", high: "connections=2", port: 8080, points: 5 };
  assert.equal(await lbStart(ran.cli, startOptions(ran, fake.box, options)), 0);
  const address = ran.out().trim();
  assert.match(address, /^[a-z2-7]{56}\.onion$/);
  const { start, site, packages } = fake.read[0] ?? assert.fail();
  assert.deepEqual(
    site?.files.map((file) => file.path),
    ["index.html"],
  );
  assert.deepEqual(packages, ["hello"]);
  assert.deepEqual(start.boxes, ["self"]);
  assert.equal(start.virtualPort, 8080);
  assert.equal(start.introductionPoints, 5);
  assert.equal(start.standby, undefined);
  assert.deepEqual(start.scale.high, { connections: 2 });
  const [folder = ""] = await readdir(path.join(ran.dir, "state/onion"));
  const key = await readOnionKey(path.join(ran.dir, "state/onion", folder));
  assert.equal(key.address, address);
  assert.equal(Buffer.from(key.secret).toString("base64"), start.key);
  const data = await ran.cli.context.read();
  assert.equal(data.balancers["web"]?.address, address);
  assert.ok(data.functions["web"]?.shutdownToken);
  assert.ok(!ran.err().includes(start.key));
});

test("lb start: a key that is given is used; a target sends no site; JSON says all", async () => {
  const fake = await balancerBox();
  const first = await newCli();
  await lbStart(first.cli, startOptions(first, fake.box));
  const { keyFile, address } = (await first.cli.context.read()).balancers["web"] ?? assert.fail();
  const ran = await newCli({ json: true });
  const options = { site: undefined, target: "example.com:80", key: keyFile, name: "shop" };
  assert.equal(await lbStart(ran.cli, startOptions(ran, fake.box, options)), 0);
  const said = lastJson(ran);
  assert.equal(said["event"], "started");
  assert.equal(said["address"], address);
  assert.equal(said["name"], "shop");
  assert.equal(said["keyFile"], keyFile);
  assert.deepEqual(fake.read[1]?.start.serve, { kind: "target", host: "example.com", port: 80 });
  assert.equal(fake.read[1]?.site, undefined);
});

test("lb start: what is wrong is said before anything is asked of a box", async () => {
  const fake = await balancerBox();
  const ran = await newCli();
  const usage = { code: "usage" };
  for (const bad of [
    { site: undefined },
    { target: "example.com:80" },
    { site: path.join(ran.dir, "none") },
    { replicas: "9..1" },
    { high: "clients=1" },
    { clientKey: ["x"] },
    { key: path.join(ran.dir, "none") },
    { name: "../x" },
    { boxes: ["self"], region: ["DE"] },
    { standby: [fake.box.address] },
  ] as Partial<LbStartOptions>[])
    await assert.rejects(lbStart(ran.cli, startOptions(ran, fake.box, bad)), usage, JSON.stringify(bad));
  assert.deepEqual(fake.box.installed, []);
  assert.deepEqual(await readdir(path.join(ran.dir, "state")).catch(() => []), []);
});

test("lb start: a box that grants too little refuses with its rules, and nothing is left behind", async () => {
  const box = await TestBox.start({ policy: TEST_POLICY });
  cleanUps.push(() => box[Symbol.asyncDispose]());
  const ran = await newCli();
  await assert.rejects(lbStart(ran.cli, startOptions(ran, box)), { code: "policy-refused" });
  assert.deepEqual((await ran.cli.context.read()).functions, {});
});

test("lb start: a function that fails, another address, no answer of ours: all of it is taken back", async () => {
  const other = `${"a".repeat(56)}.onion`;
  const cases: [TestScript, string, RegExp][] = [
    [
      async () => ({ kind: "failed", name: "Error", message: "no relay takes us", traceback: "" }),
      "function-failed",
      /no relay takes us/,
    ],
    [saying({ started: { address: other } }), "integrity", /another address/],
    [saying({ hello: 1 }), "bad-answer", /not how a load balancer answers/],
    [saying("x".repeat(2 * MIB)), "bad-answer", /longer than/],
  ];
  for (const [script, code, message] of cases) {
    const { box } = await balancerBox({ script });
    const ran = await newCli();
    await assert.rejects(lbStart(ran.cli, startOptions(ran, box)), (error: unknown) => {
      assert.ok(error instanceof Error);
      assert.equal(Reflect.get(error, "code"), code);
      assert.match(error.message, message);
      return true;
    });
    assert.deepEqual(box.installed, []);
    assert.deepEqual((await ran.cli.context.read()).balancers, {});
    assert.deepEqual(await readdir(path.join(ran.dir, "state/onion")), [], "no key of what never served");
  }
});

/** Reads what comes, then says one thing, and goes on. */
function saying(answer: unknown): TestScript {
  return async (call) => {
    const bytes = Buffer.from(typeof answer === "string" ? answer : JSON.stringify(answer));
    for (let at = 0; at < bytes.length; at += 60_000)
      call.output(bytes.subarray(at, at + 60_000), at + 60_000 >= bytes.length);
    for await (const message of call.input) {
      if (Buffer.from(message).includes('{"stop":true}')) call.output(Buffer.from(STOPPED));
    }
    return { kind: "returned" };
  };
}

const STOPPED = JSON.stringify({ stopped: { replicasEnded: 0 } });

test("lb start: Ctrl-C takes back what was installed", async () => {
  const { box } = await balancerBox({ script: saying({ event: { kind: "fenced-off", atMs: 1 } }) });
  const ran = await newCli();
  const starting = lbStart(ran.cli, startOptions(ran, box));
  starting.catch(() => undefined);
  await until(() => ran.err().includes("another one has taken"));
  assert.equal(box.installed.length, 1);
  ran.abort.abort(new Error("interrupted"));
  await assert.rejects(starting, /interrupted/);
  assert.deepEqual(box.installed, []);
  assert.deepEqual((await ran.cli.context.read()).balancers, {});
});
