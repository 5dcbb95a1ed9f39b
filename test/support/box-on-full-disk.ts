// Child of box-disk-full.test.ts, in a mount namespace where its argument is a disk of 8 MiB. Exits with 0 when
// everything went as it must.

import assert from "node:assert/strict";
import { rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { listingSchema, PATHS } from "../../src/wire/api.ts";
import type { PackageInput } from "../../src/wire/package.ts";
import { ownUids } from "./own-uids.ts";
import { SpawnedBox } from "./spawned-box.ts";

const disk = process.argv[2] ?? "";
const BALLAST = join(disk, "ballast");
const UIDS = ownUids(40);
const options = { uids: UIDS, toml: "[warm]\ndeno = 1\npython = 0\n" };

/** Leaves `bytes` of the disk free. */
function fillBut(bytes: number): void {
  rmSync(BALLAST, { force: true });
  const { bavail, bsize } = statfsSync(disk);
  writeFileSync(BALLAST, Buffer.alloc(Math.max(0, bavail * bsize - bytes)));
}

const deno = (body: string, more: object = {}): PackageInput => ({
  manifest: { name: "f", image: "deno", ...more },
  source: `export default { async invoke(session, env, ...args) { ${body} } };`,
});

let box = await SpawnedBox.start(join(disk, "data"), options);
const keeper = await box.client.store(
  deno(
    `if (args[0]) try { await env.storage.put("k", "x".repeat(args[0])); await session.send("stored"); }
     catch (error) { await session.send(error.code); }
     else await session.send(String((await env.storage.get("k")).size));`,
    { storage: { bytes: "8MiB" } },
  ),
);
const ask = async (bytes: number): Promise<string> => {
  const session = await box.client.run({ invocation: { args: [bytes] } }, keeper.invocationToken);
  await session.next("attached");
  const answer = await session.text();
  await session.next("ended");
  session.hangUp();
  return answer;
};
assert.equal(await ask(1000), "stored");

// Storing, and a function's storage.
fillBut(50_000);
const large = { ...deno(""), source: `// ${"x".repeat(1_000_000)}` };
await assert.rejects(box.client.run({ package: large }), { status: 507, code: "disk-full" });
assert.equal(await ask(2_000_000), "disk-full");
assert.equal(await ask(0), "1000", "what was there stays");

// Output that waits: its reader is away, memory is full, and the disk takes no more. The function waits, too.
const floods = await box.client.store(
  deno("for (let n = 0; n < 60; n++) await session.send(new Uint8Array(50_000).fill(n));"),
);
fillBut(0);
const instance = await box.client.exec(floods.invocationToken);
const held = await outputThatWaits();
assert.ok(held < 2_000_000, `${held} bytes were taken though there is no disk for them`);
assert.equal(await readAll(instance), 3_000_000, "all of it came in the end");

// With room again everything works, in this life and the next.
rmSync(BALLAST);
assert.equal(await ask(2_000_000), "stored");
const again = await box.client.exec(floods.invocationToken);
while ((await outputThatWaits()) < 3_000_000);
assert.equal(await readAll(again), 3_000_000, "control: with room the function does not wait for its reader");
const { status } = await box.client.call("POST", PATHS.store, { body: large });
assert.equal(status, 201);
await box.end("SIGKILL");
box = await SpawnedBox.start(join(disk, "data"), options);
assert.equal(await ask(10), "stored", "the function outlived the full disk and the box");
await box.end("SIGTERM");

/** Unread bytes of the flooding function's newest instance, once they grow no more. */
async function outputThatWaits(): Promise<number> {
  let before = -1;
  for (let same = 0; same < 20; ) {
    const { json } = await box.client.call("GET", PATHS.list, { token: floods.shutdownToken });
    const waiting = listingSchema.parse(json).instances.at(-1)?.waitingBytes ?? 0;
    same = waiting === before && waiting > 0 ? same + 1 : 0;
    before = waiting;
  }
  return before;
}

/** Bytes of output until the end. */
async function readAll(id: string): Promise<number> {
  const session = await box.client.open(id);
  await session.next("attached");
  for (;;) {
    const frame = await session.frames.receive({ signal: AbortSignal.timeout(20_000) });
    if (frame?.kind === "output") continue;
    assert.deepEqual(frame?.kind === "ended" ? frame.outcome : frame, { kind: "returned" });
    return session.bytes;
  }
}
