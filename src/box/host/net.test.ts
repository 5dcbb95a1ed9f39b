import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { networkInterfaces } from "node:os";
import { test } from "node:test";
import { DnsServer } from "../../../test/support/dns-server.ts";
import { systemClock, TestClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { Egress, type EgressOptions } from "./egress.ts";
import { IDLE_MS } from "./metered-connection.ts";
import { ATTEMPT_BYTES, NetBroker, type NetBrokerOptions } from "./net.ts";
import { NameResolver } from "./resolver.ts";
import type { InstanceNet } from "./services.ts";

const never = new AbortController().signal;

interface Listener extends AsyncDisposable {
  readonly port: number;
  /** Connections that arrived. */
  readonly arrived: number;
  readonly sockets: readonly Socket[];
}

/** A real server on loopback. Greets each connection with a byte, so that a test sees whether it got through. */
async function listen(
  host: string,
  onSocket: (socket: Socket) => void = (socket) => socket.write("!"),
): Promise<Listener> {
  const sockets: Socket[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined);
    onSocket(socket);
  });
  server.listen(0, host);
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    sockets,
    get arrived() {
      return sockets.length;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const OPEN: EgressOptions = {
  exit: ["accept *:*"],
  privateNetworksAllowed: [],
  ownAddresses: [],
  ownPorts: [],
};
const EVERY_PRIVATE = ["0.0.0.0/0", "::/0"];

interface Setup {
  readonly egress?: Partial<EgressOptions>;
  readonly allow?: readonly string[];
  readonly connections?: number;
  readonly bytes?: number;
  readonly dns?: DnsServer;
  readonly broker?: Partial<NetBrokerOptions>;
}

function brokerFor(setup: Setup): NetBroker {
  // Nothing listens at the discard port: a name that must not be asked for cannot be answered either.
  const server = setup.dns?.address ?? { kind: "tcp", host: "127.0.0.1", port: 9 };
  const broker = new NetBroker({
    resolver: new NameResolver([server], systemClock),
    clock: systemClock,
    ...setup.broker,
  });
  broker.setEgress(new Egress({ ...OPEN, ...setup.egress }));
  return broker;
}

function netFor(setup: Setup = {}, broker = brokerFor(setup)): InstanceNet {
  const { allow = ["*:*"], connections = 8, bytes = 2 ** 20 } = setup;
  return broker.forInstance({ allow, connections, bytes });
}

function hasCode(code: string, message?: RegExp) {
  return (error: unknown) =>
    error instanceof BentoError &&
    error.code === code &&
    (message === undefined || message.test(error.message));
}

/** Connects and waits for the listener's greeting. */
async function reach(net: InstanceNet, host: string, port: number): Promise<string> {
  const connection = await net.connect({ host, port }, { signal: never });
  const [chunk] = (await once(connection, "data")) as [Buffer];
  connection.destroy();
  return chunk.toString();
}

async function isRefused(net: InstanceNet, host: string, port: number): Promise<void> {
  await assert.rejects(net.connect({ host, port }, { signal: never }), hasCode("net-refused"), host);
}

// Each means 127.0.0.1, ::1 or "this machine" to some program.
const LOOPBACK_SPELLINGS = [
  "127.0.0.1",
  "127.0.0.1.",
  "127.1",
  "127.0.1",
  "2130706433",
  "0x7f000001",
  "0x7f.1",
  "0x7F.0x0.0x0.0x1",
  "017700000001",
  "0177.0.0.01",
  "\uff11\uff12\uff17.0.0.1",
  "127\u30020\u30020\u30021",
  "\u2460\u2461\u2466.0.0.1",
  "::ffff:127.0.0.1",
  "[::ffff:127.0.0.1]",
  "::ffff:7f00:1",
  "0:0:0:0:0:ffff:7f00:0001",
  "127.0.0.2",
  "127.255.255.254",
];
const LOOPBACK6_SPELLINGS = ["::1", "[::1]", "0:0:0:0:0:0:0:1"];
/** Packets to these may end at 127.0.0.1 through a translator, tunnel or the kernel; or the text is no host at all. */
const NEVER = [
  "0.0.0.0",
  "0",
  "::",
  "[::]",
  "64:ff9b::7f00:1",
  "64:ff9b::127.0.0.1",
  "2002:7f00:1::",
  "2002:7f00:1::1",
  "::127.0.0.1",
  "::ffff:0:127.0.0.1",
  "2001:0:0:0:0:0:80ff:fffe",
  "::1%lo",
  "fe80::1%lo",
  "localhost",
  "LOCALHOST.",
  "a.localhost",
  "box.local",
  "expyuzz4wqqyqhjn.onion",
  "127.0.0.1:80",
  "127.0.0.1 ",
  " 127.0.0.1",
  "127.0.0.1\0.example.org",
  "127.0.0.1#.example.org",
  "user@127.0.0.1",
  "127%2e0.0.1",
  "1.2.3.4.5",
  "256.256.256.256",
  "0x1ffffffff",
  "",
  ".",
  "a..b",
  "x".repeat(256),
];

test("NetBroker: no spelling of a loopback address reaches a listener there", async () => {
  await using four = await listen("0.0.0.0");
  await using six = await listen("::1");
  await using net = netFor();
  for (const host of [...LOOPBACK_SPELLINGS, ...NEVER]) await isRefused(net, host, four.port);
  for (const host of [...LOOPBACK6_SPELLINGS, ...NEVER]) await isRefused(net, host, six.port);
  assert.equal(four.arrived + six.arrived, 0);
});

test("NetBroker: the same spellings do reach it where the operator allows that network", async () => {
  await using four = await listen("0.0.0.0");
  await using six = await listen("::1");
  await using net = netFor({ egress: { privateNetworksAllowed: ["127.0.0.0/8", "::1/128"] } });
  for (const host of LOOPBACK_SPELLINGS) assert.equal(await reach(net, host, four.port), "!", host);
  for (const host of LOOPBACK6_SPELLINGS) assert.equal(await reach(net, host, six.port), "!", host);
  assert.equal(four.arrived, LOOPBACK_SPELLINGS.length);
  assert.equal(six.arrived, LOOPBACK6_SPELLINGS.length);
  // Those that are no address of an allowed network stay refused.
  for (const host of NEVER.filter((host) => !host.startsWith("64:ff9b")))
    await isRefused(net, host, four.port);
});

test("NetBroker: every special-purpose range is refused, the first and last address of each", async () => {
  await using net = netFor();
  const ranges = [
    ["0.0.0.0", "0.255.255.255"],
    ["10.0.0.0", "10.255.255.255"],
    ["100.64.0.0", "100.127.255.255"],
    ["169.254.0.0", "169.254.169.254"],
    ["172.16.0.0", "172.31.255.255"],
    ["192.168.0.0", "192.168.255.255"],
    ["198.18.0.0", "198.19.255.255"],
    ["224.0.0.0", "255.255.255.255"],
    ["fc00::", "fdff:ffff::1"],
    ["fe80::", "febf:ffff::1"],
    ["ff00::", "ff02::1"],
    ["2001:db8::", "2001:db8:ffff::1"],
    ["::ffff:10.0.0.1", "::ffff:192.168.0.1"],
    ["64:ff9b::10.0.0.1", "2002:c0a8:1::1"],
  ].flat();
  for (const host of ranges) await isRefused(net, host, 80);
});

test("NetBroker: a name is refused by the addresses it resolves to, in either family and any spelling", async () => {
  const answers: Record<string, readonly string[]> = {
    "four.example": ["127.0.0.1"],
    "six.example": ["::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "zero.example": ["0.0.0.0"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "private.example": ["10.0.0.1", "fd00::1"],
  };
  await using four = await listen("0.0.0.0");
  await using dns = await DnsServer.start((name) => answers[name]);
  await using net = netFor({ dns });
  for (const host of Object.keys(answers)) {
    await assert.rejects(
      net.connect({ host, port: four.port }, { signal: never }),
      (error) =>
        hasCode("net-refused", /not public|machine's own/)(error) &&
        // The function must not learn what a private name resolves to.
        error instanceof Error &&
        !/127|::1|10\.0|fd00/.test(error.message),
      host,
    );
  }
  assert.equal(four.arrived, 0);
  // The control: the same name and listener, with the network allowed.
  await using allowed = netFor({ dns, egress: { privateNetworksAllowed: ["127.0.0.0/8"] } });
  assert.equal(await reach(allowed, "FOUR.example.", four.port), "!");
  assert.equal(await reach(allowed, "mapped.example", four.port), "!");
});

test("NetBroker: asks DNS once and connects to what was checked, whatever the name says next (rebinding)", async () => {
  await using target = await listen("127.0.0.1");
  // First a public face, then the victim: every address but 127.0.0.1 is refused here.
  await using dns = await DnsServer.start((_, _type, count) => (count === 0 ? ["127.0.0.1"] : ["127.0.0.9"]));
  const egress = { privateNetworksAllowed: ["127.0.0.1/32"] };
  await using net = netFor({ dns, egress });
  assert.equal(await reach(net, "rebind.example", target.port), "!");
  assert.deepEqual([...dns.questions].sort(), ["A rebind.example", "AAAA rebind.example"]);
  // The second connection asks anew and is judged anew.
  await isRefused(net, "rebind.example", target.port);
  assert.equal(target.arrived, 1);
});

test("NetBroker: skips a name's forbidden addresses and uses an allowed one", async () => {
  await using target = await listen("127.0.0.1");
  await using dns = await DnsServer.start(() => ["10.0.0.1", "127.0.0.9", "127.0.0.1", "fd00::1"]);
  await using net = netFor({ dns, egress: { privateNetworksAllowed: ["127.0.0.1/32"] } });
  assert.equal(await reach(net, "many.example", target.port), "!");
});

test("NetBroker: tries the next address when one refuses", async () => {
  await using target = await listen("127.0.0.3");
  await using dns = await DnsServer.start(() => ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"]);
  await using net = netFor({ dns, egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  assert.equal(await reach(net, "many.example", target.port), "!");
});

test("NetBroker: ports of relay and box are closed on every address of the machine, whatever is allowed", async () => {
  await using relay = await listen("::");
  await using other = await listen("::");
  await using dns = await DnsServer.start(() => ["127.0.0.1", "::1"]);
  const egress = { privateNetworksAllowed: EVERY_PRIVATE, ownPorts: [relay.port] };
  await using net = netFor({ dns, egress });
  const interfaces = Object.values(networkInterfaces()).flatMap((entries) => entries ?? []);
  const addresses = interfaces.map(({ address }) => address).filter((address) => !address.startsWith("fe80"));
  assert.ok(addresses.includes("127.0.0.1"));
  const hosts = [...addresses, "127.8.8.8", "2130706433", "::ffff:127.0.0.1", "0.0.0.0", "::", "own.example"];
  for (const host of hosts) {
    await assert.rejects(
      net.connect({ host, port: relay.port }, { signal: never }),
      hasCode("net-refused", /belongs to the relay or the box/),
      host,
    );
  }
  assert.equal(relay.arrived, 0);
  // The control: another port of the same addresses is reached.
  for (const host of hosts) assert.equal(await reach(net, host, other.port), "!", host);
});

test("NetBroker: the machine's public addresses are closed altogether, also behind NAT", async () => {
  await using net = netFor({ egress: { ownAddresses: ["198.41.0.4", "2001:500:2::c"] } });
  for (const host of ["198.41.0.4", "::ffff:198.41.0.4", "64:ff9b::198.41.0.4", "2001:500:2::c"]) {
    await assert.rejects(
      net.connect({ host, port: 22 }, { signal: never }),
      hasCode("net-refused", /this machine's own/),
      host,
    );
  }
});

test("NetBroker: the relay's exit policy decides by address and port, in both families", async () => {
  await using four = await listen("127.0.0.1");
  await using six = await listen("::1");
  const exit = [
    `reject 127.0.0.1:1-${four.port - 1}`,
    `accept 127.0.0.1:${four.port}`,
    "reject6 *:*",
    "reject *:*",
  ];
  await using net = netFor({ egress: { exit, privateNetworksAllowed: EVERY_PRIVATE } });
  assert.equal(await reach(net, "127.0.0.1", four.port), "!");
  assert.equal(await reach(net, "::ffff:127.0.0.1", four.port), "!");
  for (const [host, port] of [
    ["127.0.0.1", four.port - 1],
    ["127.0.0.1", 25],
    ["127.0.0.2", four.port],
    ["::1", six.port],
  ] as const) {
    await assert.rejects(
      net.connect({ host, port }, { signal: never }),
      hasCode("net-refused", /exit policy/),
      host,
    );
  }
  assert.equal(six.arrived, 0);
});

test("NetBroker: refuses everything while the exit policy is unknown", async () => {
  await using target = await listen("127.0.0.1");
  const broker = brokerFor({ egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  await using net = netFor({}, broker);
  assert.equal(await reach(net, "127.0.0.1", target.port), "!");
  broker.setEgress(undefined);
  await assert.rejects(
    net.connect({ host: "127.0.0.1", port: target.port }, { signal: never }),
    hasCode("net-refused", /not known/),
  );
});

test("NetBroker: the manifest's destinations are enforced, before any name is asked for", async () => {
  await using target = await listen("127.0.0.1");
  await using dns = await DnsServer.start(() => ["127.0.0.1"]);
  const { port } = target;
  await using net = netFor({
    dns,
    allow: [`good.example:${port}`, `*.wild.example:${port}`, `[::ffff:127.0.0.1]:${port}`],
    egress: { privateNetworksAllowed: EVERY_PRIVATE },
  });
  for (const host of [
    "good.example",
    "GOOD.example.",
    "a.wild.example",
    "a.b.wild.example",
    "127.0.0.1",
    "127.1",
  ]) {
    assert.equal(await reach(net, host, port), "!", host);
  }
  const asked = dns.questions.length;
  for (const host of [
    "bad.example",
    "wild.example",
    "xgood.example",
    "good.example.org",
    "127.0.0.2",
    "a.good.example",
  ]) {
    await assert.rejects(
      net.connect({ host, port }, { signal: never }),
      hasCode("net-refused", /manifest/),
      host,
    );
  }
  await assert.rejects(
    net.connect({ host: "good.example", port: port - 1 }, { signal: never }),
    hasCode("net-refused"),
  );
  assert.equal(dns.questions.length, asked);
});

test("NetBroker: refuses ports outside of 1 to 65535", async () => {
  await using net = netFor({ egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  for (const port of [0, -1, 65536, 1.5, Number.NaN]) await isRefused(net, "127.0.0.1", port);
});

test("NetBroker: an instance holds n connections and not n+1, until one closes", async () => {
  await using target = await listen("127.0.0.1");
  const setup = { connections: 2, egress: { privateNetworksAllowed: EVERY_PRIVATE } };
  const broker = brokerFor(setup);
  await using net = netFor(setup, broker);
  const to = { host: "127.0.0.1", port: target.port };
  const [first] = await Promise.all([net.connect(to, { signal: never }), net.connect(to, { signal: never })]);
  await assert.rejects(net.connect(to, { signal: never }), hasCode("net-limit"));
  assert.equal(broker.connections, 2);
  first.destroy();
  await once(first, "close");
  await net.connect(to, { signal: never });
  await isRefused(net, "10.0.0.1:", 80);
  assert.equal(broker.connections, 2);
});

test("NetBroker: all instances together hold n connections and not n+1", async () => {
  await using target = await listen("127.0.0.1");
  const broker = brokerFor({
    broker: { connectionsTotalMax: 2 },
    egress: { privateNetworksAllowed: EVERY_PRIVATE },
  });
  await using one = netFor({}, broker);
  const two = netFor({}, broker);
  const to = { host: "127.0.0.1", port: target.port };
  await one.connect(to, { signal: never });
  await two.connect(to, { signal: never });
  await assert.rejects(one.connect(to, { signal: never }), hasCode("net-limit", /box/));
  await two[Symbol.asyncDispose]();
  await one.connect(to, { signal: never });
});

test("NetBroker: bytes both ways come out of one budget, to the byte", async () => {
  await using target = await listen("127.0.0.1", (socket) => {
    socket.once("data", () => socket.write(Buffer.alloc(60)));
  });
  await using net = netFor({ bytes: ATTEMPT_BYTES + 100, egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  const to = { host: "127.0.0.1", port: target.port };
  const connection = await net.connect(to, { signal: never });
  connection.write(Buffer.alloc(39));
  let received = 0;
  while (received < 60) received += ((await once(connection, "data")) as [Buffer])[0].length;
  const error = once(connection, "error");
  connection.write(Buffer.alloc(1));
  connection.write(Buffer.alloc(1));
  assert.ok(hasCode("net-limit")((await error)[0]));
  await assert.rejects(net.connect(to, { signal: never }), hasCode("net-limit"));
});

test("NetBroker: knocking and asking costs bytes, whether it succeeds or not", async () => {
  const closed = await listen("127.0.0.1");
  await closed[Symbol.asyncDispose]();
  await using net = netFor({ bytes: 3 * ATTEMPT_BYTES, egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  const to = { host: "127.0.0.1", port: closed.port };
  for (let attempt = 0; attempt < 3; attempt++) {
    await assert.rejects(net.connect(to, { signal: never }), hasCode("net-unreachable", /refuses/));
  }
  await assert.rejects(net.connect(to, { signal: never }), hasCode("net-limit"));
});

test("NetBroker: a far end that sends more than the budget is cut off", async () => {
  await using target = await listen("127.0.0.1", (socket) => socket.write(Buffer.alloc(101)));
  await using net = netFor({ bytes: ATTEMPT_BYTES + 100, egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  const connection = await net.connect({ host: "127.0.0.1", port: target.port }, { signal: never });
  connection.resume();
  const [error] = (await once(connection, "error")) as [unknown];
  assert.ok(hasCode("net-limit")(error));
});

test("NetBroker: what the far end sent before it closed can be read afterwards, half-open ends included", async () => {
  await using target = await listen("127.0.0.1", (socket) => {
    socket.end(Buffer.alloc(100_000, 7));
    socket.resume();
  });
  await using net = netFor({ egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  const connection = await net.connect({ host: "127.0.0.1", port: target.port }, { signal: never });
  connection.end("bye");
  await once(connection, "finish");
  const parts: Buffer[] = [];
  for await (const part of connection) parts.push(part as Buffer);
  assert.deepEqual(Buffer.concat(parts), Buffer.alloc(100_000, 7));
});

test("NetBroker: a function that does not read stops the far end", async () => {
  await using target = await listen("127.0.0.1", (socket) => {
    const fill = () => {
      while (socket.write(Buffer.alloc(65536)));
    };
    socket.on("drain", fill);
    fill();
  });
  await using net = netFor({ bytes: 2 ** 40, egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  const connection = await net.connect({ host: "127.0.0.1", port: target.port }, { signal: never });
  await once(connection, "readable");
  const [far] = target.sockets;
  assert.ok(far);
  // Both kernels' buffers fill; then nothing moves any more, and little is held here.
  let sent = -1;
  while (far.bytesWritten !== sent) {
    sent = far.bytesWritten;
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(connection.readableLength <= 256 * 1024, `${connection.readableLength} bytes held`);
});

test("NetBroker: a connection that breaks says so to both directions", async () => {
  await using target = await listen("127.0.0.1", (socket) => {
    socket.once("data", () => socket.resetAndDestroy());
  });
  await using net = netFor({ egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  const connection = await net.connect({ host: "127.0.0.1", port: target.port }, { signal: never });
  connection.resume();
  connection.write("x");
  const [error] = (await once(connection, "error")) as [unknown];
  assert.ok(hasCode("net-reset")(error));
});

test("NetBroker: an idle connection is closed, a busy one is not", async () => {
  const clock = new TestClock();
  await using target = await listen("127.0.0.1", (socket) => socket.on("data", (data) => socket.write(data)));
  await using net = netFor({ broker: { clock }, egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  const to = { host: "127.0.0.1", port: target.port };
  const idle = await net.connect(to, { signal: never });
  const busy = await net.connect(to, { signal: never });
  await clock.advance(IDLE_MS - 1);
  busy.write("x");
  await once(busy, "data");
  const error = once(idle, "error");
  await clock.advance(1);
  assert.ok(hasCode("net-timeout")((await error)[0]));
  assert.equal(busy.destroyed, false);
});

test("NetBroker: nothing listens, no such name, a silent server: each has its own error", async () => {
  const closed = await listen("127.0.0.1");
  await closed[Symbol.asyncDispose]();
  await using dns = await DnsServer.start((name) => (name === "silent.example" ? "silence" : undefined));
  const clock = new TestClock();
  const resolver = new NameResolver([dns.address], clock);
  await using net = netFor({ broker: { resolver }, egress: { privateNetworksAllowed: EVERY_PRIVATE } });
  await assert.rejects(
    net.connect({ host: "127.0.0.1", port: closed.port }, { signal: never }),
    hasCode("net-unreachable"),
  );
  await assert.rejects(
    net.connect({ host: "missing.example", port: 80 }, { signal: never }),
    hasCode("net-unreachable", /has no address/),
  );
  const silent = assert.rejects(
    net.connect({ host: "silent.example", port: 80 }, { signal: never }),
    hasCode("net-timeout"),
  );
  await clock.advance(60_000);
  await silent;
});

test("NetBroker: aborting ends a lookup and a connect at once, and gives their room back", async () => {
  await using dns = await DnsServer.start(() => "silence");
  const broker = brokerFor({ dns });
  const net = netFor({ dns }, broker);
  const abort = new AbortController();
  const waiting = assert.rejects(
    net.connect({ host: "silent.example", port: 80 }, { signal: abort.signal }),
    /given up/,
  );
  abort.abort(new Error("given up"));
  await waiting;
  assert.equal(broker.connections, 0);
  await assert.rejects(net.connect({ host: "a.example", port: 80 }, { signal: abort.signal }), /given up/);
  await net[Symbol.asyncDispose]();
});

test("InstanceNet: disposing closes what is open and what is being opened, and can be repeated", async () => {
  await using target = await listen("127.0.0.1");
  await using dns = await DnsServer.start(() => "silence");
  const setup = { dns, egress: { privateNetworksAllowed: EVERY_PRIVATE } };
  const broker = brokerFor(setup);
  const net = netFor(setup, broker);
  const open = await net.connect({ host: "127.0.0.1", port: target.port }, { signal: never });
  const opening = assert.rejects(
    net.connect({ host: "x.example", port: 1 }, { signal: never }),
    hasCode("net-closed"),
  );
  await Promise.all([net[Symbol.asyncDispose](), net[Symbol.asyncDispose]()]);
  await opening;
  assert.ok(open.destroyed);
  assert.equal(broker.connections, 0);
  await assert.rejects(
    net.connect({ host: "127.0.0.1", port: target.port }, { signal: never }),
    hasCode("net-closed"),
  );
});

test("NameResolver: takes a bounded number of addresses from an answer", async () => {
  await using dns = await DnsServer.start(() => Array.from({ length: 20 }, (_, index) => `192.0.2.${index}`));
  const resolver = new NameResolver([dns.address], systemClock);
  assert.equal((await resolver.resolve("many.example", never)).length, 8);
});

test("NameResolver: never reads /etc/hosts", async () => {
  await using dns = await DnsServer.start(() => undefined);
  const resolver = new NameResolver([dns.address], systemClock);
  // Every machine has this one there.
  await assert.rejects(resolver.resolve("localhost", never), hasCode("net-unreachable"));
  assert.ok(dns.questions.includes("A localhost"));
});
