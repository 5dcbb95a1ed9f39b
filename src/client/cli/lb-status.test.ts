// `bento lb status`, `resume` and `scale` against boxes in this process, without Tor or sandbox.

import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { fakeBalancer } from "../../../test/support/fake-balancer/balancer.ts";
import {
  balancerBox,
  lastJson,
  lines,
  newCli,
  POLICY,
  type Ran,
  STATUS,
  startOf,
  startOptions,
  until,
} from "../../../test/support/lb-cli.ts";
import type { Outcome } from "../../wire/api.ts";
import { type LoadBalancerStart } from "../../wire/loadbalancer.ts";
import { newInstanceId, parseInvocationToken } from "../../wire/token.ts";
import { BoxClient, directDial } from "../client.ts";
import { type TestScript } from "../test-box.ts";
import { lbStart } from "./lb.ts";
import { lbResume } from "./lb-resume.ts";
import { lbStatus } from "./lb-status.ts";
import { lbScale } from "./lb-stop.ts";

test("lb status: one report, as text and as JSON; without a name the only one there is", async () => {
  const fake = await balancerBox();
  const ran = await newCli();
  await lbStart(ran.cli, startOptions(ran, fake.box));
  assert.equal(await lbStatus(ran.cli, undefined, STATUS), 0);
  assert.match(ran.out(), /1 {2,}127\.0\.0\.1:\d+ {2,}serving {2,}2 {2,}1 MiB\/s/);
  const asJson = await newCli({ json: true, dir: ran.dir });
  assert.equal(await lbStatus(asJson.cli, "web", STATUS), 0);
  const said = lastJson(asJson);
  assert.equal(said["at"], "primary");
  assert.equal((said["replicas"] as unknown[]).length, 1);
  await assert.rejects(lbStatus(ran.cli, "wev", STATUS), { code: "usage", advice: "Did you mean web?" });
  await lbStart(ran.cli, startOptions(ran, fake.box));
  await assert.rejects(lbStatus(ran.cli, undefined, STATUS), { code: "usage", advice: "Saved: web, web-2." });
});

test("lb status --watch: reports until Ctrl-C, and again after another command was let in", async () => {
  const fake = await balancerBox();
  const ran = await newCli({ json: true });
  await lbStart(ran.cli, startOptions(ran, fake.box));
  const watching = lbStatus(ran.cli, "web", { ...STATUS, watch: true });
  const reports = () => lines(ran.out()).filter((line) => line.startsWith('{"event":"report"')).length;
  await until(() => reports() >= 2);
  const other = await newCli({ json: true, dir: ran.dir });
  assert.equal(await lbScale(other.cli, "web", { replicas: "3" }), 0);
  const scale = lastJson(other)["scale"] as { replicasMin: number };
  assert.equal(scale.replicasMin, 3);
  await until(() => ran.err().includes("another command of yours was let in"));
  const before = reports();
  await until(() => reports() > before);
  assert.equal((lastJson(ran)["replicas"] as unknown[]).length, 3);
  ran.abort.abort(new Error("interrupted"));
  assert.equal(await watching, 130);
});

test("lb status --watch: a broken connection is made again, and reports go on", async () => {
  const broken = { count: 0 };
  const script: TestScript = async (call) => {
    const start = startOf(call);
    await fakeBalancer(start, {
      input: call.input,
      send: (text) => {
        call.output(Buffer.from(text));
        if (text.startsWith('{"report"') && broken.count++ === 2) call.breakConnection();
      },
    });
    return { kind: "returned" };
  };
  const { box } = await balancerBox({ script });
  const ran = await newCli({ json: true });
  await lbStart(ran.cli, startOptions(ran, box));
  const watching = lbStatus(ran.cli, "web", { ...STATUS, watch: true });
  const reports = () => lines(ran.out()).filter((line) => line.startsWith('{"event":"report"')).length;
  await until(() => reports() >= 6);
  assert.match(ran.err(), /connection/i);
  ran.abort.abort(new Error("interrupted"));
  assert.equal(await watching, 130);
});

