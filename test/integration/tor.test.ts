// The control client, SOCKS, onion services and exit addresses against real tor, in one private network.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { after, before, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { allows, parseExitPolicy } from "../../src/base/exit-policy.ts";
import { parseIp } from "../../src/base/ip-address.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import type { ControlEvent } from "../../src/tor/control-event.ts";
import { ExitAddressDialer } from "../../src/tor/exit-address.ts";
import { TorFirewall } from "../../src/tor/firewall/firewall.ts";
import { addOnionService, startSingleHopService } from "../../src/tor/onion-service.ts";
import { TorProcess } from "../../src/tor/process.ts";
import { socksConnect } from "../../src/tor/socks.ts";
import { DnsServer } from "../support/dns-server.ts";

const LATENCY_MS = 20;
const BOX_PORT = 5577;

let temp: string;
let net: Testnet;

before(async () => {
  temp = await mkdtemp(join(tmpdir(), "bento-tor-"));
  net = await Testnet.up({
    dir: join(temp, "net"),
    relays: 2,
    exits: 2,
    latencyMs: LATENCY_MS,
    extraTorrc: ({ name, address }) =>
      name === "e1"
        ? [`ExitPolicy accept ${address}:${String(BOX_PORT)}`, "ExitPolicy reject *:*"]
        : undefined,
  });
});

after(async () => {
  await net?.down();
  await rm(temp, { recursive: true, force: true });
});

const deadline = () => AbortSignal.timeout(60_000);

async function echoAt(address: string, port = 0) {
  const server = createServer((socket) => {
    socket.on("error", () => socket.destroy());
    socket.pipe(socket);
  });
  server.listen(port, address);
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.close();
    },
  };
}

/** What comes back first. */
async function answer(stream: Duplex): Promise<string> {
  const [bytes] = (await once(stream, "data", { signal: deadline() })) as [Buffer];
  return bytes.toString();
}

const isolation = () => ({ username: "test", password: crypto.randomUUID() });

test("socksConnect: through an exit, bytes sent with the request come back after one round trip", async (t) => {
  await using echo = await echoAt(net.plan.webAddress);
  const target = { proxy: net.socks(), host: net.plan.webAddress, port: echo.port, isolation: isolation() };
  // The first stream of an isolation group builds the circuit; the others are on it.
  (await socksConnect({ ...target, signal: deadline() })).destroy();
  const time = async (optimistic: boolean) => {
    const start = performance.now();
    const stream = await socksConnect({
      ...target,
      optimisticData: optimistic ? Buffer.from("hello") : undefined,
      signal: deadline(),
    });
    if (!optimistic) stream.write("hello");
    assert.equal(await answer(stream), "hello");
    stream.destroy();
    return performance.now() - start;
  };
  const waiting = await time(false);
  const optimistic = await time(true);
  t.diagnostic(
    `exit stream, ${String(LATENCY_MS)} ms links: ${waiting.toFixed(0)} ms, optimistic ${optimistic.toFixed(0)} ms`,
  );
  assert.ok(optimistic < 0.8 * waiting);
});

test("socksConnect: exits ask the network's own DNS server; a refusal is told", async (t) => {
  if (process.getuid?.() !== 0) {
    t.skip("port 53 is for root");
    return;
  }
  await using echo = await echoAt(net.plan.webAddress);
  await using _dns = await DnsServer.start(
    (name) => (name === "web.test" ? [net.plan.webAddress] : undefined),
    { host: net.plan.dnsAddress, port: 53 },
  );
  const to = async (host: string) =>
    socksConnect({
      proxy: net.socks(),
      host,
      port: echo.port,
      isolation: isolation(),
      optimisticData: Buffer.from("x"),
      signal: deadline(),
    });
  assert.equal(await answer(await to("web.test")), "x");
  await assert.rejects(to("absent.test"), { name: "BentoError" });
  await assert.rejects(to(`${"a".repeat(56)}.onion`), { code: "tor-onion-bad-address" });
});

