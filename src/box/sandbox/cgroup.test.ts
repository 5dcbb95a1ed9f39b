// One compliance suite for both drivers, on a model of the kernel and, where this machine allows it, on the kernel.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { describe, test } from "node:test";
import { systemClock } from "../../base/clock.ts";
import { messageOf } from "../../base/errors.ts";
import type { CgroupOptions, CgroupParent } from "./cgroup.ts";
import { findCgroups } from "./cgroup-find.ts";
import { CgroupModel } from "./cgroup-model.ts";
import { openCgroups } from "./cgroup-open.ts";
import { openCgroupV1 } from "./cgroup-v1.ts";
import { openCgroupV2 } from "./cgroup-v2.ts";

const MIB = 1024 * 1024;
const LIMITS = { memoryBytes: 32 * MIB, pidsMax: 8, cpuPercent: 50 };
const OPTIONS: CgroupOptions = {
  name: `bento-test-${process.pid}`,
  total: { memoryBytes: 64 * MIB, pidsMax: 20, cpuPercent: 100 },
  clock: systemClock,
};

/** One place to run the suite in. `start` makes a process that is in no group of ours. */
interface Ground {
  readonly name: string;
  open(): Promise<CgroupParent>;
  start(): Promise<number>;
  end(): Promise<void>;
}

const CONTROLLERS = ["memory", "pids", "cpu", "cpuacct", "freezer"] as const;
const v1Base = {
  version: 1,
  bases: new Map<string, string>(CONTROLLERS.map((each) => [each, `/${each}`])),
} as const;

function modelled(version: 1 | 2): Ground & { model: CgroupModel } {
  const roots = version === 1 ? CONTROLLERS.map((each) => `/${each}`) : ["/unit"];
  const model = new CgroupModel(version, roots);
  let pid = 100;
  return {
    name: `modelled v${version}`,
    model,
    open: () =>
      version === 1
        ? openCgroupV1(v1Base, OPTIONS, model)
        : openCgroupV2({ version: 2, base: "/unit", own: false }, OPTIONS, model),
    start: async () => pid++,
    end: async () => undefined,
  };
}

/** The real kernel, when groups can be made here. */
async function real(): Promise<Ground | string> {
  const children: ChildProcess[] = [];
  try {
    await (await openCgroups(OPTIONS))[Symbol.asyncDispose]();
  } catch (error) {
    return messageOf(error);
  }
  return {
    name: "this machine's kernel",
    open: () => openCgroups(OPTIONS),
    start: async () => {
      const child = spawn("/bin/sleep", ["60"], { stdio: "ignore" });
      children.push(child);
      await once(child, "spawn");
      return child.pid ?? 0;
    },
    end: async () => {
      for (const child of children.splice(0)) child.kill("SIGKILL");
    },
  };
}

const kernel = await real();
const grounds = [modelled(1), modelled(2), ...(typeof kernel === "string" ? [] : [kernel])];

for (const ground of grounds) {
  describe(`control groups on ${ground.name}`, () => {
    test("CgroupParent.create: limits, usage and removal", async () => {
      await using parent = await ground.open();
      const group = await parent.create("i-1", LIMITS);
      assert.deepEqual(await parent.children(), ["i-1"]);
      const usage = await group.usage();
      assert.equal(usage.pids, 0);
      assert.equal(usage.oomKills, 0);
      await group.setLimits({ ...LIMITS, memoryBytes: 48 * MIB });
      await group.setLimits({ ...LIMITS, memoryBytes: 24 * MIB });
      await group.remove();
      await group.remove();
      assert.deepEqual(await parent.children(), []);
    });

    test("Cgroup.kill: ends every process that was placed, and only those", async () => {
      await using parent = await ground.open();
      const group = await parent.create("i-1", LIMITS);
      const other = await parent.create("i-2", LIMITS);
      const pids = [await ground.start(), await ground.start()];
      const spared = await ground.start();
      for (const pid of pids) await group.place(pid);
      await other.place(spared);
      assert.deepEqual(new Set(await group.processes()), new Set(pids));
      await group.kill();
      assert.deepEqual(await group.processes(), []);
      assert.deepEqual(await other.processes(), [spared]);
      await ground.end();
    });

    test("CgroupParent: opening again sweeps what an earlier life left", async () => {
      const earlier = await ground.open();
      const group = await earlier.create("i-7", LIMITS);
      await group.place(await ground.start());
      await using parent = await ground.open();
      assert.deepEqual(await parent.children(), []);
      assert.deepEqual(await group.processes(), []);
      await ground.end();
    });
  });
}

test("openCgroups: the real kernel was tried", (context) => {
  if (typeof kernel === "string") context.skip(kernel);
});

