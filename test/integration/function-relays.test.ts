// Functions with links to relays (spec/guest 5.4), with everything real: box, sandbox, the box's own tor, a private network.
// A function with our own Tor protocol gets the network and fetches through it; functions that try more than a client of
// Tor may are stopped, each beside one that does the same within bounds. Needs root.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import { type AddressInfo, connect, createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { Box } from "../../src/box/box.ts";
import { LINK_BYTES } from "../../src/box/host/relay-account.ts";
import { bundle } from "../../src/client/bundle.ts";
import { fromHex } from "../../src/onion/fields.ts";
import { CELL, CELL_BYTES, fixedCell, versionsCell } from "../../src/onion/link/cell.ts";
import { openLink } from "../../src/onion/link/tls-link.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import { identify, terminate } from "../../src/tor/process.ts";
import { PATHS } from "../../src/wire/api.ts";
import type { ManifestInput } from "../../src/wire/manifest.ts";
import { BoxClient, type TestSession } from "../support/box-client.ts";
import { ownUids, uidText } from "../support/own-uids.ts";
import { portOf, startTestnetBox } from "../support/testnet-box.ts";

const FUNCTION = fileURLToPath(new URL("../support/relays-function.ts", import.meta.url));
const BODY_BYTES = 2 ** 20;
const RELAYS = 2;
const EXITS = 1;

let temp: string;
let net: Testnet;
let box: Box;
let client: BoxClient;
let web: Server;
let source: string;

before(async () => {
  temp = await mkdtemp(join(tmpdir(), "bento-fr-"));
  ({ source } = await bundle(FUNCTION));
  net = await Testnet.up({ dir: join(temp, "net"), relays: RELAYS, exits: EXITS });
  box = await startTestnetBox(net, {
    dir: temp,
    toml: `
[relay]
fingerprint = "${net.node("r0").fingerprint}"
[onion]
mode = "none"
[policy.relays]
enabled = true
links = 3
circuits_per_minute = 100
bytes = "64MiB"
[sandbox]
uids = "${uidText(ownUids(100))}"
`,
  });
  client = new BoxClient(portOf(box));
  web = createServer((_request, response) => {
    response.end(Buffer.alloc(BODY_BYTES, "x"));
  });
  web.listen(0, net.plan.webAddress);
  await once(web, "listening");
});

after(async () => {
  await box?.[Symbol.asyncDispose]();
  web?.close();
  web?.closeAllConnections();
  await net?.down();
  await rm(temp, { recursive: true, force: true });
});

const fingerprint = (name: string) => net.node(name).fingerprint;

interface Started extends TestSession {
  kill(): Promise<void>;
}

async function start(args: unknown[], manifest: Partial<ManifestInput> = { relays: {} }): Promise<Started> {
  const session = await client.run({
    package: { manifest: { name: "relays", image: "deno", ...manifest }, source },
    invocation: { args: args as string[] },
  });
  const { attached } = await session.next("attached");
  const kill = async () => {
    await client.call("POST", PATHS.close, { token: attached.instance, body: { kill: true } });
    await session.next("ended");
  };
  return Object.assign(session, { kill });
}

const said = async (session: TestSession) => JSON.parse(await session.text()) as Record<string, unknown>;

test("a function verifies the network over a link to the box's own relay and fetches through a circuit of its own", async () => {
  const { port } = web.address() as AddressInfo;
  const session = await start(["fetch", net.plan.webAddress, port]);
  const { relays, first } = await said(session);
  assert.equal(relays, net.authorityLines.length + RELAYS + EXITS);
  assert.equal(first, fingerprint("r0"));
  const { bytes, tail } = await said(session);
  assert.ok(Number(bytes) > BODY_BYTES, String(bytes));
  assert.equal(tail, "x".repeat(100));
  assert.deepEqual((await session.next("ended")).outcome, { kind: "returned" });
});

/** Hex of one cell; CREATE_FAST is the one that relays answer whatever is in it. */
const cell = (command: number, circuit = 1) =>
  Buffer.from(fixedCell((0x8000_0000 | circuit) >>> 0, command, new Uint8Array(509).fill(circuit))).toString(
    "hex",
  );
/** As links of version 4 have it: a circuit id of four bytes, a command, two bytes of length. */
const variableCell = (command: number, length: number) =>
  Buffer.concat([Uint8Array.of(0, 0, 0, 0, command, 0, length), Buffer.alloc(length)]).toString("hex");

/** What becomes of a link to r1 on which these chunks are written, until `wanted` cells have come back. */
async function afterWriting(
  chunks: readonly string[],
  options: { wanted?: number; relays?: object } = {},
): Promise<unknown> {
  const { wanted = 1, relays = {} } = options;
  const session = await start(["cells", fingerprint("r1"), wanted, ...chunks], { relays });
  const { ended } = await said(session);
  await session.next("ended");
  return ended;
}

