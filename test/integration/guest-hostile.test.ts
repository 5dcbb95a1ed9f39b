// Functions that attack the runner they share a process with, or the channel. At worst they end themselves; the
// box learns how, and nothing waits for ever.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { GuestBench } from "./guest-harness.ts";

/** Source, and what the box must see. */
interface Attack {
  readonly name: string;
  readonly source: string;
  readonly kind: "returned" | "failed" | "lost";
  readonly says?: RegExp;
  readonly output?: readonly string[];
}

const invoke = (body: string) => `export default { async invoke(session, env, ...args) {\n${body}\n} };`;
const frame = (hex: string) =>
  `new Uint8Array([${
    hex
      .match(/../g)
      ?.map((byte) => `0x${byte}`)
      .join() ?? ""
  }])`;

const DENO: readonly Attack[] = [
  {
    name: "unhandled rejection",
    source: invoke("Promise.reject(new Error('loose')); await new Promise(() => {});"),
    kind: "failed",
    says: /loose\n\s+at .*function\.ts:2/,
  },
  {
    name: "error in a timer",
    source: invoke("setTimeout(() => { throw new Error('late'); }); await new Promise(() => {});"),
    kind: "failed",
    says: /late\n\s+at .*function\.ts:2/,
  },
  { name: "throws undefined", source: invoke("throw undefined;"), kind: "failed", says: /undefined/ },
  {
    name: "throws an object whose getters throw",
    source: invoke("throw new Proxy(new Error('x'), { get() { throw new Error('y'); } });"),
    kind: "failed",
  },
  {
    name: "an endless chain of causes",
    source: invoke("const error = new Error('round'); error.cause = error; throw error;"),
    kind: "failed",
    says: /round/,
  },
  {
    name: "returns a thenable",
    source: invoke("return { then(resolve) { resolve(1); } };"),
    kind: "returned",
  },
  {
    name: "a thenable as default export",
    source: "export function then(resolve) { resolve({}); }",
    kind: "failed",
    says: /Cannot start/,
  },
  {
    name: "pollutes prototypes",
    source: invoke(`
      Object.prototype.code = "polluted"; Object.prototype.invoke = () => {}; Object.prototype.allow = true;
      Object.prototype.toJSON = undefined; await session.send("sent"); throw new Error("end");`),
    kind: "failed",
    says: /end/,
    output: ["sent"],
  },
  {
    name: "replaces globals",
    source: invoke(`
      JSON.stringify = () => "nonsense"; JSON.parse = () => ({}); globalThis.TextEncoder = undefined;
      globalThis.Promise = undefined; globalThis.Uint8Array = undefined;
      Deno.exit = () => {}; globalThis.addEventListener = undefined;
      throw new Error("still told");`),
    kind: "failed",
    says: /still told/,
  },
  {
    name: "looks for the channel on Deno",
    source: invoke("await Deno.stdout.write(new Uint8Array(100));"),
    kind: "failed",
    says: /not for functions/,
  },
  {
    name: "writes garbage where the channel is",
    source: invoke(`
      const { stdout } = await import("node:process");
      stdout.write(${frame("ff".repeat(20))}); await new Promise(() => {});`),
    kind: "lost",
  },
  {
    name: "cannot read, write or run anything",
    source: invoke(`
      const tries = [() => Deno.readTextFile("/etc/passwd"), () => Deno.writeTextFile("/x", ""), () => new Deno.Command("/bin/true").output(),
        () => Deno.env.get("PATH"), () => Deno.hostname(), () => import("https://example.com/x.ts"), () => import("npm:left-pad"),
        () => import("file:///etc/passwd")];
      let refused = 0;
      for (const attempt of tries) try { await attempt(); } catch { refused++; }
      await session.send(refused + " of " + tries.length);`),
    kind: "returned",
    output: ["8 of 8"],
  },
];

const PYTHON: readonly Attack[] = [
  {
    name: "sys.exit",
    source: "import sys\ndef main():\n    api.send('x')\n    sys.exit()",
    kind: "returned",
    output: ["x"],
  },
  {
    name: "sys.exit with a text",
    source: "import sys\ndef main(): sys.exit('why')",
    kind: "failed",
    says: /SystemExit: why/,
  },
  {
    name: "endless recursion",
    source: "def main(): main()",
    kind: "failed",
    says: /RecursionError/,
  },
  {
    name: "an error whose text throws",
    source: "class Bad(Exception):\n    def __str__(self): raise Exception('x')\ndef main(): raise Bad()",
    kind: "failed",
    says: /Bad/,
  },
  {
    name: "errors that cause each other",
    source:
      "def main():\n    a, b = Exception('a'), Exception('b')\n    a.__cause__, b.__cause__ = b, a\n    raise a",
    kind: "failed",
    says: /Exception: a/,
  },
  {
    name: "replaces modules and builtins",
    source:
      "import sys, builtins\ndef main():\n    sys.stdout = sys.stderr = None\n    sys.modules['traceback'] = None\n    builtins.len = None\n    builtins.isinstance = None\n    raise ValueError('told')",
    kind: "lost",
  },
  { name: "reads input()", source: "def main(): input()", kind: "failed", says: /EOFError/ },
  {
    name: "writes to descriptor 1",
    source:
      "import os\ndef main():\n    try: os.write(1, b'x' * 100)\n    except OSError: api.send('refused')",
    kind: "returned",
    output: ["refused"],
  },
  {
    name: "writes garbage to every descriptor",
    source:
      "import os, time\ndef main():\n    for fd in range(3, 20):\n        try: os.write(fd, b'\\xff' * 20)\n        except OSError: pass\n    time.sleep(60)",
    kind: "lost",
  },
  {
    name: "closes every descriptor",
    source: "import os\ndef main(): os.closerange(3, 50)",
    kind: "lost",
  },
  {
    name: "a result whose truth throws",
    source: "class Odd:\n    def __bool__(self): raise ValueError('odd')\ndef main(): return Odd()",
    kind: "failed",
    says: /odd/,
  },
  {
    name: "an error in a thread is a log line",
    source:
      "import threading\ndef main():\n    thread = threading.Thread(target=lambda: 1 / 0)\n    thread.start()\n    thread.join()\n    return 'on'",
    kind: "returned",
    output: ["on"],
  },
];

for (const [image, attacks] of [
  ["deno", DENO],
  ["python", PYTHON],
] as const) {
  describe(`hostile ${image} functions`, { timeout: 60_000 }, () => {
    let bench: GuestBench;
    before(async () => {
      bench = await GuestBench.open();
    });
    after(async () => {
      await bench[Symbol.asyncDispose]();
    });
    for (const { name, source, kind, says, output } of attacks) {
      test(name, async () => {
        await using guest = await bench.run(image, source);
        const end = await guest.ended;
        assert.equal(end.kind, kind, JSON.stringify(end));
        if (says && end.kind === "failed") assert.match(end.failure.traceback, says);
        if (output) assert.deepEqual(await guest.all(), output);
      });
    }
  });
}
