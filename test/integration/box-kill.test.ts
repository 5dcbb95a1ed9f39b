// kill -9 of a box at random moments, from its first milliseconds to full load. What it acknowledged is there when it
// starts again; of what it started, nothing outlives it, whether or not it ever starts again. Needs root.

import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { hostName } from "../../src/box/sandbox/sandbox.ts";
import { PATHS } from "../../src/wire/api.ts";
import { controlGroups, stagesOf, untilNone } from "../support/leftovers.ts";
import { ownUids } from "../support/own-uids.ts";
import { processesOf, SpawnedBox, spawnBox } from "../support/spawned-box.ts";

const UIDS = ownUids(40);
/** After the box's death: milliseconds until nothing of it may be alive. */
const ORPHAN_MS = 2_000;
const STARTUP_ROUNDS = 10;
const LOAD_ROUNDS = 4;
/** Milliseconds in which a start makes its first sandboxes, on a fast and on a crowded machine. */
const STARTUP_MS = { from: 300, to: 1_600 };

const ECHO = {
  manifest: { name: "echo", image: "deno" as const },
  source: `export default { async invoke(session, env) {
    for await (const message of session) await session.send(message);
  } };`,
};
const KEEPS = {
  manifest: { name: "keeps", image: "python" as const, storage: { bytes: "1MiB" } },
  source: `def main():
    api.storage_put("k", b"v" * 10000)
    api.send("x" * 300000)
    api.recv()
`,
};

let dataDir: string;
let name: string;
before(async () => {
  dataDir = await mkdtemp(join(tmpdir(), "bento-kill-"));
  name = await hostName(dataDir);
});
after(async () => {
  await rm(dataDir, { recursive: true });
});

async function nothingOutlives(): Promise<void> {
  await untilNone("processes of a killed box", () => processesOf(UIDS), ORPHAN_MS);
  await untilNone("control groups of a killed box", () => controlGroups(name), ORPHAN_MS);
}

async function firstSandbox(): Promise<void> {
  const end = Date.now() + 20_000;
  while ((await processesOf(UIDS)).length === 0 && Date.now() < end) {
    await new Promise((resolve) => setImmediate(resolve));
  }
}

test("kill -9 while the box starts: no process is left, at whatever moment", async () => {
  let startedAny = 0;
  for (let round = 0; round < STARTUP_ROUNDS; round++) {
    const child = spawnBox(dataDir, { uids: UIDS });
    const exited = once(child, "exit");
    // The moment when the first sandbox process is there is the most interesting: every other round waits for it.
    if (round % 2 === 0) await firstSandbox();
    else await new Promise((resolve) => setTimeout(resolve, randomInt(STARTUP_MS.from, STARTUP_MS.to)));
    startedAny += Math.min(1, (await processesOf(UIDS)).length);
    child.kill("SIGKILL");
    await exited;
    await untilNone(`round ${round}: orphans`, () => processesOf(UIDS), ORPHAN_MS);
  }
  assert.ok(startedAny >= STARTUP_ROUNDS / 4, `control: ${startedAny} rounds had started sandboxes`);
});

test("kill -9 under load: nothing acknowledged is lost, nothing is orphaned", async () => {
  const acknowledged: string[] = [];
  let box = await SpawnedBox.start(dataDir, { uids: UIDS });
  for (let round = 0; round < LOAD_ROUNDS; round++) {
    const { client } = box;
    const load = Array.from({ length: 6 }, async (_, at) => {
      for (;;) {
        const session = await client.run({ package: at === 0 ? KEEPS : ECHO });
        const { stored } = (await session.next("attached")).attached;
        if (stored) acknowledged.push(stored.invocationToken);
        session.input("x");
        await session.next("output");
        session.send({ kind: "input-end" });
        if (at === 0) session.hangUp();
      }
    });
    const settled = Promise.allSettled(load);
    const wanted = acknowledged.length + randomInt(3, 20);
    const deadline = Date.now() + 20_000;
    while (acknowledged.length < wanted && Date.now() < deadline) {
      await new Promise((resolve) => setImmediate(resolve));
    }
    await box.end("SIGKILL");
    await settled;
    assert.ok(acknowledged.length >= wanted, "the load acknowledged something");
    await nothingOutlives();
    box = await SpawnedBox.start(dataDir, { uids: UIDS });
    for (const place of ["spool", "storage"]) {
      const files = await readdir(join(dataDir, place), { recursive: true, withFileTypes: true });
      assert.deepEqual(
        files.filter((each) => each.isFile()).map((each) => each.name),
        [],
        `${place} of a dead life`,
      );
    }
    assert.equal((await stagesOf(dataDir, name)).length, 1, "only the living box has images laid out");
  }
  for (const token of acknowledged) {
    const instance = await box.client.exec(token);
    await box.client.call("POST", PATHS.close, { token: instance, body: { kill: true } });
  }
  await box.end("SIGTERM");
  assert.deepEqual(await processesOf(UIDS), []);
  assert.deepEqual([...(await controlGroups(name)), ...(await stagesOf(dataDir, name))], []);
});

test("SIGTERM and SIGINT while the box starts leave nothing", async () => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    const child = spawnBox(dataDir, { uids: UIDS });
    const exited = once(child, "exit");
    await firstSandbox();
    child.kill(signal);
    await exited;
    await nothingOutlives();
  }
});
