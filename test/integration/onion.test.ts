// Our own Tor protocol against unmodified tor daemons: circuits, directory, streams, onion services on both sides,
// and one that stands by. All in one private network.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { concat, utf8 } from "../../src/base/bytes.ts";
import { BentoError } from "../../src/base/errors.ts";
import { Circuit, type IncomingStream } from "../../src/onion/circuit/circuit.ts";
import type { TorStream } from "../../src/onion/circuit/stream.ts";
import { CircuitBuilder } from "../../src/onion/circuit-builder.ts";
import { generateExpandedKey } from "../../src/onion/crypto/blinding.ts";
import { exportX25519, generateX25519, random, type X25519Key } from "../../src/onion/crypto/primitives.ts";
import { directoryGet, fetchNetwork } from "../../src/onion/directory/directory-client.ts";
import type { Network, Relay } from "../../src/onion/directory/network.ts";
import { fromHex, hex } from "../../src/onion/fields.ts";
import { openLink } from "../../src/onion/link/tls-link.ts";
import { Paths } from "../../src/onion/paths.ts";
import { decodeMaterial, encodeMaterial } from "../../src/onion/service/handover.ts";
import { connectToService, fetchDescriptor } from "../../src/onion/service/onion-client.ts";
import { OnionService, type OnionServiceOptions } from "../../src/onion/service/onion-service.ts";
import { meetClient } from "../../src/onion/service/rendezvous.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import { addOnionService } from "../../src/tor/onion-service.ts";
import { socksConnect } from "../../src/tor/socks.ts";
import { serveTcp } from "../support/serve-tcp.ts";

let temp: string;
let net: Testnet;
let network: Network;
let builder: CircuitBuilder;
let paths: Paths;
let server: Server;
let target: { readonly host: string; readonly port: number };

const BIG = random(65_536);
const BIG_TIMES = 48;
const deadline = () => AbortSignal.timeout(90_000);
const rules = { distinctSubnets: false };

before(async () => {
  temp = await mkdtemp(join(tmpdir(), "bento-onion-"));
  net = await Testnet.up({ dir: join(temp, "net"), relays: 3, exits: 2 });
  // Answers "get" with many bytes, then says of what it received its length and SHA-256.
  server = createServer(answerOne).listen(0, net.plan.webAddress);
  await once(server, "listening");
  target = { host: net.plan.webAddress, port: (server.address() as AddressInfo).port };
  builder = new CircuitBuilder(openLink);
  network = await bootstrap();
  paths = new Paths({ network, rules });
});

after(async () => {
  builder?.[Symbol.dispose]();
  server?.close();
  await net?.down();
  await rm(temp, { recursive: true, force: true });
});

/** Protocol: "get\n" -> the big body and the end. "put N\n" and N bytes -> their SHA-256 in hex and the end. */
function answerOne(socket: Socket): void {
  const parts: Buffer[] = [];
  let byteCount = 0;
  socket.on("error", () => socket.destroy());
  socket.on("data", (bytes) => {
    parts.push(bytes);
    byteCount += bytes.length;
    const head = /^(get|put ([0-9]+))\n/u.exec(Buffer.concat(parts.slice(0, 2)).toString("latin1"));
    if (head?.[1] === "get") socket.end(Buffer.concat(Array.from({ length: BIG_TIMES }, () => BIG)));
    else if (head && byteCount >= Number(head[2]) + head[0].length)
      socket.end(createHash("sha256").update(Buffer.concat(parts).subarray(head[0].length)).digest("hex"));
  });
}

const BIG_DIGEST = hex(
  createHash("sha256")
    .update(concat(Array.from({ length: BIG_TIMES }, () => BIG)))
    .digest(),
);

/** From nothing but the authorities' names: directory over a link to one of them. */
async function bootstrap(): Promise<Network> {
  const authorities = net.authorityLines.map((line) => ({
    identity: /v3ident=([0-9A-F]{40})/u.exec(line)?.[1] ?? "",
  }));
  const authority = net.node("a0");
  using link = await openLink({
    host: authority.address,
    port: authority.orPort ?? 0,
    identity: { rsa: fromHex(authority.fingerprint) },
  });
  const circuit = await Circuit.createFast(link, { signal: deadline() });
  return await fetchNetwork(circuit, { authorities, nowMs: Date.now(), signal: deadline() });
}

