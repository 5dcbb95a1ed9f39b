// What a box does to itself and its neighbours: exhaust, crash, hang, flood, survive. Each attempt gets a box of
// its own, and a neighbour beside it that must answer afterwards. The control does the same outside, where it works.

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { after, before, beforeEach, describe, it } from "node:test";
import type { ImageName } from "../../src/box/sandbox/image.ts";
import type { SandboxExit, SandboxHost, SandboxSpec } from "../../src/box/sandbox/sandbox.ts";
import { SANDBOX_LIMITS } from "../../src/box/sandbox/sandbox-limits.ts";
import type { SandboxProfile } from "../../src/box/sandbox/seccomp-profiles.ts";
import { type Answer, MIB, openHost, Probe, spec, startControl } from "./harness.ts";

const resources = new AsyncDisposableStack();
let host: SandboxHost;
let neighbour: Probe;

before(async () => {
  ({ host } = resources.use(await openHost()));
  neighbour = resources.use(await Probe.of(await host.start(spec("python", "strict"))));
});

after(async () => {
  await resources.disposeAsync();
});

beforeEach(() => {
  assert.equal(host.counts.alive, 1, "no box of an earlier case is left");
});

async function neighbourLives(): Promise<void> {
  assert.deepEqual(await neighbour.ask({ eval: "value = 6 * 7" }), { kind: "value", value: 42 });
}

interface Attempt {
  readonly image: ImageName;
  readonly profile?: SandboxProfile;
  readonly limits?: Partial<SandboxSpec["limits"]>;
  readonly source: string;
}

/** Runs source in a fresh box; returns its answer, or how the box died. */
async function inBox({ image, profile = "strict", limits, source }: Attempt): Promise<Answer> {
  await using probe = await Probe.of(await host.start(spec(image, profile, limits)));
  const answer = await probe.ask({ eval: source });
  await neighbourLives();
  return answer;
}

async function outside(image: ImageName, source: string): Promise<Answer> {
  await using probe = await startControl("host", image);
  return await probe.ask({ eval: source });
}

function isDead(answer: Answer, kinds: readonly SandboxExit["kind"][]): boolean {
  return answer.kind === "died" && kinds.includes(answer.exit.kind);
}

const BOMBS: readonly [number, ImageName, string, string][] = [
  [
    23,
    "deno",
    "JavaScript heap bomb",
    "const a = []; for (let i = 0; i < 30; i++) a.push(new Array(1e6).fill(i + 0.5)); return a.length;",
  ],
  [
    23,
    "deno",
    "ArrayBuffer bomb",
    "const a = []; for (let i = 0; i < 24; i++) a.push(new Uint8Array(1e7).fill(1)); return a.length;",
  ],
  [
    23,
    "deno",
    "string doubling",
    "let s = 'x'.repeat(1000); const a = []; for (let i = 0; i < 200; i++) a.push(new TextEncoder().encode(s.repeat(1000))); return a.length;",
  ],
  [
    23,
    "deno",
    "WebAssembly memory.grow",
    "const m = new WebAssembly.Memory({initial: 1}); m.grow(3200); new Uint8Array(m.buffer).fill(1); return m.buffer.byteLength;",
  ],
  [24, "python", "list bomb", "value = len([i for i in range(8_000_000)])"],
  [24, "python", "bytearray bomb", "value = len(bytearray(b'x') * 200_000_000)"],
  [
    24,
    "python",
    "decompression bomb",
    "import zlib\nc = zlib.compressobj(9)\nz = b''.join(c.compress(b'0' * 1_000_000) for _ in range(200)) + c.flush()\nvalue = len(zlib.decompress(z))",
  ],
];

