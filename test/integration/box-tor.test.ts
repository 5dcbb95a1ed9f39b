// The box beside a real relay of a private network: its policy comes from the relay, and clients reach it through
// Tor in both ways, at its onion service and at an address of the relay.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { after, before, test } from "node:test";
import type { Box } from "../../src/box/box.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import { ExitAddressDialer } from "../../src/tor/exit-address.ts";
import { socksConnect } from "../../src/tor/socks.ts";
import { MEDIA, PATHS } from "../../src/wire/api.ts";
import {
  decodeBoxFrame,
  encodeClientFrame,
  FrameSplitter,
  prefixLength,
} from "../../src/wire/session-frame.ts";
import { ownUids, uidText } from "../support/own-uids.ts";
import { startTestnetBox } from "../support/testnet-box.ts";

const EXIT_PORT = 5578;

let temp: string;
let net: Testnet;
let box: Box;

before(async () => {
  temp = await mkdtemp(join(tmpdir(), "bento-box-tor-"));
  net = await Testnet.up({
    dir: join(temp, "net"),
    relays: 2,
    exits: 2,
    latencyMs: 5,
    extraTorrc: ({ name, address }) =>
      name === "e1"
        ? [`ExitPolicy accept ${address}:${EXIT_PORT}`, "ExitPolicy accept *:8000", "ExitPolicy reject *:*"]
        : undefined,
  });
  box = await startTestnetBox(net, {
    dir: temp,
    companion: { relay: "e1", exitPort: EXIT_PORT },
    toml: `
[onion]
mode = "single-hop"
[sandbox]
uids = "${uidText(ownUids(100))}"
`,
  });
});

after(async () => {
  await box?.[Symbol.asyncDispose]();
  await net?.down();
  await rm(temp, { recursive: true, force: true });
});

const deadline = () => AbortSignal.timeout(60_000);
const isolation = () => ({ username: "test", password: crypto.randomUUID() });

test("Box: publishes the exit policy and the fingerprint of its relay", () => {
  assert.ok(box.policy.net?.exit.includes("accept *:8000"), JSON.stringify(box.policy.net));
  assert.equal(box.info.relay, net.node("e1").fingerprint);
});

test("Box: runs a function for a client of its onion service", async () => {
  await Promise.race([box.onionPublished, once(deadline(), "abort")]);
  const host = box.info.onion;
  assert.match(host ?? "", /^[a-z2-7]{56}\.onion$/);
  const stream = await socksConnect({
    proxy: net.socks(),
    host: host ?? "",
    port: 80,
    isolation: isolation(),
    signal: deadline(),
  });
  assert.equal(await runHello(stream), "hello over Tor");
});

test("Box: runs a function for a client whose circuit ends at its relay's own address", async () => {
  const exit = net.node("e1");
  await using control = await net.control("c0");
  await using dialer = new ExitAddressDialer(control, net.socks());
  const target = { fingerprint: exit.fingerprint, address: exit.address, port: EXIT_PORT };
  const stream = await dialer.connect(target, { isolation: isolation(), signal: deadline() });
  assert.equal(await runHello(stream), "hello over Tor");
});

/** One run over one stream, as bytes: what the function sent. */
async function runHello(stream: Duplex): Promise<string> {
  const source = "export default { async invoke(session) { await session.send('hello over Tor'); } };";
  const start = { package: { manifest: { name: "hello", image: "deno" }, source }, invocation: { args: [] } };
  const frame = prefixLength(encodeClientFrame({ kind: "start", start }));
  stream.write(
    `POST ${PATHS.run} HTTP/1.1\r\nHost: box\r\nConnection: close\r\nContent-Type: ${MEDIA.session}\r\nContent-Length: ${frame.length}\r\n\r\n`,
  );
  stream.write(frame);
  let answer = Buffer.alloc(0);
  for await (const chunk of stream) answer = Buffer.concat([answer, chunk as Buffer]);
  const [head = "", ...rest] = answer.toString("latin1").split("\r\n\r\n");
  assert.match(head, /^HTTP\/1\.1 200 /);
  const frames = new FrameSplitter()
    .push(unchunked(Buffer.from(rest.join("\r\n\r\n"), "latin1")))
    .map(decodeBoxFrame);
  assert.deepEqual(
    frames.map(({ kind }) => kind),
    ["attached", "output", "ended"],
  );
  const output = frames[1];
  return output?.kind === "output" ? Buffer.from(output.bytes).toString() : "";
}

/** RFC 9112 7.1: `5\r\nhello\r\n0\r\n\r\n` -> hello */
function unchunked(body: Buffer): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; ; ) {
    const lineEnd = body.indexOf("\r\n", at);
    const length = Number.parseInt(body.toString("latin1", at, lineEnd), 16);
    if (lineEnd === -1 || !(length > 0)) return Buffer.concat(parts);
    parts.push(body.subarray(lineEnd + 2, lineEnd + 2 + length));
    at = lineEnd + 2 + length + 2;
  }
}