function relay(name: string): Relay {
  const found = network.relay(net.node(name).fingerprint);
  assert.ok(found, name);
  return found;
}

/** SHA-256 of everything up to the end. */
async function digestOf(stream: TorStream | Duplex): Promise<string> {
  const hash = createHash("sha256");
  for await (const bytes of stream) hash.update(bytes as Uint8Array);
  return hash.digest("hex");
}

async function textOf(stream: TorStream | Duplex): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const bytes of stream) parts.push(bytes as Uint8Array);
  return Buffer.concat(parts).toString();
}

/** Both directions of a circuit whose last hop reaches the server. */
async function exchange(circuit: Circuit, host: string, port: number): Promise<void> {
  const down = circuit.openStream(host, port);
  await down.write(utf8("get\n"), { signal: deadline() });
  assert.equal(await digestOf(down), BIG_DIGEST);
  const up = circuit.openStream(host, port);
  const body = random(700_000);
  await up.write(concat([utf8(`put ${String(body.length)}\n`), body]), { signal: deadline() });
  assert.equal(await textOf(up), createHash("sha256").update(body).digest("hex"));
}

test("a link is refused when the relay is another than expected", async () => {
  const { host, port, identity } = relay("r0");
  const wanted = { host, port, identity: { ...identity, ed25519: relay("r1").identity.ed25519 } };
  await assert.rejects(openLink(wanted, { signal: deadline() }), { code: "onion-wrong-relay" });
  using link = await openLink({ host, port, identity });
  assert.equal(link.version, 5);
});

for (const congestion of [true, false])
  test(`three hops to a web server, ${congestion ? "ntor-v3 and congestion control" : "ntor and fixed windows"}`, async () => {
    const exit = relay("e0");
    using circuit = await builder.build([relay("r0"), relay("r1"), exit], {
      signal: deadline(),
      congestion: congestion ? network.congestionFor(exit) : undefined,
    });
    assert.equal(network.congestionFor(exit) !== undefined, true);
    for (let hop = 0; hop < 3; hop++) circuit.sendDrop(hop);
    await exchange(circuit, target.host, target.port);
    assert.ok(circuit.isOpen);
    const closed = circuit.openStream(target.host, 9);
    await assert.rejects(closed.connected, { code: "onion-stream-ended" });
    // Every hop is a directory, also from the middle of a circuit.
    const consensus = circuit.openDirectoryStream(1);
    await consensus.write(utf8("GET /tor/status-vote/current/consensus-microdesc HTTP/1.0\r\n\r\n"));
    assert.match(await textOf(consensus), /network-status-version 3 microdesc/u);
  });

test("a reader that stops holds the exit back, and gets everything when it goes on", async () => {
  const exit = relay("e1");
  using circuit = await builder.build([relay("r0"), relay("r2"), exit], {
    signal: deadline(),
    congestion: network.congestionFor(exit),
  });
  const held = circuit.openStream(target.host, target.port);
  await held.write(utf8("get\n"));
  await held.connected;
  // Meanwhile another stream of the circuit is served.
  const other = circuit.openStream(target.host, target.port);
  await other.write(utf8("get\n"));
  assert.equal(await digestOf(other), BIG_DIGEST);
  assert.ok(held.bufferedBytes < BIG.length * BIG_TIMES, "it was held back");
  assert.equal(await digestOf(held), BIG_DIGEST);
});

test("a relay that cannot be reached ends the circuit with a reason", async () => {
  const identity = { ...relay("r2").identity, ed25519: random(32) };
  const nowhere = { ...relay("r2"), identity };
  await assert.rejects(builder.build([relay("r0"), nowhere], { signal: deadline() }), {
    code: "onion-circuit-closed",
  });
  await assert.rejects(builder.build([relay("r0"), relay("r1"), relay("r1")], { signal: deadline() }), {
    code: "onion-circuit-closed",
  });
});