describe("escape: memory", () => {
  for (const [number, image, title, source] of BOMBS) {
    it(`escape ${number}: ${title} (${image})`, async () => {
      const answer = await inBox({ image, source, limits: { memoryBytes: 64 * MIB } });
      assert.ok(isDead(answer, ["out-of-memory"]), JSON.stringify(answer));
      assert.equal((await outside(image, source)).kind, "value", "control");
    });
  }

  it("escape 28: fill /tmp (python)", async () => {
    const fill = (directory: string) => `
import os
value = 0
f = open("${directory}/fill-" + str(os.getpid()), "wb", buffering=0)
try:
    os.unlink(f.name)
except OSError:
    pass
while value < 12_000_000:
    value += f.write(b"x" * 100_000)
`;
    const answer = await inBox({ image: "python", source: fill("/tmp") });
    assert.ok(answer.kind === "errno" && ["EFBIG", "ENOSPC"].includes(answer.errno), JSON.stringify(answer));
    assert.equal((await outside("python", fill("/tmp"))).kind, "value", "control");
  });

  it("escape 28: a million empty files, and a deep nest of directories (python)", async () => {
    const files = `
import os
value = 0
while value < 1_000_000:
    os.close(os.open("/tmp/" + str(value), os.O_CREAT | os.O_WRONLY))
    value += 1
`;
    const nest = `
import os
value = 0
while value < 1_000_000:
    os.mkdir("d")
    os.chdir("d")
    value += 1
`;
    for (const source of [files, nest]) {
      const limits = { memoryBytes: 32 * MIB, cpuPercent: 200 };
      const answer = await inBox({ image: "python", profile: "standard", source, limits });
      assert.ok(isDead(answer, ["out-of-memory"]) || answer.kind === "errno", JSON.stringify(answer));
    }
    const few = `import os, tempfile
d = tempfile.mkdtemp()
for i in range(1000): os.close(os.open(d + "/" + str(i), os.O_CREAT | os.O_WRONLY))
for i in range(1000): os.unlink(d + "/" + str(i))
os.rmdir(d)
value = 1000`;
    assert.deepEqual(await outside("python", few), { kind: "value", value: 1000 }, "control");
  });
});

const THREADS_PYTHON = `
import threading
stop = threading.Event()
value = 0
try:
    while value < 200:
        threading.Thread(target=stop.wait, daemon=True).start()
        value += 1
except RuntimeError:
    pass
stop.set()
`;
const FORKS = `
import os, time
value = 0
pids = []
try:
    while value < 200:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        pids.append(pid)
        value += 1
except OSError as error:
    refused = error.errno
for pid in pids:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
`;
const WORKERS = `
let started = 0;
for (let i = 0; i < 60; i++) {
  const worker = new Worker("data:application/javascript,postMessage(1);setTimeout(() => {}, 60000)", { type: "module" });
  await new Promise((resolve, reject) => { worker.onmessage = resolve; worker.onerror = (e) => { e.preventDefault(); reject(new Error("worker")); }; });
  started++;
}
return started;`;

describe("escape: processes and threads", () => {
  it("escape 25: fork bomb (python)", async () => {
    const answer = await inBox({
      image: "python",
      profile: "standard",
      source: FORKS,
      limits: { pidsMax: 32 },
    });
    assert.ok(answer.kind === "value" && Number(answer.value) < 32, JSON.stringify(answer));
    assert.deepEqual(await outside("python", FORKS), { kind: "value", value: 200 }, "control");
  });

  it("escape 25: fork at all, under strict (python)", async () => {
    const answer = await inBox({ image: "python", source: "import os; value = os.fork()" });
    assert.ok(answer.kind === "errno" && answer.errno === "EPERM", JSON.stringify(answer));
  });

  it("escape 25: thread bomb (python)", async () => {
    const answer = await inBox({ image: "python", source: THREADS_PYTHON, limits: { pidsMax: 32 } });
    assert.ok(answer.kind === "value" && Number(answer.value) < 32, JSON.stringify(answer));
    assert.deepEqual(await outside("python", THREADS_PYTHON), { kind: "value", value: 200 }, "control");
  });

  it("escape 25: Worker bomb (deno)", async () => {
    const answer = await inBox({ image: "deno", source: WORKERS, limits: { pidsMax: 24 } });
    assert.ok(answer.kind === "died" || answer.kind === "error", JSON.stringify(answer));
    assert.deepEqual(await outside("deno", WORKERS), { kind: "value", value: 60 }, "control");
  });

  it("escape 27: descriptor exhaustion (python, deno)", async () => {
    const before = (await readdir("/proc/self/fd")).length;
    const python = `
import os
fds = []
try:
    while len(fds) < 500: fds.append(os.dup(0))
except OSError as error:
    value = error.errno
else:
    value = 0
for fd in fds: os.close(fd)`;
    const deno = `
const files = [];
const name = "/tmp/f-" + crypto.randomUUID();
try { while (files.length < 500) files.push(await Deno.open(name, {write: true, create: true})); }
catch (error) { return error.message.includes("Too many open files") || error.code === "EMFILE" ? 24 : String(error); }
finally { for (const file of files) file.close(); await Deno.remove(name).catch(() => {}); }
return 0;`;
    for (const [image, source] of [
      ["python", python],
      ["deno", deno],
    ] as const) {
      assert.deepEqual(await inBox({ image, source }), { kind: "value", value: 24 }, "EMFILE");
      assert.deepEqual(await outside(image, source), { kind: "value", value: 0 }, "control");
    }
    assert.ok((await readdir("/proc/self/fd")).length <= before, "the host's descriptors");
  });

  it("escape 39: survive termination by double fork, setsid and ignored signals (python)", async () => {
    const source = `
import os, signal, time
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(w, b"x")
        while True: time.sleep(60)
    os._exit(0)
os.read(r, 1)
value = os.getpid()`;
    const sandbox = await host.start(spec("python", "standard"));
    await using probe = await Probe.of(sandbox);
    assert.equal((await probe.ask({ eval: source })).kind, "value");
    const { pids } = await sandbox.usage();
    assert.ok(pids >= 3, `the grandchild runs: ${pids}`);
    await sandbox.kill("test");
    assert.deepEqual(await sandbox.exited, { kind: "killed", reason: "test" });
    await neighbourLives();
    // Control: outside, ending the parent leaves the grandchild, which must then be ended by hand.
    const leaver =
      "import os, time\npid = os.fork()\nif pid == 0:\n    time.sleep(120)\n    os._exit(0)\nvalue = pid";
    const control = await startControl("host", "python");
    const answer = await control.ask({ eval: leaver });
    await control[Symbol.asyncDispose]();
    assert.ok(answer.kind === "value" && typeof answer.value === "number");
    assert.equal(process.kill(answer.value, 0), true, "control: the orphan lives");
    process.kill(answer.value, "SIGKILL");
  });

  it("escape 39: stop process 1 from inside (python)", async () => {
    const sandbox = await host.start(spec("python", "standard"));
    await using probe = await Probe.of(sandbox);
    const stopping = probe.ask({
      eval: "import os, signal\nif os.fork() == 0:\n    os.kill(1, signal.SIGSTOP)\n    os._exit(0)\nvalue = os.wait()[0]",
    });
    await stopping;
    await sandbox.kill("deadline");
    assert.deepEqual(await sandbox.exited, { kind: "killed", reason: "deadline" });
  });
});