test("openCgroupV1: writes the files of every controller", async () => {
  const ground = modelled(1);
  const { model } = ground;
  const parent = await ground.open();
  await parent.create("i-1", LIMITS);
  const at = (controller: string, file: string) => model.get(`/${controller}/${OPTIONS.name}/i-1/${file}`);
  assert.equal(at("memory", "memory.limit_in_bytes"), String(32 * MIB));
  assert.equal(at("memory", "memory.memsw.limit_in_bytes"), String(32 * MIB));
  assert.equal(at("pids", "pids.max"), "8");
  assert.equal(at("cpu", "cpu.cfs_quota_us"), "50000");
  assert.equal(model.get(`/memory/${OPTIONS.name}/memory.limit_in_bytes`), String(64 * MIB));
  await parent[Symbol.asyncDispose]();
  assert.deepEqual(model.groups, [...v1Base.bases.values()]);
});

test("openCgroupV2: writes limits, forbids swap, ends a group as one, counts", async () => {
  const ground = modelled(2);
  const { model } = ground;
  const parent = await ground.open();
  const group = await parent.create("i-1", LIMITS);
  const at = `/unit/${OPTIONS.name}/i-1`;
  assert.equal(model.get(`${at}/memory.max`), String(32 * MIB));
  assert.equal(model.get(`${at}/memory.swap.max`), "0");
  assert.equal(model.get(`${at}/memory.oom.group`), "1");
  assert.equal(model.get(`${at}/pids.max`), "8");
  assert.equal(model.get(`${at}/cpu.max`), "50000 100000");
  model.set(`${at}/memory.events`, "low 0\noom 2\noom_kill 3");
  model.set(`${at}/cpu.stat`, "usage_usec 41500\nuser_usec 1");
  assert.deepEqual(await group.usage(), { memoryBytes: 0, pids: 0, oomKills: 3, cpuMs: 42 });
  await parent[Symbol.asyncDispose]();
  assert.deepEqual(model.groups, ["/unit"]);
});

test("openCgroupV2: moves this process into a leaf of its own group first", async () => {
  const model = new CgroupModel(2, ["/unit"]);
  model.spawn("/unit", process.pid);
  await using parent = await openCgroupV2({ version: 2, base: "/unit", own: true }, OPTIONS, model);
  assert.deepEqual(await parent.children(), []);
  assert.match(await model.read("/unit/bento-server/cgroup.procs"), new RegExp(String(process.pid)));
  await using second = await openCgroupV2(
    { version: 2, base: "/unit/bento-server", own: true },
    { ...OPTIONS, name: "bento-other" },
    model,
  );
  assert.deepEqual(second.directories, ["/unit/bento-other"]);
});

test("openCgroupV2: refuses a group that others sit in, and goes back", async () => {
  const model = new CgroupModel(2, ["/unit"]);
  model.spawn("/unit", process.pid);
  model.spawn("/unit", 4711);
  await assert.rejects(
    openCgroupV2({ version: 2, base: "/unit", own: true }, OPTIONS, model),
    /subtree_control: EBUSY/,
  );
  assert.deepEqual(model.groups, ["/unit"]);
  assert.deepEqual(
    new Set((await model.read("/unit/cgroup.procs")).split("\n").map(Number)),
    new Set([process.pid, 4711]),
  );
});

test("setLimits: below what is used is refused", async () => {
  const ground = modelled(1);
  const { model } = ground;
  await using parent = await ground.open();
  const group = await parent.create("i-1", LIMITS);
  model.set(`/memory/${OPTIONS.name}/i-1/memory.usage_in_bytes`, String(20 * MIB));
  await assert.rejects(group.setLimits({ ...LIMITS, memoryBytes: 10 * MIB }), { code: "sandbox-cgroup" });
});

for (const version of [1, 2] as const) {
  test(`setLimits, v${version}: only what differs is written, everything after a failure`, async () => {
    const ground = modelled(version);
    const { model } = ground;
    await using parent = await ground.open();
    const group = await parent.create("i-1", LIMITS);
    const [directory] = model.groups.filter(
      (each) => each.endsWith("/i-1") && model.get(`${each}/pids.max`) !== undefined,
    );
    const pids = `${directory}/pids.max`;
    // Only a write of ours could change it back.
    model.set(pids, "not written");
    await group.setLimits({ ...LIMITS, cpuPercent: LIMITS.cpuPercent / 2 });
    assert.equal(model.get(pids), "not written");
    await group.setLimits({ ...LIMITS, pidsMax: LIMITS.pidsMax - 1 });
    assert.equal(model.get(pids), String(LIMITS.pidsMax - 1));
    if (version === 2) return;
    model.set(`/memory/${OPTIONS.name}/i-1/memory.usage_in_bytes`, String(20 * MIB));
    await assert.rejects(group.setLimits({ ...LIMITS, memoryBytes: 10 * MIB }));
    model.set(pids, "not written");
    await group.setLimits(LIMITS);
    assert.equal(model.get(pids), String(LIMITS.pidsMax));
  });
}

test("findCgroups: this machine's own tables are understood", async () => {
  const [mounts, self] = await Promise.all([
    readFile("/proc/self/mountinfo", "utf8"),
    readFile("/proc/self/cgroup", "utf8"),
  ]);
  const { candidates, reasons } = await findCgroups(mounts, self);
  assert.ok(candidates.length + reasons.length > 0);
});
