// Functions with links to relays (spec/guest 5.3), with everything real: box, sandbox, the box's own tor, a private network.
// A function with our own Tor protocol gets the network and fetches through it; functions that try more than a client of
// Tor may are stopped, each beside one that does the same within bounds. Needs root.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { Box } from "../../src/box/box.ts";
import { parseBoxConfig } from "../../src/box/config.ts";
import { bundle } from "../../src/client/bundle.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import { PATHS } from "../../src/wire/api.ts";
import type { ManifestInput } from "../../src/wire/manifest.ts";
import { BoxClient, type TestSession } from "../support/box-client.ts";

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
  const torrc = join(temp, "join.torrc");
  await writeFile(torrc, `${net.joinTorrc.join("\n")}\n`);
  const config = parseBoxConfig(`
[box]
data_dir = "${join(temp, "box")}"
[relay]
fingerprint = "${net.node("r0").fingerprint}"
[tor]
torrc = "${torrc}"
[onion]
mode = "none"
[policy.relays]
enabled = true
links = 3
circuits_per_minute = 100
bytes = "64MiB"
[sandbox]
uids = "27900-27999"
`);
  const listen = [{ kind: "tcp", host: "127.0.0.1", port: 0 }] as const;
  const log = createLog((line) => process.stderr.write(line), "error");
  box = await Box.start({ ...config, listen }, { clock: systemClock, log });
  const [address] = box.addresses.listen;
  client = new BoxClient(address?.kind === "tcp" ? address.port : 0);
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