describe("escape: time", () => {
  const SPIN = {
    python: "while True: pass",
    deno: "for (;;) ;",
  } as const;
  for (const image of ["python", "deno"] as const) {
    it(`escape 26: a loop that ignores everything (${image})`, async () => {
      const sandbox = await host.start(spec(image, "strict", { cpuPercent: 20 }));
      await using probe = await Probe.of(sandbox);
      const startMs = performance.now();
      const { cpuMs: startCpuMs } = await sandbox.usage();
      const spinning = probe.ask({ eval: SPIN[image] });
      // The quota is a bound, whatever else the machine does: 20 ms in each period of 100, one period of grace.
      let used = 0;
      while (used < 200) {
        await new Promise((resolve) => setImmediate(resolve));
        used = (await sandbox.usage()).cpuMs - startCpuMs;
        const periods = (performance.now() - startMs) / 100 + 2;
        assert.ok(used <= periods * 20 + 10, `${used} ms of CPU in ${periods} periods`);
      }
      await sandbox.kill("deadline");
      assert.deepEqual(await spinning, { kind: "died", exit: { kind: "killed", reason: "deadline" } });
      await neighbourLives();
    });
  }

  it("escape 45: CPU share is bounded, and the same loop without quota gets more (python)", async () => {
    const work =
      "import time\nt = time.process_time()\ne = time.monotonic() + 0.6\nwhile time.monotonic() < e: pass\nvalue = time.process_time() - t";
    const slow = await inBox({ image: "python", source: work, limits: { cpuPercent: 10 } });
    assert.ok(slow.kind === "value" && Number(slow.value) < 0.2, JSON.stringify(slow));
    const fast = await outside("python", work);
    assert.ok(fast.kind === "value" && Number(fast.value) > Number(slow.value), "control");
  });

  it("escape 26: regular expression backtracking ends at the deadline (deno)", async () => {
    const sandbox = await host.start(spec("deno", "strict"));
    await using probe = await Probe.of(sandbox);
    const stuck = probe.ask({ eval: "return /^(a+)+$/.test('a'.repeat(60) + 'b');" });
    await sandbox.kill("deadline");
    assert.equal((await stuck).kind, "died");
  });
});