/** What answers streams: the server, byte for byte. */
function serve(incoming: IncomingStream): void {
  if (incoming.port !== 80) {
    incoming.refuse(4);
    return;
  }
  serveTcp(incoming, target);
}

/** A service whose clients are met by a replica with links of its own, which gets the material as bytes. */
async function startService(
  options: Partial<OnionServiceOptions> = {},
  known?: OnionService["introductionPoints"],
) {
  const replica = new CircuitBuilder(openLink);
  const met: string[] = [];
  const service = await OnionService.start(
    {
      builder,
      paths,
      identity: generateExpandedKey(),
      isTestingNetwork: true,
      onIntroduction: (material) => {
        const received = decodeMaterial(encodeMaterial(material));
        met.push(hex(received.cookie));
        meetClient(received, {
          builder: replica,
          path: paths.to(received.rendezvousPoint),
          parameters: network.consensus.parameters,
          onStream: serve,
          signal: deadline(),
        }).catch(() => {
          // The client then gets no answer, and its test fails.
        });
      },
      ...options,
    },
    { signal: deadline(), ...(known ? { known } : {}) },
  );
  return {
    service,
    met,
    [Symbol.dispose]() {
      service[Symbol.dispose]();
      replica[Symbol.dispose]();
    },
  };
}

async function viaTor(address: string): Promise<Duplex> {
  return socksConnect({
    proxy: net.socks(),
    host: address,
    port: 80,
    isolation: { username: "onion", password: crypto.randomUUID() },
    signal: deadline(),
  });
}

const client = () => ({ builder, paths, nowMs: Date.now(), isTestingNetwork: true, signal: deadline() });

test("unmodified tor, and we ourselves, reach our service; its introductions are met by a replica", async () => {
  using running = await startService();
  const { address } = running.service;
  for (let turn = 0; turn < 2; turn++) {
    const down = await viaTor(address);
    down.write("get\n");
    assert.equal(await digestOf(down), BIG_DIGEST);
  }
  const up = await viaTor(address);
  const body = random(700_000);
  up.write(concat([utf8(`put ${String(body.length)}\n`), body]));
  assert.equal(await textOf(up), createHash("sha256").update(body).digest("hex"));

  const descriptor = await fetchDescriptor(address, client());
  using circuit = await connectToService(descriptor, client());
  await exchange(circuit, "", 80);
  await assert.rejects(circuit.openStream("", 81).connected, /exitPolicy/u);
  assert.equal(new Set(running.met).size, running.met.length);
  assert.equal(running.met.length, 4);
});

test("we reach the service of an unmodified tor", async () => {
  await using control = await net.control("c0");
  await using service = await addOnionService(control, {
    keyPath: join(temp, "service-key"),
    ports: [{ virtualPort: 80, target: `${target.host}:${String(target.port)}` }],
    signal: deadline(),
  });
  const descriptor = await fetchDescriptor(service.address, client());
  assert.equal(descriptor.content.sendmeIncrement, 31);
  using circuit = await connectToService(descriptor, client());
  await exchange(circuit, "", 80);
});

test("the program of the README, which has nothing but the package's export, fetches from a C tor onion service", async () => {
  const page = createHttpServer((_, response) => response.end("a page\n")).listen(0, net.plan.webAddress);
  await once(page, "listening");
  const { port } = page.address() as AddressInfo;
  await using control = await net.control("c0");
  await using service = await addOnionService(control, {
    keyPath: join(temp, "page-key"),
    ports: [{ virtualPort: 80, target: `${net.plan.webAddress}:${String(port)}` }],
    signal: deadline(),
  });
  const readme = await readFile(new URL("../../src/onion/README.md", import.meta.url), "utf8");
  const program = /```ts\n(\/\/ fetch\.ts[\s\S]*?)```/u.exec(readme)?.[1] ?? assert.fail();
  const dir = join(temp, "outsider");
  await mkdir(join(dir, "node_modules"), { recursive: true });
  await symlink(fileURLToPath(new URL("../..", import.meta.url)), join(dir, "node_modules/bento-tor"));
  await writeFile(join(dir, "fetch.ts"), program);
  await writeFile(join(dir, "package.json"), '{ "type": "module" }');
  const authority = net.node("a0");
  const idents = net.authorityLines.map((line) => /v3ident=([0-9A-F]{40})/u.exec(line)?.[1] ?? "");
  const where = [authority.address, String(authority.orPort), authority.fingerprint];
  const args = ["fetch.ts", ...where, service.address, ...idents];
  const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: dir, timeout: 90_000 });
  assert.match(stdout, /^HTTP\/1\.[01] 200 OK\r\n[\s\S]*\r\n\r\na page\n$/u);
  page.close();
});

