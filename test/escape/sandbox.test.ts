// The sandbox room on the real kernel: what callers rely on besides the walls. Limits at their edges, signals,
// warm and cold starts, cleaning up, and the refusals.

import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { createLog } from "../../src/base/log.ts";
import { examine } from "../../src/box/sandbox/doctor.ts";
import { SandboxHost } from "../../src/box/sandbox/sandbox.ts";
import { SANDBOX_LIMITS } from "../../src/box/sandbox/sandbox-limits.ts";
import { ownUids } from "../support/own-uids.ts";
import { baseOptions, guest, MIB, openHost, Probe, spec } from "./harness.ts";

const WARM = { image: "python", profile: "strict", tmpBytes: 8 * MIB, openFilesMax: 128, count: 2 } as const;

test("SandboxHost.start: every limit is accepted at its edge and refused beyond it", async () => {
  await using opened = await openHost({ images: ["python"] });
  const { total } = baseOptions("");
  const edges: [Parameters<typeof spec>[2], Parameters<typeof spec>[2]][] = [
    [{ pidsMax: SANDBOX_LIMITS.pidsMin }, { pidsMax: SANDBOX_LIMITS.pidsMin - 1 }],
    [{ pidsMax: total.pidsMax }, { pidsMax: total.pidsMax + 1 }],
    [{ memoryBytes: SANDBOX_LIMITS.memoryBytesMin }, { memoryBytes: SANDBOX_LIMITS.memoryBytesMin - 1 }],
    [{ memoryBytes: total.memoryBytes }, { memoryBytes: total.memoryBytes + 1 }],
    [{ cpuPercent: total.cpuPercent }, { cpuPercent: total.cpuPercent + 1 }],
    [{ openFilesMax: SANDBOX_LIMITS.openFilesMin }, { openFilesMax: SANDBOX_LIMITS.openFilesMin - 1 }],
    [{ openFilesMax: SANDBOX_LIMITS.openFilesMax }, { openFilesMax: SANDBOX_LIMITS.openFilesMax + 1 }],
    [{ tmpBytes: SANDBOX_LIMITS.tmpBytesMin }, { tmpBytes: SANDBOX_LIMITS.tmpBytesMin - 1 }],
  ];
  for (const [inside, beyond] of edges) {
    await using sandbox = await opened.host.start(spec("python", "strict", inside));
    await using _probe = await Probe.of(sandbox);
    await assert.rejects(opened.host.start(spec("python", "strict", beyond)), { code: "sandbox-spec" });
  }
  await assert.rejects(opened.host.start(spec("deno", "strict")), { code: "sandbox-spec" });
});

test("SandboxHost.start: a waiting instance gets the limits of its claim", async () => {
  await using opened = await openHost({ images: ["python"], warm: [WARM] });
  await opened.host.warmedUp();
  assert.equal(opened.host.counts.warm, 2);
  await using sandbox = await opened.host.start(spec("python", "strict", { memoryBytes: 24 * MIB }));
  await using probe = await Probe.of(sandbox);
  const answer = await probe.ask({ eval: "value = len(bytearray(b'x') * 60_000_000)" });
  assert.deepEqual(answer, { kind: "died", exit: { kind: "out-of-memory" } });
});

test("SandboxHost.start: another class than the one that waits is started cold", async () => {
  await using opened = await openHost({ images: ["python"], warm: [WARM] });
  await opened.host.warmedUp();
  await using sandbox = await opened.host.start(spec("python", "strict", { tmpBytes: 4 * MIB }));
  await using probe = await Probe.of(sandbox);
  assert.equal((await probe.ask({ eval: "value = 1" })).kind, "value");
  assert.equal(opened.host.counts.warm, 2);
});

test("SandboxHost.start: waiting instances make room for wanted ones", async () => {
  await using opened = await openHost({ images: ["python"], warm: [WARM], instancesMax: 2 });
  await opened.host.warmedUp();
  await using sandbox = await opened.host.start(spec("python", "standard"));
  await using probe = await Probe.of(sandbox);
  assert.equal((await probe.ask({ eval: "value = 1" })).kind, "value");
});

test("SandboxHost.start: an aborted start leaves nothing", async () => {
  await using opened = await openHost({ images: ["python"] });
  await assert.rejects(
    opened.host.start(spec("python", "strict"), { signal: AbortSignal.abort(new Error("no more")) }),
    /no more/,
  );
  const stop = new AbortController();
  const starting = opened.host.start(spec("python", "strict"), { signal: stop.signal });
  stop.abort(new Error("in between"));
  await assert.rejects(starting, /in between/);
  assert.equal(opened.host.counts.alive, 0);
  assert.equal((await opened.host.usage()).pids, 0);
});

test("WarmPool: a runtime that never gets ready is reported and retried, not spun", async () => {
  const lines: string[] = [];
  const log = createLog((line) => lines.push(line));
  const runners = { python: { file: "missing-import.py" } };
  const dir = await mkdtemp(join(tmpdir(), "bento-escape-"));
  const opened = SandboxHost.open({
    ...baseOptions(dir),
    images: ["python"],
    guest: { dir: guest.dir, runners },
  });
  await assert.rejects(opened, { code: "sandbox-unavailable", message: /missing-import.py/ });
  const flags = ["-c", "raise SystemExit(3)"];
  const broken = { dir: guest.dir, runners: { python: { file: "probe.py", flags } } };
  const host = await SandboxHost.open({
    ...baseOptions(dir),
    images: ["python"],
    guest: broken,
    warm: [WARM],
    log,
  });
  await assert.rejects(host.warmedUp(AbortSignal.timeout(1500)));
  await host[Symbol.asyncDispose]();
  await rm(dir, { recursive: true });
  assert.ok(lines.length >= 2 && lines.length < 12, `${lines.length} reports`);
  assert.match(lines[0] ?? "", /code\\":3/);
});

test("SandboxHost: disposing twice leaves no process, group or directory", async () => {
  const before = (await readdir("/proc/self/fd")).length;
  const opened = await openHost({ warm: [WARM, { ...WARM, image: "deno" }] });
  await opened.host.warmedUp();
  const sandbox = await opened.host.start(spec("deno", "strict"));
  await opened.host[Symbol.asyncDispose]();
  await opened.host[Symbol.asyncDispose]();
  assert.deepEqual(await sandbox.exited, { kind: "killed", reason: "disposed" });
  // Dead at once; the machine's init reaps what its monitor cannot any more.
  assert.match(await stateOf(sandbox.pid), /^[ZX]?$/);
  await assert.rejects(opened.host.start(spec("deno", "strict")), { code: "closing" });
  await opened[Symbol.asyncDispose]();
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok((await readdir("/proc/self/fd")).length <= before, "descriptors");
});

async function stateOf(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  return /\) (\w)/.exec(stat)?.[1] ?? "";
}

test("examine: every wall of this machine is found, and what is missing is named", async () => {
  const options = { guest, images: ["deno", "python"], uidRange: ownUids(100, 600) } as const;
  const checks = await examine({ ...options, clock: baseOptions("").clock });
  for (const check of checks) assert.ok(check.ok || !check.isRequired, `${check.name}: ${check.found}`);
  const without = await examine({ ...options, clock: baseOptions("").clock, denoPath: "/dev/null/deno" });
  const failed = without.filter(({ ok }) => !ok);
  assert.deepEqual(
    failed.map(({ name }) => name).filter((name) => name !== "swap"),
    ["system call filter", "image deno"],
  );
  for (const { name, fix } of failed) assert.ok(fix !== undefined, name);
});
