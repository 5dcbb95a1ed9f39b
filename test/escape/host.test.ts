// Walls that are seen from the host: namespaces, users, descriptors, leftovers, admission, and Deno's own
// permissions in front of them.

import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, readlink, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { BentoError, systemCode } from "../../src/base/errors.ts";
import { openCgroups } from "../../src/box/sandbox/cgroup-open.ts";
import { hostName, SandboxHost } from "../../src/box/sandbox/sandbox.ts";
import { Watchdog } from "../../src/box/sandbox/watchdog.ts";
import { controlGroups, stagesOf, untilNone } from "../support/leftovers.ts";
import { baseOptions, guest, MIB, openHost, Probe, spec, startControl, UIDS } from "./harness.ts";

const SERVER = fileURLToPath(new URL("./server.ts", import.meta.url));

const EXTRA_FD = 40;

function startServer(dir: string, args: readonly string[], extraFd?: number): ChildProcess {
  const stdio: ("pipe" | "ignore" | "inherit" | number)[] = ["ignore", "pipe", "inherit"];
  // Node itself closes inherited descriptors, but stops looking at the first gap above 15.
  if (extraFd !== undefined) stdio.push(...Array<"ignore">(EXTRA_FD - 3).fill("ignore"), extraFd);
  return spawn(process.execPath, ["--disable-warning=ExperimentalWarning", SERVER, dir, ...args], { stdio });
}

async function firstLine(child: ChildProcess): Promise<string> {
  let text = "";
  for await (const part of child.stdout ?? []) {
    text += String(part);
    if (text.includes("\n")) break;
  }
  return text;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    assert.equal(systemCode(error), "ESRCH");
    return false;
  }
}

