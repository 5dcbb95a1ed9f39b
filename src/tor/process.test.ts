import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import {
  findByArgument,
  identify,
  isAlive,
  readPidFile,
  TorProcess,
  terminate,
  writePidFile,
} from "./process.ts";

async function sleeper(marker: string, ignoresSigint = false) {
  const program = `${ignoresSigint ? "process.on('SIGINT', () => {});" : ""}console.log("up");setInterval(() => {}, 1000)`;
  const child = spawn(process.execPath, ["-e", program, marker], { stdio: ["ignore", "pipe", "ignore"] });
  await once(child.stdout, "data");
  const identity = await identify(child.pid ?? 0);
  assert.ok(identity);
  return identity;
}

test("terminate: ends a process that obeys and one that does not; twice is fine", async () => {
  const marker = `marker-${crypto.randomUUID()}`;
  const obeys = await sleeper(marker);
  const ignores = await sleeper(marker, true);
  assert.deepEqual(
    new Set((await findByArgument(marker)).map(({ pid }) => pid)),
    new Set([obeys.pid, ignores.pid]),
  );
  await terminate(obeys);
  await terminate(ignores, { graceMs: 50 });
  await terminate(ignores);
  assert.equal(await isAlive(obeys), false);
  assert.deepEqual(await findByArgument(marker), []);
});

test("terminate: a recycled pid is left alone", async () => {
  const other = await sleeper("recycled");
  await terminate({ pid: other.pid, startTime: "1" });
  assert.equal(await isAlive(other), true);
  await terminate(other);
});

test("readPidFile: reads back what was written; nothing and garbage are nothing", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bento-pid-"));
  try {
    const identity = { pid: 4711, startTime: "123456" };
    await writePidFile(join(dir, "pid"), identity);
    assert.deepEqual(await readPidFile(join(dir, "pid")), identity);
    await writeFile(join(dir, "bad"), "4711\n");
    assert.equal(await readPidFile(join(dir, "bad")), undefined);
    assert.equal(await readPidFile(join(dir, "absent")), undefined);
  } finally {
    await rm(dir, { recursive: true });
  }
});

test("TorProcess.start: a missing program is told apart, with advice", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bento-tor-"));
  try {
    await assert.rejects(TorProcess.start({ dir, torrc: "", torPath: "/nonexistent/tor" }), {
      code: "tor-missing",
      advice: /apt-get install tor/u,
    });
  } finally {
    await rm(dir, { recursive: true });
  }
});