test("a link carries a client's cells; a handshake of the function's own, or a relay's cells, end it", async () => {
  assert.equal(await afterWriting([cell(CELL.createFast)]), "nothing");
  const AUTHENTICATE = 131;
  const hostile = {
    versions: Buffer.concat([new Uint8Array(2), versionsCell([4, 5])]).toString("hex"),
    authenticate: variableCell(AUTHENTICATE, 4),
    vpadding: variableCell(CELL.vpadding, 8),
    netinfo: cell(CELL.netinfo),
    createdFast: cell(CELL.createdFast),
    unknown: cell(77),
  };
  for (const [name, bytes] of Object.entries(hostile)) {
    assert.equal(await afterWriting([bytes]), "relays-refused", name);
  }
  // In the middle of what is allowed, and cut at the worst place.
  const [cut, at] = [`${cell(CELL.createFast)}${hostile.netinfo}`, 2 * (CELL_BYTES + 4)];
  assert.equal(await afterWriting([cut.slice(0, at), cut.slice(at)], { wanted: 2 }), "relays-refused");
});

test("as many circuits in a minute as were granted, and not one more", async () => {
  const create = [1, 2, 3].map((circuit) => cell(CELL.createFast, circuit));
  const relays = { circuitsPerMinute: 2 };
  assert.equal(await afterWriting(create.slice(0, 2), { wanted: 2, relays }), "nothing");
  assert.equal(await afterWriting(create, { wanted: 3, relays }), "relays-limit");
});

test("as many bytes as were granted, both ways together, and not one more", async () => {
  const bytes = LINK_BYTES + 2 * CELL_BYTES;
  assert.equal(await afterWriting([cell(CELL.createFast)], { relays: { bytes: `${bytes}B` } }), "nothing");
  assert.equal(
    await afterWriting([cell(CELL.createFast)], { relays: { bytes: `${bytes - 1}B` } }),
    "relays-limit",
  );
});

test("no such relay, more links than granted, no grant at all; and the end of an instance, which relays see", async () => {
  assert.equal(JSON.parse(await (await start(["open"], {})).text()), "no relays");

  const r1 = fingerprint("r1");
  await using control = await net.control("r1");
  const opened = new Set<string>();
  const closed = new Set<string>();
  let changed = Promise.withResolvers<void>();
  await using _events = await control.subscribe(["ORCONN"], ({ positional, keywords }) => {
    // "127.0.0.1:40020 NEW ID=31", "127.0.0.1:40020 CLOSED REASON=DONE ID=31"
    const id = keywords.get("ID") ?? "";
    if (positional[1] === "NEW") opened.add(id);
    if (positional[1] === "CLOSED" && opened.has(id)) closed.add(id);
    changed.resolve();
    changed = Promise.withResolvers();
  });
  // Addresses mean nothing: of a listener on this machine, of that very relay.
  const { address, orPort } = net.node("r1");
  const addresses = [
    `127.0.0.1:${String((web.address() as AddressInfo).port)}`,
    `${address}:${String(orPort)}`,
  ];
  const session = await start(["open", ...addresses, "0".repeat(40), r1, r1, r1, r1]);
  for (const _ of addresses) assert.equal(await said(session), "bad-call");
  assert.equal(await said(session), "relays-refused");
  for (let links = 0; links < 3; links++)
    assert.deepEqual(Object.keys(await said(session)), ["version", "ed25519"]);
  assert.equal(await said(session), "relays-limit");
  assert.equal(await said(session), "all");
  while (opened.size < 3) await changed.promise;
  assert.equal(closed.size, 0);
  await session.kill();
  while (closed.size < 3) await changed.promise;
});

test("whoever answers at a relay's address must be that relay: another relay does not do", async () => {
  const [victim, other] = [net.node("r1"), net.node("e0")];
  assert.equal(await afterWriting([cell(CELL.createFast)]), "nothing");
  const pid = (await net.status()).find(({ name }) => name === "r1")?.pid;
  const identity = pid === undefined ? undefined : await identify(pid);
  assert.ok(identity);
  await terminate(identity);
  // In its place answers a genuine relay, TLS and handshake and all.
  const impostor = createTcpServer((socket) => {
    const far = connect(other.orPort ?? 0, other.address);
    socket.on("error", () => far.destroy()).on("close", () => far.destroy());
    far.on("error", () => socket.destroy()).on("close", () => socket.destroy());
    socket.pipe(far).pipe(socket);
  }).listen(victim.orPort, victim.address);
  await once(impostor, "listening");
  try {
    const session = await start(["open", victim.fingerprint]);
    assert.equal(await said(session), "relays-unreachable");
    // Nothing else is wrong with it: who wants that other relay gets a link.
    const target = { host: victim.address, port: victim.orPort ?? 0 };
    using _link = await openLink({ ...target, identity: { rsa: fromHex(other.fingerprint) } });
  } finally {
    impostor.close();
  }
});