async function until(what: string, holds: () => boolean): Promise<void> {
  const end = Date.now() + 20_000;
  while (!holds()) {
    assert.ok(Date.now() < end, `in time: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe("escape: the host's view", () => {
  it("escape 52: namespaces, user, capabilities and filter of every instance", async () => {
    await using opened = await openHost();
    const seen = new Set<string>();
    for (const image of ["python", "deno"] as const) {
      await using sandbox = await opened.host.start(spec(image, "strict"));
      await new Promise((resolve) => sandbox.stdout.once("readable", resolve));
      for (const kind of ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]) {
        const [inside, ours] = await Promise.all([
          readlink(`/proc/${sandbox.pid}/ns/${kind}`),
          readlink(`/proc/self/ns/${kind}`),
        ]);
        assert.notEqual(inside, ours, kind);
      }
      const status = await readFile(`/proc/${sandbox.pid}/status`, "utf8");
      for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
        assert.match(status, new RegExp(`${set}:\\s0{16}`));
      }
      assert.match(status, /NoNewPrivs:\s1/);
      assert.match(status, /Seccomp:\s2/);
      const uid = /^Uid:\s(\d+)/m.exec(status)?.[1] ?? "0";
      assert.ok(Number(uid) >= UIDS.first && Number(uid) < UIDS.first + UIDS.count, uid);
      seen.add(uid);
      const root = await readdir(`/proc/${sandbox.pid}/root/`);
      assert.ok(
        !root.some((name) => ["dev", "sys", "root", "home", "var", "oldroot"].includes(name)),
        root.join(),
      );
    }
    assert.equal(seen.size, 2, "a user for each");
    const own = await readFile("/proc/self/status", "utf8");
    assert.match(own, /Seccomp:\s0/, "control: this process has no filter");
  });

  it("escape 51: descriptors that the server inherited", async () => {
    const dir = await mkdtemp(join(tmpdir(), "bento-escape-"));
    const secret = openSync("/etc/hostname", "r");
    const server = startServer(dir, ["--report-descriptors"], secret);
    const exit = once(server, "exit");
    const line = await firstLine(server);
    await exit;
    closeSync(secret);
    await rm(dir, { recursive: true });
    const { boxed, outside } = JSON.parse(line) as {
      boxed: { value: number[] };
      outside: { value: number[] };
    };
    assert.deepEqual(boxed.value, []);
    assert.ok(outside.value.includes(EXTRA_FD), `control: a plain child has it: ${outside.value.join()}`);
  });

  it("escape 50: kill -9 of the server ends all boxes and removes what they had", async () => {
    const dir = await mkdtemp(join(tmpdir(), "bento-escape-"));
    const server = startServer(dir, []);
    const exit = once(server, "exit");
    const pids = JSON.parse(await firstLine(server)) as number[];
    assert.equal(pids.filter(isAlive).length, 2);
    const name = await hostName(dir);
    server.kill("SIGKILL");
    await exit;
    await until("instances died with their server", () => !pids.some(isAlive));
    // With them went, without any next start, their control groups and the laid-out images.
    const left = async () => [...(await controlGroups(name)), ...(await stagesOf(dir, name))];
    await untilNone("leftovers of a killed server", left, 5_000);
    const host = await SandboxHost.open({ ...baseOptions(dir), images: ["python"] });
    assert.ok((await controlGroups(name)).length > 0, "control: a living box has groups of that name");
    await using again = await host.start(spec("python", "strict"));
    assert.ok(again.pid > 0);
    await again.kill("test");
    await host[Symbol.asyncDispose]();
    assert.deepEqual(await controlGroups(name), []);
    await rm(dir, { recursive: true });
  });

  it("escape 50: a bwrap whose server dies before it hands over the arguments ends by itself", async () => {
    const run = (args: string) =>
      new Promise<string>((resolve) => {
        const child = execFile(
          "/usr/bin/bwrap",
          ["--unshare-all", "--disable-userns", "--die-with-parent", "--args", "0", "--", "/bin/true"],
          (error, _, stderr) => {
            resolve(error ? stderr : "ran");
          },
        );
        child.stdin?.end(args);
      });
    assert.match(await run(""), /--disable-userns requires --unshare-user/);
    assert.equal(await run("--ro-bind\0/\0/\0--unshare-user\0"), "ran", "control");
  });

  it("escape 50: what --die-with-parent cannot reach, the watchdog ends", async () => {
    const dir = await mkdtemp(join(tmpdir(), "bento-escape-"));
    const { clock, log } = baseOptions(dir);
    const total = { memoryBytes: 64 * MIB, pidsMax: 64, cpuPercent: 50 };
    await using parent = await openCgroups({ name: `bento-watchdog-${process.pid}-1`, total, clock });
    const watchdog = await Watchdog.start({ stage: join(dir, "stage"), groups: parent.directories, log });
    const victims = [spawn("/bin/sleep", ["60"]), spawn("/bin/sleep", ["60"])];
    const ends = victims.map((each) => once(each, "exit"));
    const spared = spawn("/bin/sleep", ["60"]);
    await mkdir(join(dir, "stage", "below"), { recursive: true });
    for (const [at, victim] of victims.entries()) {
      const group = await parent.create(`i-${at}`, total);
      await group.place(victim.pid ?? 0);
    }
    assert.equal((await parent.children()).length, 2, "control");
    await watchdog[Symbol.asyncDispose]();
    for (const [code, signal] of await Promise.all(ends)) assert.deepEqual([code, signal], [null, "SIGKILL"]);
    assert.equal(spared.exitCode ?? spared.signalCode, null, "what is in no group of the box lives");
    assert.deepEqual(await controlGroups(`bento-watchdog-${process.pid}`), []);
    assert.deepEqual(await readdir(dir), []);
    spared.kill();
    await once(spared, "exit");
    await rm(dir, { recursive: true });
  });

  it("escape 49: more starts than the box may hold", async () => {
    await using opened = await openHost({ instancesMax: 3 });
    const attempts = await Promise.allSettled(
      Array.from({ length: 12 }, () => opened.host.start(spec("python", "strict"))),
    );
    const started = attempts.filter((each) => each.status === "fulfilled");
    const refused = attempts.filter((each) => each.status === "rejected");
    assert.equal(started.length, 3);
    for (const { reason } of refused) assert.ok(reason instanceof BentoError && reason.code === "full");
    for (const { value } of started) await value[Symbol.asyncDispose]();
    await using later = await opened.host.start(spec("python", "strict"));
    assert.ok(later.pid > 0, "room again");
  });

  it("escape 40: a waiting instance is handed out once and nothing of it is seen again", async () => {
    const warm = {
      image: "python",
      profile: "standard",
      tmpBytes: 8 * MIB,
      openFilesMax: 128,
      count: 1,
    } as const;
    await using opened = await openHost({ warm: [warm] });
    const leave =
      "import os, sys\nopen('/tmp/left', 'w').write('mine')\nsys.left = 1\nvalue = os.listdir('/tmp')";
    const look = "import os, sys\nvalue = [os.listdir('/tmp'), hasattr(sys, 'left')]";
    const pids = new Set<number>();
    for (let round = 0; round < 3; round++) {
      await opened.host.warmedUp();
      const sandbox = await opened.host.start(spec("python", "standard"));
      pids.add(sandbox.pid);
      await using probe = await Probe.of(sandbox);
      assert.deepEqual(await probe.ask({ eval: look }), { kind: "value", value: [[], false] });
      assert.deepEqual(await probe.ask({ eval: leave }), { kind: "value", value: ["left"] });
      const again = await probe.ask({ eval: look });
      assert.deepEqual(again, { kind: "value", value: [["left"], true] }, "control: it would be seen");
    }
    assert.equal(pids.size, 3);
  });
});

const ASKS: readonly [string, string][] = [
  ["Deno.Command", "return (await new Deno.Command('/usr/bin/deno', {stdin: 'inherit'}).output()).code;"],
  ["Deno.dlopen", "Deno.dlopen('libc.so.6', {getpid: {parameters: [], result: 'i32'}}); return 1;"],
  [
    "node:child_process",
    "const {execFileSync} = await import('node:child_process'); return String(execFileSync('/usr/bin/deno', ['--version'], {stdio: 'pipe'}));",
  ],
  ["reading files", "return (await Deno.readTextFile('/etc/passwd')).length;"],
  ["environment", "return Object.keys(Deno.env.toObject()).length;"],
  ["network", "return (await Deno.connect({port: 1, hostname: '192.0.2.1'}));"],
  ["host facts", "return [Deno.hostname(), Deno.osRelease()];"],
  ["import https:", "return await import('https://deno.land/std/version.ts');"],
  ["import npm:", "return await import('npm:left-pad');"],
  ["import jsr:", "return await import('jsr:@std/path');"],
  ["import file:", "return await import('file:///etc/hosts');"],
];

describe("escape: Deno's own wall", () => {
  it("escape 36, 37: what Deno refuses by itself without flags", async () => {
    const runners = { deno: { file: "probe.js" } };
    await using opened = await openHost({ images: ["deno"], guest: { dir: guest.dir, runners } });
    await using probe = await Probe.of(await opened.host.start(spec("deno", "strict")));
    for (const [what, source] of ASKS) {
      const answer = await probe.ask({ eval: source });
      assert.equal(answer.kind, "error", `${what}: ${JSON.stringify(answer)}`);
    }
    const asking = "return (await Deno.permissions.request({name: 'run'})).state;";
    assert.deepEqual(await probe.ask({ eval: asking }), { kind: "value", value: "denied" });
  });

  it("escape 36: with all of Deno's permissions, the operating system refuses instead", async () => {
    await using opened = await openHost({ images: ["deno"] });
    await using probe = await Probe.of(await opened.host.start(spec("deno", "strict")));
    for (const [what, source] of ASKS) {
      if (["Deno.dlopen", "environment", "host facts", "import file:"].includes(what)) continue;
      const answer = await probe.ask({ eval: source });
      assert.equal(answer.kind, "error", `${what}: ${JSON.stringify(answer)}`);
    }
    await using control = await startControl("host", "deno");
    for (const [what, source] of ASKS) {
      if (!["Deno.dlopen", "reading files", "environment", "host facts"].includes(what)) continue;
      assert.equal((await control.ask({ eval: source })).kind, "value", `control: ${what}`);
    }
  });

  it("escape 36: the runtime started again with -A stands in the same box", async () => {
    await using opened = await openHost({ images: ["deno"] });
    const sandbox = await opened.host.start(spec("deno", "standard", { memoryBytes: 256 * MIB }));
    await using probe = await Probe.of(sandbox);
    const source = `
const code = "try { Deno.readTextFileSync('/etc/passwd'); console.log('open') } catch (e) { console.log(e.name) }";
await Deno.writeTextFile("/tmp/again.js", code);
const command = new Deno.Command("/usr/bin/deno", {args: ["run", "-A", "/tmp/again.js"], stdin: "inherit", stdout: "piped", stderr: "piped"});
const {stdout, stderr} = await command.output();
return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);`;
    const answer = await probe.ask({ eval: source });
    assert.ok(answer.kind === "error" || answer.kind === "value");
    if (answer.kind === "value") assert.equal(answer.value, "NotFound\n");
    else assert.match(answer.error, /NotFound|PermissionDenied/);
  });
});
