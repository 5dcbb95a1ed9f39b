// `bento lb` against boxes that keep to the protocol, and against boxes that lie: in this process, without Tor or sandbox.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { PassThrough, Writable } from "node:stream";
import { afterEach, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fakeBalancer } from "../../../test/support/fake-balancer/balancer.ts";
import type { Outcome } from "../../wire/api.ts";
import {
  LoadBalancerLimits,
  type LoadBalancerStart,
  type SiteIndex,
  type StandbyPlace,
  type StandbyReserve,
} from "../../wire/loadbalancer.ts";
import {
  newInstanceId,
  newInvocationToken,
  newShutdownToken,
  parseInvocationToken,
} from "../../wire/token.ts";
import { BoxClient, directDial } from "../client.ts";
import { Context } from "../context.ts";
import { readOnionKey } from "../loadbalancer/onion-key.ts";
import { RelayDialers } from "../relay-dial.ts";
import { TEST_POLICY, TestBox, type TestCall, type TestScript } from "../test-box.ts";
import type { Cli } from "./cli.ts";
import { Io } from "./io.ts";
import { type LbStartOptions, lbStart, saveStandby } from "./lb.ts";
import { lbResume } from "./lb-resume.ts";
import { lbStatus } from "./lb-status.ts";
import { lbScale, lbStop } from "./lb-stop.ts";
import { shutdown } from "./owner.ts";

const FAKE = path.resolve("test/support/fake-balancer");
const MIB = 2 ** 20;
const POLICY = {
  ...TEST_POLICY,
  bento: { boxes: ["self", "*"], functions: 64, invocations: 1000, sessions: 32, depth: 2, bytes: 64 * MIB },
};

const cleanUps: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).toReversed()) await cleanUp();
});

interface Ran {
  readonly cli: Cli;
  readonly dir: string;
  readonly out: () => string;
  readonly err: () => string;
  readonly abort: AbortController;
}

async function newCli(options: { json?: boolean; dir?: string } = {}): Promise<Ran> {
  const dir = options.dir ?? (await mkdtemp(path.join(tmpdir(), "bento-lb-")));
  if (!options.dir) cleanUps.push(() => rm(dir, { recursive: true }));
  const site = path.join(dir, "web");
  await mkdir(site, { recursive: true });
  await writeFile(path.join(site, "index.html"), "<h1>hello</h1>");
  const text = { out: "", err: "" };
  const sink = (key: "out" | "err") =>
    new Writable({
      write(chunk: Buffer, _, done) {
        text[key] += chunk.toString();
        done();
      },
    });
  const abort = new AbortController();
  const io = new Io({
    stdin: new PassThrough(),
    stdout: sink("out"),
    stderr: sink("err"),
    json: options.json ?? false,
    env: {},
  });
  const relays = new RelayDialers();
  const cli: Cli = {
    io,
    context: new Context(path.join(dir, "state")),
    env: {},
    signal: abort.signal,
    relays,
  };
  return { cli, dir, out: () => text.out, err: () => text.err, abort };
}

interface FakeBox {
  readonly box: TestBox;
  readonly read: { start: LoadBalancerStart; site: SiteIndex | undefined; packages: string[] }[];
  /** Ends what runs, as a crash does. */
  readonly crash: () => void;
}

function startOf({ start: { invocation } }: TestCall): LoadBalancerStart {
  return ("args" in invocation ? invocation.args[0] : undefined) as unknown as LoadBalancerStart;
}

/** A box whose every function is the fake load balancer. */
async function balancerBox(
  options: {
    standby?: () => StandbyPlace;
    reserves?: () => readonly StandbyReserve[];
    script?: TestScript;
  } = {},
): Promise<FakeBox> {
  const read: FakeBox["read"] = [];
  const crashed = Promise.withResolvers<void>();
  const script: TestScript = async (call) => {
    const start = startOf(call);
    const running = fakeBalancer(start, {
      input: call.input,
      send: (text) => call.output(Buffer.from(text)),
      onStart: (one) => void read.push(one),
      ...(options.standby ? { standby: options.standby() } : {}),
      ...(options.reserves ? { reserves: options.reserves() } : {}),
    });
    const how = await Promise.race([running, crashed.promise.then(() => "crashed")]);
    if (how === "crashed") return { kind: "failed", name: "Error", message: "boom", traceback: "" };
    for (const token of box.installed) box.remove(token);
    return { kind: "returned" };
  };
  const box = await TestBox.start({ script: options.script ?? script, policy: POLICY });
  cleanUps.push(() => box[Symbol.asyncDispose]());
  return { box, read, crash: () => crashed.resolve() };
}

function startOptions(ran: Ran, box: TestBox, more: Partial<LbStartOptions> = {}): LbStartOptions {
  return {
    box: box.address,
    direct: true,
    site: path.join(ran.dir, "web"),
    boxes: ["self"],
    port: 80,
    balancerFn: FAKE,
    replicaFn: "hello",
    ...more,
  };
}

const STATUS = { interval: 0.1, direct: true } as const;
const lines = (text: string) => text.trim().split("\n");
const lastJson = (ran: Ran) => JSON.parse(lines(ran.out()).at(-1) ?? "") as Record<string, unknown>;

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
  const { makeOnionKey } = await import("../loadbalancer/onion-key.ts");
  const key = await makeOnionKey(path.join(ran.dir, "keys"));
  const args = [{ ...STANDBY_START, key: Buffer.from(key.secret).toString("base64") }];
  const { package: pack } = await (await import("../package-loader.ts")).loadPackage(FAKE);
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

/** Waits for something that happens in other tasks. */
async function until(isTrue: () => boolean | Promise<boolean>): Promise<void> {
  for (const signal = AbortSignal.timeout(20_000); !(await isTrue()); ) {
    signal.throwIfAborted();
    await sleep(10);
  }
}