test("ControlClient: exit policy, events and circuits of a real tor", async () => {
  await using exit = await net.control("e1");
  const policy = parseExitPolicy((await exit.getInfo(["exit-policy/full"]))["exit-policy/full"]);
  const own = parseIp(net.node("e1").address);
  assert.ok(own);
  assert.equal(allows(policy, own, BOX_PORT), true);
  assert.equal(allows(policy, own, BOX_PORT + 1), false);
  await using client = await net.control("c0");
  const events: ControlEvent[] = [];
  await using _subscription = await client.subscribe(["CIRC"], (event) => events.push(event));
  const path = ["r0", "r1", "e0"].map((name) => net.node(name).fingerprint);
  const id = await client.extendCircuit(path, { signal: deadline() });
  assert.ok(
    events.some(
      (event) =>
        event.kind === "CIRC" &&
        event.circuitId === id &&
        event.status === "BUILT" &&
        event.path.join() === path.join(),
    ),
  );
  await client.closeCircuit(id);
  await assert.rejects(client.extendCircuit(["0".repeat(40)], { signal: deadline() }), {
    name: "TorRefusal",
    status: 552,
  });
  await assert.rejects(client.setConf([["NoSuchOption", 'a "b"']]), { status: 552 });
  assert.deepEqual(await client.getConf(["nickname", "ExitPolicy"]), { nickname: ["c0"], ExitPolicy: [] });
});

test("addOnionService: reachable as soon as it is published, same address from the kept key", async (t) => {
  await using echo = await echoAt("127.0.0.1");
  const keyPath = join(temp, "onion.key");
  const options = {
    ports: [{ virtualPort: 80, target: `127.0.0.1:${String(echo.port)}` }],
    keyPath,
    signal: deadline(),
  };
  await using control = await net.control("r0");
  let address: string;
  {
    const start = performance.now();
    await using service = await addOnionService(control, options);
    const published = performance.now();
    address = service.address;
    const iso = isolation();
    const dial = async () =>
      socksConnect({
        proxy: net.socks(),
        host: service.address,
        port: 80,
        isolation: iso,
        optimisticData: Buffer.from("hi"),
        signal: deadline(),
      });
    const stream = await dial();
    assert.equal(await answer(stream), "hi");
    const first = performance.now();
    assert.equal(await answer(await dial()), "hi");
    const warm = performance.now() - first;
    t.diagnostic(
      `onion: published ${(published - start).toFixed(0)} ms, first ${(first - published).toFixed(0)} ms, warm ${warm.toFixed(0)} ms`,
    );
  }
  assert.equal((await stat(keyPath)).mode & 0o777, 0o600);
  await using again = await addOnionService(control, options);
  assert.equal(again.address, address);
});

test("startSingleHopService: reachable, optimistic data saves a round trip, key survives a restart", async (t) => {
  await using echo = await echoAt("127.0.0.1");
  const options = {
    dir: join(temp, "single"),
    ports: [{ virtualPort: 80, target: `127.0.0.1:${String(echo.port)}` }],
    torrc: net.joinTorrc,
    signal: deadline(),
  };
  let address: string;
  {
    const start = performance.now();
    await using service = await startSingleHopService(options);
    const published = performance.now();
    address = service.address;
    const target = {
      proxy: net.socks(),
      host: address,
      port: 80,
      isolation: isolation(),
      signal: deadline(),
    };
    (await socksConnect(target)).destroy();
    const connected = performance.now();
    const stream = await socksConnect(target);
    stream.write("a");
    await answer(stream);
    const waiting = performance.now() - connected;
    const before = performance.now();
    await answer(await socksConnect({ ...target, optimisticData: Buffer.from("b") }));
    const optimistic = performance.now() - before;
    t.diagnostic(
      `single-hop onion: published ${(published - start).toFixed(0)} ms, first ${(connected - published).toFixed(0)} ms, ` +
        `warm ${waiting.toFixed(0)} ms, optimistic ${optimistic.toFixed(0)} ms`,
    );
  }
  await using again = await startSingleHopService(options);
  assert.equal(again.address, address);
});

test("ExitAddressDialer: reaches the box's port at a relay that accepts nothing else, and leaves others' streams alone", async (t) => {
  const exit = net.node("e1");
  await using box = await echoAt(exit.address, BOX_PORT);
  await using other = await echoAt(net.plan.webAddress);
  await using control = await net.control("c0");
  await using dialer = new ExitAddressDialer(control, net.socks());
  const target = { fingerprint: exit.fingerprint, address: exit.address, port: box.port };
  const options = { isolation: isolation(), optimisticData: Buffer.from("to the box"), signal: deadline() };
  const start = performance.now();
  const [first, foreign] = await Promise.all([
    dialer.connect(target, options),
    socksConnect({
      proxy: net.socks(),
      host: net.plan.webAddress,
      port: other.port,
      isolation: isolation(),
      optimisticData: Buffer.from("foreign"),
      signal: deadline(),
    }),
  ]);
  assert.equal(await answer(first), "to the box");
  assert.equal(await answer(foreign), "foreign");
  const warm = performance.now();
  assert.equal(await answer(await dialer.connect(target, options)), "to the box");
  t.diagnostic(
    `exit address: first ${(warm - start).toFixed(0)} ms, warm ${(performance.now() - warm).toFixed(0)} ms`,
  );
  assert.deepEqual((await control.getConf(["__LeaveStreamsUnattached"])).__LeaveStreamsUnattached, ["0"]);
  const streams = (await control.getInfo(["stream-status"]))["stream-status"];
  assert.match(
    streams,
    new RegExp(`SUCCEEDED [0-9]+ ${exit.address}\\.${exit.fingerprint}\\.exit:${String(BOX_PORT)}`, "u"),
  );
});

