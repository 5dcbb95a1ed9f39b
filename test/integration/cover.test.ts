// Cover on a private Tor network, as an observer of the client's link sees it: whether the cells have content does not
// show, while the same content without cover does.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type RunningNetwork, startNetwork, stopNetwork } from "../../src/bin/local-network.ts";
import { BoxClient, type Session, torDial } from "../../src/client/client.ts";
import { Cover } from "../../src/client/cover.ts";
import { loadPackage } from "../../src/client/package-loader.ts";
import { busiestLink, bytesPerBin, ObservedLink, type Passed } from "../../src/testnet/observed-link.ts";
import { twoSample } from "../../src/testnet/two-sample.ts";
import { BoxError } from "../../src/wire/error-code.ts";

const RATE = 64 * 1024;
const BIN_MS = 100;
/** Idle and busy take turns, so that whatever else this machine does meets both. */
const TURN_MS = 1200;
const TURNS = 6;
/** Below this, idle and busy would be told apart; a fair coin comes up so once in ten thousand runs. */
const P_MIN = 1e-4;
/** What a test that works must find without cover. */
const P_CONTROL_MAX = 1e-6;

let dir: string;
let net: RunningNetwork;
let link: ObservedLink;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bento-cover-"));
  link = await ObservedLink.start();
  net = await startNetwork({ dir, boxes: 1, detached: false, clientTorrc: [link.torrc] });
});
after(async () => {
  await stopNetwork(dir);
  await link?.[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
});

function newClient(): BoxClient {
  const [box] = net.boxes;
  assert.ok(box);
  return new BoxClient({ address: box.address, dial: torDial(net.testnet.socksTcp()) });
}

const pack = async (name: string) => ({ package: (await loadPackage(name)).package });
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

test("bento run --cover: a function's whole session passes through cells, with its tokens, messages and outcome", async () => {
  using client = newClient();
  await using cover = await Cover.start(client, {
    rate: 512 * 1024,
    cover: await pack("cover"),
    unitMs: 500,
  });
  const session = await cover.run(await pack("echo"), { args: [] });
  const large = crypto.getRandomValues(new Uint8Array(60_000));
  await session.send(large);
  await session.send("second");
  await session.endInput();
  const received: Uint8Array[] = [];
  for await (const message of session) received.push(message);
  assert.deepEqual(
    received.map((message) => Buffer.from(message)),
    [Buffer.from(large), Buffer.from("second")],
  );
  assert.deepEqual(await session.ended, { kind: "returned" });
  const token = session.stored?.shutdownToken;
  assert.ok(token);
  await cover.finish();
  assert.deepEqual(await cover.outer.ended, { kind: "returned" });
  // What was covered ends with its cover.
  await assert.rejects(
    client.list(token as never),
    (error) => error instanceof BoxError && error.code === "bad-token",
  );
});

test("bento run --cover: what the box refuses, and what fails, is told as without cover", async () => {
  using client = newClient();
  {
    await using cover = await Cover.start(client, { rate: 256 * 1024, cover: await pack("cover") });
    const { package: echo } = await pack("echo");
    const greedy = { ...echo, manifest: { ...echo.manifest, memory: "900GiB" } };
    await assert.rejects(cover.run({ package: greedy }, { args: [] }), (error) => {
      assert.ok(error instanceof BoxError);
      assert.deepEqual([error.code, error.refusals[0]?.rule], ["policy-refused", "memory"]);
      return true;
    });
  }
  await using cover = await Cover.start(client, { rate: 256 * 1024, cover: await pack("cover") });
  const source = "export default { invoke() { throw new RangeError('as asked'); } };";
  const session = await cover.run(
    { package: { manifest: { name: "fails", image: "deno" }, source } },
    { args: [] },
  );
  for await (const _ of session);
  const outcome = await session.ended;
  assert.deepEqual([outcome.kind, outcome.kind === "failed" && outcome.message], ["failed", "as asked"]);
});

test("cover: content and idle cells cannot be told apart on the client's link; without cover they can", async (context) => {
  using client = newClient();
  const covered = await (async () => {
    await using cover = await Cover.start(client, { rate: RATE, cover: await pack("cover") });
    const session = await cover.run(await pack("echo"), { args: [] });
    await pause(1000);
    return await turns(session);
  })();
  const plain = await (async () => {
    await using session = await client.run(await pack("echo"), { args: [] });
    await pause(1000);
    return await turns(session);
  })();
  assert.ok(covered.bytes > 100_000 && plain.bytes > 100_000, "content went through");
  for (const direction of ["up", "down"] as const) {
    const { p, distance } = compare(await clientLink(covered.windows), direction, covered.windows);
    context.diagnostic(`${direction}: covered p = ${p.toFixed(4)}, distance ${distance.toFixed(3)}`);
    assert.ok(p > P_MIN, `${direction}: p = ${p}`);
    const control = compare(await clientLink(plain.windows), direction, plain.windows);
    context.diagnostic(`${direction}: not covered p = ${control.p.toExponential(1)}`);
    assert.ok(control.p < P_CONTROL_MAX, `${direction}: the control has p = ${control.p}`);
  }
});

interface Window {
  readonly busy: boolean;
  readonly fromMs: number;
}

/** Idle and busy in turn: busy sends 30 KiB/s to a function that sends them back. */
async function turns(session: Session): Promise<{ windows: Window[]; bytes: number }> {
  const windows: Window[] = [];
  let bytes = 0;
  const reading = (async () => {
    for await (const message of session) bytes += message.length;
  })();
  for (let turn = 0; turn < TURNS; turn++) {
    const busy = turn % 2 === 1;
    windows.push({ busy, fromMs: Date.now() });
    for (const end = Date.now() + TURN_MS; Date.now() < end; await pause(100)) {
      if (busy) await session.send(new Uint8Array(3000));
    }
  }
  await session.endInput();
  await reading;
  return { windows, bytes };
}

function compare(passed: readonly Passed[], direction: Passed["direction"], windows: readonly Window[]) {
  const samples = { idle: [] as number[], busy: [] as number[] };
  // What began in one turn may reach the link in the next.
  const count = TURN_MS / BIN_MS - 3;
  for (const { busy, fromMs } of windows) {
    const bins = bytesPerBin(passed, direction, { fromMs: fromMs + 3 * BIN_MS, binMs: BIN_MS, count });
    samples[busy ? "busy" : "idle"].push(...bins);
  }
  return twoSample(samples.idle, samples.busy);
}

/** The link to the client's guard: the busiest meanwhile. */
async function clientLink(windows: readonly Window[]): Promise<readonly Passed[]> {
  const passed = await link.passed();
  return busiestLink(passed.filter(({ atMs }) => atMs >= (windows[0]?.fromMs ?? 0)));
}
