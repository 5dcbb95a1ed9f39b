import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { findCgroups, parseCgroupMounts, parseOwnCgroups } from "./cgroup-find.ts";

const V1 = [
  "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct",
  "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
  "39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids",
  "22 1 0:20 / /proc rw - proc proc rw",
].join("\n");

test("parseCgroupMounts: reads version, controllers and escaped paths", () => {
  const [cpu, memory] = parseCgroupMounts(V1);
  assert.deepEqual(cpu?.controllers.slice(1), ["cpu", "cpuacct"]);
  assert.equal(memory?.mountPoint, "/sys/fs/cgroup/memory");
  const [spaced] = parseCgroupMounts(String.raw`41 31 0:38 /a\040b /sys/fs/c\040g rw - cgroup2 cgroup2 rw`);
  assert.deepEqual(spaced, { version: 2, controllers: [], mountPoint: "/sys/fs/c g", root: "/a b" });
  assert.deepEqual(parseCgroupMounts("nonsense\n - \n"), []);
});

test("parseOwnCgroups: joint controllers and the v2 line", () => {
  const own = parseOwnCgroups("4:memory:/m\n3:cpu,cpuacct:/c\n0::/system.slice/bento.service\nnonsense\n");
  assert.deepEqual(
    [...own],
    [
      ["memory", "/m"],
      ["cpu", "/c"],
      ["cpuacct", "/c"],
      ["", "/system.slice/bento.service"],
    ],
  );
});

test("findCgroups: v1 below the own group first, then at the top", async () => {
  const { candidates } = await findCgroups(V1, "4:memory:/unit\n3:cpu,cpuacct:/\n2:pids:/unit\n");
  assert.equal(candidates.length, 2);
  const [first, second] = candidates;
  assert.ok(first?.version === 1 && second?.version === 1);
  assert.equal(first.bases.get("memory"), "/sys/fs/cgroup/memory/unit");
  assert.equal(first.bases.get("cpu"), "/sys/fs/cgroup/cpu,cpuacct");
  assert.equal(second.bases.get("memory"), "/sys/fs/cgroup/memory");
});

test("findCgroups: a missing controller is named", async () => {
  const { candidates, reasons } = await findCgroups(V1.replace("rw,pids", "rw,net_cls"), "4:memory:/\n");
  assert.deepEqual(candidates, []);
  assert.ok(
    reasons.some((reason) => reason.includes("pids")),
    reasons.join(),
  );
});

test("findCgroups: v2 where the own group offers the controllers", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bento-cgroup-"));
  await mkdir(join(dir, "unit"));
  await writeFile(join(dir, "cgroup.controllers"), "cpuset cpu io memory pids\n");
  await writeFile(join(dir, "unit/cgroup.controllers"), "cpu memory pids\n");
  const mount = `41 31 0:38 / ${dir} rw - cgroup2 cgroup2 rw`;
  const { candidates } = await findCgroups(mount, "0::/unit\n");
  assert.deepEqual(candidates, [
    { version: 2, base: join(dir, "unit"), own: true },
    { version: 2, base: dir, own: false },
  ]);
  await writeFile(join(dir, "unit/cgroup.controllers"), "cpu pids\n");
  const without = await findCgroups(mount, "0::/unit\n");
  assert.deepEqual(without.candidates, [{ version: 2, base: dir, own: false }]);
  assert.ok(without.reasons.some((reason) => reason.includes("memory")));
  await rm(dir, { recursive: true });
});