describe("escape: floods and crashes", () => {
  it("escape 29: stdout flood that nobody reads stays in the pipe (python)", async () => {
    const sandbox = await host.start(spec("python", "strict"));
    sandbox.stdin.write(`${JSON.stringify({ eval: "import os\nwhile True: os.write(1, b'x' * 65536)" })}\n`);
    // Not reading is the point: the guest must block once pipe and stream buffer are full.
    let last = -1;
    for (let still = 0; still < 20; ) {
      await new Promise((resolve) => setImmediate(resolve));
      const { cpuMs } = await sandbox.usage();
      still = cpuMs === last && cpuMs > 0 ? still + 1 : 0;
      last = cpuMs;
    }
    assert.ok(sandbox.stdout.readableLength <= 2 * sandbox.stdout.readableHighWaterMark + 65_536);
    await sandbox[Symbol.asyncDispose]();
    await neighbourLives();
  });

  it("escape 29: stderr flood is kept to its last bytes (python)", async () => {
    const sandbox = await host.start(spec("python", "strict"));
    await using probe = await Probe.of(sandbox);
    const source = "import os\nfor i in range(200): os.write(2, b'%07d\\n' % i * 8192)\nvalue = 1";
    assert.deepEqual(await probe.ask({ eval: source }), { kind: "value", value: 1 });
    assert.ok(sandbox.stderrTail().length <= SANDBOX_LIMITS.stderrBytesMax);
  });

  for (const image of ["python", "deno"] as const) {
    it(`escape 07: int 0x80 (${image})`, async (test) => {
      const request = { code: "b814000000cd80c3" }; // mov eax, 20 (getpid of i386); int 0x80; ret
      if (process.arch !== "x64") return test.skip("x86-64 only");
      for (const profile of ["strict", "standard"] as const) {
        await using probe = await Probe.of(await host.start(spec(image, profile)));
        assert.deepEqual(await probe.ask(request), { kind: "died", exit: { kind: "signalled", signal: 31 } });
      }
      await using control = await startControl("host", image);
      const answer = await control.ask(request);
      if (answer.kind !== "value") test.diagnostic("no control: this kernel runs no i386 code");
    });

    it(`escape 07: x32 system call numbers (${image})`, async (test) => {
      if (process.arch !== "x64") return test.skip("x86-64 only");
      const request = { seq: [[0x4000_0000 + 39] as const], exitChild: -1 };
      await using probe = await Probe.of(await host.start(spec(image, "standard")));
      assert.deepEqual(await probe.ask(request), { kind: "died", exit: { kind: "signalled", signal: 31 } });
      await using control = await startControl("host", image);
      assert.notEqual((await control.ask(request)).kind, "died", "control");
    });

    it(`escape 46: a crash of the runtime ends this box alone, and 47: leaves no core (${image})`, async () => {
      const request = { code: "31c08b00c3" }; // xor eax, eax; mov eax, [rax]; ret
      const limit = { seq: [[302, 0, 4, 0, { b: "00".repeat(16) }] as const], exitChild: -1 };
      const sandbox = await host.start(spec(image, "strict"));
      await using probe = await Probe.of(sandbox);
      const limits = await readFile(`/proc/${sandbox.pid}/limits`, "utf8");
      assert.match(limits, /Max core file size\s+0\s+0\s/);
      assert.equal((await probe.ask(limit)).kind, "value");
      const answer = await probe.ask(request);
      assert.deepEqual(answer, { kind: "died", exit: { kind: "signalled", signal: 11 } });
      await neighbourLives();
      await using control = await startControl("host", image);
      assert.equal((await control.ask(request)).kind, "died", "control: the same crash outside");
    });
  }

  it("escape 46: deep recursion and V8's own crash button (deno)", async () => {
    const recursion = "const f = () => f() + 1; try { return f(); } catch (e) { return e.name; }";
    assert.deepEqual(await inBox({ image: "deno", source: recursion }), {
      kind: "value",
      value: "RangeError",
    });
    const abort = "Deno.exit(7);";
    assert.deepEqual(await inBox({ image: "deno", source: abort }), {
      kind: "died",
      exit: { kind: "exited", code: 7 },
    });
  });

  it("escape 44: what clocks a box has is known (deno, python)", async (test) => {
    const steps =
      "const s = new Set(); for (let i = 0; i < 1e5; i++) s.add(performance.now()); const a = [...s].sort((x, y) => x - y); let m = 1e9; for (let i = 1; i < a.length; i++) m = Math.min(m, a[i] - a[i - 1]); return [m, typeof SharedArrayBuffer];";
    const answer = await inBox({ image: "deno", source: steps });
    assert.equal(answer.kind, "value");
    test.diagnostic(`smallest step of performance.now in ms, shared memory: ${JSON.stringify(answer)}`);
  });
});