test("ExitAddressDialer: two of them at one tor, many streams at once: each reaches the relay, none goes elsewhere", async () => {
  const exit = net.node("e1");
  await using box = await echoAt(exit.address, BOX_PORT);
  const target = { fingerprint: exit.fingerprint, address: exit.address, port: box.port };
  const run = async (count: number) => {
    await using control = await net.control("c0");
    await using dialer = new ExitAddressDialer(control, net.socks());
    const options = { isolation: isolation(), optimisticData: Buffer.from("x"), signal: deadline() };
    await Promise.all(
      Array.from({ length: count }, async () => {
        const stream = await dialer.connect(target, options);
        assert.equal(await answer(stream), "x");
        stream.destroy();
      }),
    );
  };
  await Promise.all([run(4), run(4), run(1), run(1)]);
  await using control = await net.control("c0");
  assert.deepEqual((await control.getConf(["__LeaveStreamsUnattached"])).__LeaveStreamsUnattached, ["0"]);
});

test("ExitAddressDialer: uses a mapped address where the relay's summary has the port", async () => {
  const exit = net.node("e0");
  await using box = await echoAt(exit.address);
  await using control = await net.control("c0");
  await using dialer = new ExitAddressDialer(control, net.socks());
  const stream = await dialer.connect(
    { fingerprint: exit.fingerprint, address: exit.address, port: box.port },
    { isolation: isolation(), optimisticData: Buffer.from("mapped"), signal: deadline() },
  );
  assert.equal(await answer(stream), "mapped");
  assert.equal((await control.getInfo(["address-mappings/control"]))["address-mappings/control"], "");
});

test("ExitAddressDialer: a relay that does not accept the port refuses, and the error says so", async () => {
  const exit = net.node("e1");
  await using control = await net.control("c0");
  await using dialer = new ExitAddressDialer(control, net.socks());
  await assert.rejects(
    dialer.connect(
      { fingerprint: exit.fingerprint, address: exit.address, port: BOX_PORT + 1 },
      { isolation: isolation(), signal: deadline() },
    ),
    { name: "BentoError" },
  );
});

test("TorFirewall: tor's own streams to directories go on, and no guard is given up for them", async () => {
  const dir = join(temp, "bootstrapping");
  await using daemon = await TorProcess.start({
    dir,
    torrc: [
      ...net.joinTorrc,
      `DataDirectory ${join(dir, "data")}`,
      "Log notice stdout",
      "SocksPort 0",
      // So that all of its bootstrapping comes under the firewall: one directory stream after the other on one circuit.
      "DisableNetwork 1",
    ].join("\n"),
  });
  await using control = await daemon.connect();
  const own = new Set<string>();
  const found: string[] = [];
  await using _subscription = await control.subscribe(["STREAM"], (event) => {
    if (event.kind !== "STREAM") return;
    if (event.status === "NEW" && event.purpose?.startsWith("DIR_") === true) own.add(event.streamId);
    if (own.has(event.streamId) && event.status !== "SENTCONNECT") found.push(event.status);
  });
  await using _firewall = await TorFirewall.open({
    control: await daemon.connect(),
    connect: async () => daemon.connect(),
    socks: net.socks(),
    socketDir: temp,
    firstHop: "any",
    clock: systemClock,
  });
  await control.setConf([["DisableNetwork", "0"]]);
  await control.awaitBootstrap({ signal: deadline() });
  // Consensus, certificates, microdescriptors.
  assert.ok(own.size >= 3, String(own.size));
  assert.deepEqual(new Set(found), new Set(["NEW", "SUCCEEDED", "CLOSED"]));
  const guards = (await control.getInfo(["entry-guards"]))["entry-guards"];
  assert.match(guards, / up$/mu);
  assert.doesNotMatch(guards, / down$/mu);
});
