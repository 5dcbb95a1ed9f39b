// packaging/bento-box.service, as far as it can be tried without systemd: a box with the unit's capabilities, without
// new privileges, on a read-only system with a state directory, a temporary directory and devices of its own, starts
// functions of both images as users of their own. Needs root.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, rmdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { BoxClient } from "../support/box-client.ts";
import { untilNone } from "../support/leftovers.ts";
import { ownUids, uidText } from "../support/own-uids.ts";
import { processesOf } from "../support/spawned-box.ts";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const UIDS = ownUids(40);

const UNIT = `bento-unit-${process.pid}`;
/** Control groups of the unit: below the one tree of version 2, or one in each controller's of version 1. */
const GROUPS = (
  existsSync("/sys/fs/cgroup/cgroup.controllers")
    ? [""]
    : ["memory", "pids", "cpu", "cpuacct", "freezer"].filter((each) => existsSync(`/sys/fs/cgroup/${each}`))
).map((each) => join("/sys/fs/cgroup", each, UNIT));

/** Delegate, ProtectSystem=strict, PrivateTmp, PrivateDevices and StateDirectory, by hand; $0: state directory. */
const MOUNTS = `
set -e
for group in ${GROUPS.join(" ")}; do
  mkdir "$group"
  echo $$ >"$group/cgroup.procs"
done
mount --make-rprivate /
mkdir -m 700 "$0"
mount -t tmpfs -o mode=0700 state "$0"
mount -t tmpfs -o mode=1777 tmp /var/tmp
mount -t tmpfs -o mode=0755 dev /dev
for each in null zero full random urandom; do
  case $each in null) n=3 ;; zero) n=5 ;; full) n=7 ;; random) n=8 ;; urandom) n=9 ;; esac
  mknod -m 666 /dev/$each c 1 $n
done
mount -o remount,bind,ro /
for each in /tmp /var /usr /etc /run /home; do
  mountpoint -q $each && mount -o remount,bind,ro $each || true
done
umask 077
exec "$@"
`;

test("bento-box.service: its capabilities and read-only system are enough to start functions", async () => {
  const unit = await readFile(join(ROOT, "packaging/bento-box.service"), "utf8");
  const capabilities = /^CapabilityBoundingSet=(.*)$/m.exec(unit)?.[1]?.split(" ") ?? [];
  assert.deepEqual(capabilities, ["CAP_SETUID", "CAP_SETGID", "CAP_KILL"]);
  assert.match(unit, /^NoNewPrivileges=yes$/m);
  const wanted = capabilities.map((name) => `+${name.slice(4).toLowerCase()}`);
  const dir = await mkdtemp(join(tmpdir(), "bento-unit-"));
  const data = join(dir, "state");
  const box = [process.execPath, join(ROOT, "test/support/box-process.ts"), data];
  const range = uidText(UIDS);
  const child = spawn(
    "/usr/bin/unshare",
    [
      "--mount",
      "/bin/sh",
      "-c",
      MOUNTS,
      data,
      "/usr/bin/setpriv",
      "--no-new-privs",
      `--bounding-set=-all,${wanted.join(",")}`,
      "--groups=4242",
      ...box,
      range,
    ],
    { stdio: ["ignore", "pipe", "pipe"], env: {} },
  );
  let complaints = "";
  child.stderr.on("data", (chunk: Buffer) => {
    complaints += chunk.toString();
  });
  const exited = once(child, "exit");
  try {
    const [line] = (await once(createInterface({ input: child.stdout }), "line", {
      signal: AbortSignal.timeout(30_000),
    }).catch((cause: unknown) => {
      throw new Error(`the box does not start: ${complaints}`, { cause });
    })) as [string];
    const client = new BoxClient((JSON.parse(line) as { port: number }).port);
    const status = await readFile(`/proc/${child.pid}/status`, "utf8");
    assert.match(status, /^CapEff:\t00000000000000e0$/m, "control: kill, setgid and setuid, nothing else");
    assert.match(status, /^NoNewPrivs:\t1$/m);

    // On version 2 another process beside the box would keep it from handing controllers on. Its watchdog comes later,
    // and instances are on their way to groups of their own.
    const beside = async () => {
      const pids = (await readFile(join(GROUPS[0] ?? "", "cgroup.procs"), "utf8")).trim().split("\n");
      const others = pids.filter((pid) => pid !== String(child.pid));
      const programs = others.map((pid) => readFile(`/proc/${pid}/comm`, "utf8").catch(() => "ended\n"));
      return (await Promise.all(programs)).filter((name) => name !== "sh\n" && name !== "ended\n");
    };
    await untilNone("processes beside the box", beside, 5000);

    const hello = "export default { async invoke(session) { await session.send('hello'); } };";
    const deno = await client.run({ package: { manifest: { name: "f", image: "deno" }, source: hello } });
    await deno.next("attached");
    assert.equal(await deno.text(), "hello", complaints);
    deno.hangUp();
    const waits = "def main():\n    api.send('hello')\n    api.recv()\n";
    const python = await client.run({ package: { manifest: { name: "f", image: "python" }, source: waits } });
    const { instance } = (await python.next("attached")).attached;
    assert.equal(await python.text(), "hello", complaints);
    for (const found of await processesOf(UIDS)) {
      const guest = await readFile(`/proc/${found.split(" ")[0]}/status`, "utf8");
      assert.match(guest, /^Groups:\t *$/m, "the service's groups are not the functions'");
      assert.match(guest, /^CapEff:\t0{16}$/m);
    }
    const closed = await client.call("POST", "/v1/close", { token: instance, body: { kill: true } });
    assert.equal(closed.status, 200, "CAP_KILL: instances can be ended");
    assert.doesNotMatch(complaints, /^error/m);
  } finally {
    child.kill("SIGTERM");
    await exited;
    for (const group of GROUPS) await rmdir(group);
    await rm(dir, { recursive: true, force: true });
  }
  assert.deepEqual(await processesOf(UIDS), []);
});
