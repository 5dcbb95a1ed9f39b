// Cover that a box sends through circuits of its own, over a private Tor network: cells are counted at both ends, a quota
// cuts it off, and nothing is left at the box's tor when it has ended, however it ended. Needs root.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Box } from "../../src/box/box.ts";
import { posterPackage } from "../../src/client/cli/poster.ts";
import { BoxClient, directDial, type Session, type StoredFunction } from "../../src/client/client.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { Testnet } from "../../src/testnet/testnet.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import { cellsOf, type PosterAnswer, type PosterCounts, type PosterRequest } from "../../src/wire/poster.ts";
import { ownUids, uidText } from "../support/own-uids.ts";
import { portOf, startTestnetBox } from "../support/testnet-box.ts";

const CIRCUITS = 3;
const SINK_PORT = 20_080;

let temp: string;
let net: Testnet;
let box: Box;
let client: BoxClient;
let pack: PackageInput;
/** Echoes what comes, and counts it. */
let echo: Server;
let echoed = 0;

before(async () => {
  temp = await mkdtemp(join(tmpdir(), "bento-poster-"));
  net = await Testnet.up({
    dir: join(temp, "net"),
    relays: 2,
    exits: 2,
    extraTorrc: ({ name }) =>
      name.startsWith("e") ? [`ExitPolicy accept *:${SINK_PORT}`, "ExitPolicy reject *:*"] : undefined,
  });
  box = await startTestnetBox(net, {
    dir: temp,
    toml: `
[onion]
mode = "none"
[policy.tor]
routines = ["circuits", "streams", "onions"]
circuits = ${CIRCUITS}
[sandbox]
uids = "${uidText(ownUids(100))}"
`,
  });
  client = new BoxClient({ address: `127.0.0.1:${portOf(box)}`, dial: directDial });
  pack = (await loadPackage("poster")).package;
  echo = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.on("data", (chunk) => {
      echoed += chunk.length;
      socket.write(chunk);
    });
  });
  echo.listen(SINK_PORT, net.plan.webAddress);
  await once(echo, "listening");
});

after(async () => {
  client?.[Symbol.dispose]();
  await box?.[Symbol.asyncDispose]();
  echo?.close();
  await net?.down();
  await rm(temp, { recursive: true, force: true });
});

const REQUEST: PosterRequest = { circuits: 2, rate: 16_384, cellBytes: 470, durationMs: 2_000 };

function start(
  request: PosterRequest,
  changed: PackageInput = posterPackage(pack, request),
): Promise<Session> {
  return client.run({ package: changed }, { args: [request] }, { endInput: true });
}

async function answersOf(session: Session): Promise<PosterAnswer[]> {
  const answers: PosterAnswer[] = [];
  for await (const message of session)
    answers.push(JSON.parse(Buffer.from(message).toString()) as PosterAnswer);
  return answers;
}

function doneOf(answers: readonly PosterAnswer[]): PosterCounts {
  for (const answer of answers) if ("done" in answer) return answer.done;
  assert.fail(`it does not say what it did: ${JSON.stringify(answers)}`);
}

/** What functions have at the box's tor: circuits they chose, and streams. */
async function atTor(): Promise<{ circuits: number; streams: number }> {
  const signal = AbortSignal.timeout(60_000);
  const running = await box.clientTor?.client(signal);
  await using control = await running?.connect(signal);
  assert.ok(control);
  const said = await control.getInfo(["circuit-status", "stream-status"]);
  const count = (text: string | undefined, pattern: RegExp) => text?.match(pattern)?.length ?? 0;
  return {
    circuits: count(said["circuit-status"], /PURPOSE=CONTROLLER/gu),
    streams: count(said["stream-status"], / SUCCEEDED /gu),
  };
}

test("poster: cells through an onion service of its own, both ways, counted at both ends", async () => {
  const session = await start(REQUEST);
  const answers = await answersOf(session);
  assert.deepEqual(await session.ended, { kind: "returned" }, JSON.stringify(answers));
  const done = doneOf(answers);
  const cells = REQUEST.circuits * cellsOf(REQUEST);
  assert.equal(cellsOf(REQUEST), 69, "2 s of 16 KiB/s in cells of 470 bytes");
  assert.deepEqual(done, {
    opened: 2,
    cellsSent: cells,
    bytesReceived: cells * REQUEST.cellBytes,
    failed: 0,
    sinkCellsSent: cells,
    sinkBytesReceived: cells * REQUEST.cellBytes,
  });
  assert.deepEqual(await atTor(), { circuits: 0, streams: 0 });
});

test("poster: circuits that it chooses, to an address behind an exit; gone when the instance is ended", async () => {
  const request = {
    ...REQUEST,
    circuits: CIRCUITS,
    sink: { host: net.plan.webAddress, port: SINK_PORT },
  };
  const before = echoed;
  const done = doneOf(await answersOf(await start(request)));
  const bytes = CIRCUITS * cellsOf(request) * request.cellBytes;
  assert.deepEqual(done, {
    opened: CIRCUITS,
    cellsSent: CIRCUITS * cellsOf(request),
    bytesReceived: bytes,
    failed: 0,
    sinkCellsSent: 0,
    sinkBytesReceived: 0,
  });
  assert.equal(echoed - before, bytes);
  assert.equal((await atTor()).circuits, 0);

  const long = { ...request, durationMs: 600_000 };
  const session = await start(long);
  let open = 0;
  for await (const message of session) {
    const answer = JSON.parse(Buffer.from(message).toString()) as PosterAnswer;
    if ("open" in answer && ++open === CIRCUITS) break;
  }
  assert.equal((await atTor()).circuits, CIRCUITS, "they are there while it runs");
  await client.shutdown((session.stored as StoredFunction).shutdownToken);
  const deadline = AbortSignal.timeout(60_000);
  while ((await atTor()).circuits > 0) deadline.throwIfAborted();
});

test("poster: what the policy does not grant is refused, what is granted is not exceeded", async () => {
  const sink = { host: net.plan.webAddress, port: SINK_PORT };
  await assert.rejects(start({ ...REQUEST, circuits: CIRCUITS + 1, sink }), { code: "policy-refused" });

  // Half of the bytes that it would take: the stream is cut, and no other one is opened.
  const request = { ...REQUEST, circuits: 1, sink };
  const whole = posterPackage(pack, request);
  const half = cellsOf(request) * request.cellBytes;
  const tor = {
    ...whole.manifest.tor,
    routines: ["circuits" as const, "streams" as const],
    bytes: `${half}B`,
  };
  const before = echoed;
  const answers = await answersOf(await start(request, { ...whole, manifest: { ...whole.manifest, tor } }));
  const done = doneOf(answers);
  assert.ok(done.cellsSent < cellsOf(request), JSON.stringify(done));
  assert.ok(
    echoed - before > 0 && echoed - before + done.bytesReceived <= half,
    `${echoed - before} bytes passed`,
  );
  assert.ok(
    answers.some((answer) => "failure" in answer && answer.failure.code === "tor-limit"),
    JSON.stringify(answers),
  );
  assert.equal((await atTor()).circuits, 0);
});