test("lb resume: another instance goes on, at the same address, and is found from then on", async () => {
  const crash = Promise.withResolvers<Outcome>();
  let first: LoadBalancerStart | undefined;
  const script: TestScript = async (call) => {
    const send = (text: string) => call.output(Buffer.from(text));
    const given = startOf(call);
    const isResumed = first !== undefined;
    // It has started none itself.
    if ("where" in given) {
      send(JSON.stringify({ at: { instance: null } }));
      return { kind: "returned" };
    }
    if (isResumed) assert.deepEqual(given, { resume: true });
    first ??= given;
    const running = fakeBalancer(first, { input: call.input, send, isResumed });
    const returned = running.then((): Outcome => ({ kind: "returned" }));
    return isResumed ? returned : Promise.race([returned, crash.promise]);
  };
  const { box } = await balancerBox({ script });
  const ran = await newCli();
  await lbStart(ran.cli, startOptions(ran, box));
  const before = (await ran.cli.context.read()).balancers["web"];
  crash.resolve({ kind: "failed", name: "Error", message: "boom", traceback: "" });
  await assert.rejects(lbStatus(ran.cli, "web", STATUS), { code: "already-ended", message: /boom/ });
  assert.equal(await lbResume(ran.cli, "web", { direct: true }), 0);
  const after = (await ran.cli.context.read()).balancers["web"];
  assert.notEqual(after?.instance, before?.instance);
  assert.equal(after?.address, before?.address);
  assert.equal(await lbStatus(ran.cli, "web", STATUS), 0);
});

test("lb status: an instance that ended, with a new one in its place: that one is asked for, found and saved", async () => {
  const over = Promise.withResolvers<Outcome>();
  let first: LoadBalancerStart | undefined;
  const renews: object[] = [];
  let asked = 0;
  let at: () => unknown = () => null;
  const script: TestScript = async (call) => {
    const send = (text: string) => call.output(Buffer.from(text));
    const given = startOf(call);
    if ("where" in given) {
      asked++;
      send(JSON.stringify({ at: { instance: at() } }));
      return { kind: "returned" };
    }
    const isResumed = "resume" in given;
    first ??= given;
    const onRenew = (renew: object) => void renews.push(renew);
    const running = fakeBalancer(first, { input: call.input, send, isResumed, onRenew });
    const returned = running.then((): Outcome => ({ kind: "returned" }));
    return isResumed ? returned : Promise.race([returned, over.promise]);
  };
  const { box } = await balancerBox({ script });
  const ran = await newCli();
  await lbStart(ran.cli, startOptions(ran, box));
  const token = parseInvocationToken(
    (await ran.cli.context.read()).functions["web"]?.invocationToken ?? assert.fail(),
  );
  assert.deepEqual(
    renews,
    [{ token, runtimeMs: POLICY.function.runtimeMs }],
    "what it needs to start the next one",
  );
  assert.equal(await lbStatus(ran.cli, "web", STATUS), 0);
  assert.equal(asked, 0);
  over.resolve({ kind: "returned" });
  const ended = { code: "already-ended" };
  await assert.rejects(lbStatus(ran.cli, "web", STATUS), ended);
  // Words that are none of ours, and a box that names another one each time.
  at = () => 5;
  await assert.rejects(lbStatus(ran.cli, "web", STATUS), ended);
  asked = 0;
  at = newInstanceId;
  await assert.rejects(lbStatus(ran.cli, "web", STATUS), { code: "bad-token" });
  assert.equal(asked, 3);
  using client = new BoxClient({ address: box.address, dial: directDial });
  const next = await client.exec(token, { args: [{ resume: true }] });
  at = () => next;
  asked = 0;
  assert.equal(await lbStatus(ran.cli, "web", STATUS), 0);
  assert.equal((await ran.cli.context.read()).balancers["web"]?.instance, next);
  assert.equal(await lbStatus(ran.cli, "web", STATUS), 0);
  assert.equal(asked, 1);
});