test("a service for authorized clients: they come in, others do not", async () => {
  const key = generateX25519();
  using running = await startService({ clients: [key.publicKey] });
  const { address } = running.service;
  await assert.rejects(fetchDescriptor(address, client()), { code: "onion-not-authorized" });
  const descriptor = await fetchDescriptor(address, { ...client(), authorization: key });
  using circuit = await connectToService(descriptor, client());
  const stream = circuit.openStream("", 80);
  await stream.write(utf8("put 1\nx"));
  assert.equal(await textOf(stream), createHash("sha256").update("x").digest("hex"));

  await assert.rejects(viaTor(address));
  await authorize(address, key);
  const authorized = await viaTor(address);
  authorized.write("get\n");
  assert.equal(await digestOf(authorized), BIG_DIGEST);
});

async function authorize(address: string, key: X25519Key): Promise<void> {
  await using control = await net.control("c0");
  const secret = Buffer.from(exportX25519(key)).toString("base64");
  const command = `ONION_CLIENT_AUTH_ADD ${address.replace(".onion", "")} x25519:${secret}`;
  // 252: done, and a descriptor that tor could not read before is readable now.
  await assert.rejects(control.command(command), /answered 252 /u);
}

test("a standby with the same introduction keys takes over: clients go on, the first gets nothing, nothing is published", async () => {
  const identity = generateExpandedKey();
  // Relays give the points to whoever claims them last. They destroy the old circuits, but at their leisure.
  using first = await startService({ identity, onPointLost: () => "leave" });
  const down = await viaTor(first.service.address);
  down.write("get\n");
  assert.equal(await digestOf(down), BIG_DIGEST);
  assert.equal(first.met.length, 1);

  using standby = await startService({ identity }, first.service.introductionPoints);
  const after = await viaTor(first.service.address);
  after.write("get\n");
  assert.equal(await digestOf(after), BIG_DIGEST);
  assert.equal(first.met.length, 1, "the first one gets nothing any more");
  assert.equal(standby.met.length, 1);
});

test("a rendezvous point that is our own guard is met over two relays more", async () => {
  const guardPaths = new Paths({ network, rules, firstHop: relay("r0") });
  const path = guardPaths.to(relay("r0"));
  assert.equal(path.length, 4);
  using circuit = await builder.build(path, { signal: deadline() });
  assert.equal(circuit.hopCount, 4);
  assert.ok((await directoryGet(circuit, "/tor/status-vote/current/consensus-microdesc")).length > 0);
});

test("an introduction point whose relay dies is replaced and published", async () => {
  using running = await startService({ introductionPoints: 1 });
  const [point] = running.service.introductionPoints;
  assert.ok(point);
  const dying = (await net.status()).find(({ name }) => name === point.relay.nickname);
  assert.ok(dying?.pid !== undefined);
  process.kill(dying.pid, "SIGKILL");
  const lost = hex(point.secrets.auth.publicKey);
  const isPublished = async (): Promise<boolean> => {
    try {
      const { content } = await fetchDescriptor(running.service.address, client());
      return content.introductionPoints.every(({ authKey }) => hex(authKey) !== lost);
    } catch (error) {
      // The dead relay may be in the way here, too.
      if (error instanceof BentoError) return false;
      throw error;
    }
  };
  for (const until = Date.now() + 60_000; !(await isPublished()); )
    assert.ok(Date.now() < until, "published in time");
  assert.notEqual(running.service.introductionPoints[0]?.relay, point.relay);
});