test("lb status: what a hostile box reports is refused or shown without harm", async () => {
  const report = { ...(await aReport()), id: 0 };
  const replica = report.replicas[0] ?? assert.fail();
  const bad: object[] = [
    { report: { ...report, address: "evil" } },
    { report: { ...report, replicas: Array.from({ length: 129 }, () => replica) } },
    { report: { ...report, replicas: [{ ...replica, bytesPerSecond: -1 }] } },
    { report: { ...report, replicas: [{ ...replica, bytesPerSecond: 1e300 }] } },
    { report: { ...report, replicas: [{ ...replica, state: "__proto__" }] } },
    { report: { ...report, replicas: [{ ...replica, clients: Array.from({ length: 65 }, () => ({})) }] } },
    { report: { ...report, introductionPoints: [{ relay: "\u001b[31m", introductions: 1 }] } },
    { event: { kind: "replica-lost", id: 1, box: "b", reason: "x".repeat(2001), atMs: 1 } },
    { report, event: {} },
    { reports: [] },
  ];
  for (const answer of bad) {
    const ran = await watchedBy(answer);
    await assert.rejects(lbStatus(ran.cli, "web", STATUS), { code: "bad-answer" }, JSON.stringify(answer));
  }
  const shown = await watchedBy({
    report: { ...report, replicas: [{ ...replica, box: "\u001b]0;owned\u0007\u202eevil" }] },
  });
  assert.equal(await lbStatus(shown.cli, "web", STATUS), 0);
  for (const control of ["\u001b", "\u0007", "\u202e"]) assert.ok(!shown.out().includes(control));
});

/** A load balancer that starts as it should, and answers every question with `answer`, whose report gets the right id. */
async function watchedBy(answer: object): Promise<Ran> {
  const script: TestScript = async (call) => {
    const start = startOf(call);
    let isStarted = false;
    const relay = new PassThrough({ objectMode: true });
    void fakeBalancer(start, {
      input: relay as AsyncIterable<Uint8Array>,
      send: (text) => {
        isStarted ||= text.startsWith('{"started"');
        call.output(Buffer.from(text));
      },
    });
    for await (const message of call.input) {
      if (!isStarted) {
        relay.write(message);
        continue;
      }
      if (Buffer.from(message).includes('"renew"')) continue;
      const { watch } = JSON.parse(Buffer.from(message).toString()) as { watch: { id: number } };
      const text = JSON.stringify(answer, (key, value: unknown) =>
        key === "id" && value === 0 ? watch.id : value,
      );
      call.output(Buffer.from(text));
    }
    return { kind: "returned" };
  };
  const { box } = await balancerBox({ script });
  const ran = await newCli();
  await lbStart(ran.cli, startOptions(ran, box));
  return ran;
}

async function aReport(): Promise<{ replicas: object[] } & Record<string, unknown>> {
  const fake = await balancerBox();
  const ran = await newCli({ json: true });
  await lbStart(ran.cli, startOptions(ran, fake.box));
  await lbStatus(ran.cli, "web", STATUS);
  const { name: _, at: __, box: ___, ...report } = lastJson(ran);
  return report as { replicas: object[] } & Record<string, unknown>;
}

test("lb scale: wrong input, settings that are not taken", async () => {
  const fake = await balancerBox();
  const ran = await newCli();
  await lbStart(ran.cli, startOptions(ran, fake.box));
  await assert.rejects(lbScale(ran.cli, "web", {}), { code: "usage" });
  await assert.rejects(lbScale(ran.cli, "web", { low: "x" }), { code: "usage" });
  assert.equal(await lbScale(ran.cli, "web", { high: "rate=2MiB/s", choice: "random" }), 0);
  assert.match(ran.out(), /random\nmore at {3}2 MiB\/s\nless at {3}below 819 KiB\/s/);
});
