// The author's loop as authors use it: init, dev, test, pack, with real boxes that these commands start, and nothing left
// behind. Every example runs its own tests here.

import assert from "node:assert/strict";
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { get } from "node:http";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { TestBox } from "../../src/client/test-box.ts";
import { PATHS } from "../../src/wire/api.ts";
import { endInput, type Finished, finished } from "../support/bento-command.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const BENTO = path.join(ROOT, "bento");
const EXAMPLES = path.join(ROOT, "examples");
/** A command that hangs is a failure. */
const COMMAND_MS = 120_000;
/** Examples tested at once. */
const AT_ONCE = 2;

class Author {
  readonly dir: string;
  readonly tmp: string;

  constructor(dir: string) {
    this.dir = dir;
    this.tmp = path.join(dir, "tmp");
  }

  start(args: readonly string[], program = BENTO): ChildProcessWithoutNullStreams {
    const env = { PATH: process.env["PATH"], HOME: this.dir, TMPDIR: this.tmp };
    return spawn(program, args, { cwd: this.dir, env, timeout: COMMAND_MS });
  }

  async bento(args: readonly string[], program?: string): Promise<Finished> {
    const child = this.start(args, program);
    endInput(child);
    return finished(child);
  }

  async write(file: string, text: string): Promise<void> {
    await mkdir(path.dirname(path.join(this.dir, file)), { recursive: true });
    await writeFile(path.join(this.dir, file), text);
  }

  /** Files and processes of boxes: those lie in, or were started for, our temporary folder. */
  async leftovers(): Promise<string[]> {
    const found = (await readdir(this.tmp)).filter((name) => name.startsWith("bento-"));
    for (const pid of await readdir("/proc")) {
      if (!/^\d+$/.test(pid)) continue;
      const command = await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "");
      if (command.includes(this.tmp)) found.push(`${pid} ${command.replaceAll("\0", " ")}`);
    }
    return found;
  }
}

async function author(t: TestContext): Promise<Author> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-author-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  await mkdir(path.join(dir, "tmp"));
  return new Author(dir);
}

test("examples: each passes its own tests in the sandbox", async (t) => {
  const user = await author(t);
  const entries = await readdir(EXAMPLES, { withFileTypes: true });
  const names = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  assert.ok(names.length >= 9, names.join(", "));
  const waiting = [...names];
  const worker = async () => {
    for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) {
      const { code, out, err } = await user.bento(["fn", "test", path.join(EXAMPLES, name)]);
      assert.equal(code, 0, `${name}: ${out}${err}`);
      assert.match(out, /\n[1-9]\d* passed, 0 failed\n$/, name);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  assert.deepEqual(await user.leftovers(), []);
});

test("bento fn init: folders that type-check, with a manifest that editors complete; never over a file", async (t) => {
  const user = await author(t);
  const listed = await user.bento(["fn", "init", "--list", "--json"]);
  const templates = listed.out
    .trimEnd()
    .split("\n")
    .map((line) => (JSON.parse(line) as { template: string }).template);
  assert.ok(templates.includes("hello") && templates.includes("hello-python"));
  for (const template of templates) {
    const made = await user.bento(["fn", "init", `My ${template}!`, "--template", template]);
    assert.equal(made.code, 0, made.err);
    const folder = path.join(user.dir, `My ${template}!`);
    const manifest = JSON.parse(await readFile(path.join(folder, "manifest.json"), "utf8"));
    assert.equal(manifest.name, `my-${template}`);
    const schema = await readFile(path.join(folder, manifest.$schema), "utf8");
    assert.equal(schema, await readFile(path.join(ROOT, "docs/schema/manifest.schema.json"), "utf8"));
    assert.match(await readFile(path.join(folder, "README.md"), "utf8"), new RegExp(`^# my-${template}\\n`));
    const files = await readdir(folder);
    if (!files.includes("tsconfig.json")) continue;
    // What `npm install` makes.
    if (files.includes("package.json"))
      await symlink(path.join(ROOT, "node_modules"), path.join(folder, "node_modules"));
    const checked = await user.bento(["-p", folder], path.join(ROOT, "node_modules/.bin/tsc"));
    assert.equal(checked.code, 0, `${template}: ${checked.out}`);
  }
  // A control: the types are really there.
  const hello = path.join(user.dir, "My hello!");
  await writeFile(path.join(hello, "wrong.ts"), 'import { run } from "bento/testing"; run({ argz: [] });');
  const wrong = await user.bento(["-p", hello], path.join(ROOT, "node_modules/.bin/tsc"));
  assert.match(wrong.out, /wrong\.ts.*argz/);

  await user.write("taken/notes.txt", "mine");
  const refused = await user.bento(["fn", "init", "taken"]);
  assert.equal(refused.code, 2);
  assert.deepEqual(await readdir(path.join(user.dir, "taken")), ["notes.txt"]);
  assert.equal((await user.bento(["fn", "init", "taken/notes.txt"])).code, 2);
  assert.equal(await readFile(path.join(user.dir, "taken/notes.txt"), "utf8"), "mine");
  const unknown = await user.bento(["fn", "init", "x", "--template", "helo"]);
  assert.equal(unknown.code, 2);
  assert.match(unknown.err, /Did you mean hello\?/);
});

test("bento fn test: 1 when a test fails, 2 when there is none, 3 for a function that cannot be loaded", async (t) => {
  const user = await author(t);
  await user.write(
    "f/function.ts",
    (await readFile(path.join(EXAMPLES, "hello/function.ts"), "utf8")).replace("hello $", "bye $"),
  );
  await user.write("f/manifest.json", '{"name": "f", "image": "deno"}');
  assert.equal((await user.bento(["fn", "test", "f"])).code, 2);
  await cp(path.join(EXAMPLES, "hello/function.test.ts"), path.join(user.dir, "f/function.test.ts"));
  await user.write(
    "f/test_it.py",
    `import unittest, bento_testing
class It(unittest.TestCase):
    def test_passes(self):
        with bento_testing.install() as function:
            self.assertEqual(function.run("Ada").text, "bye Ada\\n")
            self.assertEqual(function.logs(), [("info", "greeting 1")])
    def test_call_expressions_are_for_python(self):
        with self.assertRaises(RuntimeError):
            bento_testing.run(call="hello()")
`,
  );
  const failed = await user.bento(["fn", "test", "f", "--json"]);
  assert.equal(failed.code, 1);
  assert.deepEqual(JSON.parse(failed.out), { passed: 2, failed: 2 }, failed.err);
  await user.write("f/function.ts", "export default {");
  assert.equal((await user.bento(["fn", "test", "f"])).code, 3);
  assert.deepEqual(await user.leftovers(), []);
});

test("bento fn pack: the same bytes in another folder; a package file is a function everywhere", async (t) => {
  const user = await author(t);
  const copies = ["a", "deep/er/b"];
  for (const copy of copies) {
    await cp(path.join(EXAMPLES, "outline"), path.join(user.dir, copy), { recursive: true });
    await symlink(path.join(ROOT, "node_modules"), path.join(user.dir, copy, "node_modules"));
  }
  const packed = await user.bento(["fn", "pack", "a", "--json"]);
  assert.equal(packed.code, 0, packed.err);
  const told = JSON.parse(packed.out);
  assert.equal(told.file, "outline.bento.json");
  assert.ok(
    told.licences.some(
      (each: { name: string; licence: string }) => each.name === "parse5" && each.licence === "MIT",
    ),
  );
  assert.deepEqual(told.asks, { name: "outline", description: "The headings of a page", image: "deno" });
  assert.equal(told.defaultPolicy.kind, "granted");
  const file = path.join(user.dir, "outline.bento.json");
  const text = await readFile(file, "utf8");
  assert.match(text, /Permission is hereby granted/, "the licence of what is bundled");
  assert.equal((await user.bento(["fn", "pack", "deep/er/b", "-o", "other.json"])).code, 0);
  assert.equal(await readFile(path.join(user.dir, "other.json"), "utf8"), text);

  const shown = await user.bento(["fn", "pack", "a"]);
  assert.match(shown.out, new RegExp(`sha256 +${told.sourceHash}`));
  assert.match(shown.out, /bundled +entities .*\n +parse5 8\.1\.1 \(MIT\)/);
  assert.match(shown.out, /✓ the default policy grants it/);
  for (const command of ["run", "store"]) {
    const dry = await user.bento([command, "outline.bento.json", "--dry-run", "--json"]);
    assert.equal(JSON.parse(dry.out).sourceHash, told.sourceHash, command);
  }
  // Its tests find it, and nothing else: the folder's own function is gone.
  await mkdir(path.join(user.dir, "alone"));
  await cp(file, path.join(user.dir, "alone/outline.bento.json"));
  await cp(path.join(EXAMPLES, "outline/function.test.ts"), path.join(user.dir, "alone/outline.test.ts"));
  const tested = await user.bento(["fn", "test", "alone/outline.bento.json"]);
  assert.match(tested.out, /\n2 passed, 0 failed\n$/);

  await user.write("g/function.py", "x = 1\n");
  await user.write("g/manifest.json", '{"name": "g", "image": "python", "memory": "1TiB"}');
  const greedy = await user.bento(["fn", "pack", "g"]);
  assert.equal(greedy.code, 0);
  assert.match(
    greedy.out,
    /✗ the default policy refuses it\n +memory +wanted 1 TiB +granted at most 128 MiB/,
  );
});

/** `bento fn dev`, with what it says. */
class Dev {
  readonly child: ChildProcess;
  #said = "";
  #changed = Promise.withResolvers<void>();

  constructor(child: ChildProcess) {
    this.child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.#said += text;
        this.#changed.resolve();
      });
    }
    child.once("close", () => this.#changed.resolve());
  }

  /** Resolves when all of these have been said since the last call. */
  async says(...wanted: RegExp[]): Promise<string> {
    for (;;) {
      if (wanted.every((each) => each.test(this.#said))) break;
      const { exitCode } = this.child;
      assert.equal(exitCode, null, `ended with ${exitCode}, without ${wanted.join(", ")}: ${this.#said}`);
      this.#changed = Promise.withResolvers();
      await this.#changed.promise;
    }
    const said = this.#said;
    this.#said = "";
    return said;
  }
}

test("bento fn dev: reloads on save, explains what is wrong, takes messages, and leaves nothing behind", async (t) => {
  const user = await author(t);
  const manifest = (more = "") => `{"name": "f", "image": "deno", "storage": {"bytes": "1MiB"}${more}}`;
  const code = (body: string) =>
    `import { defineFunction } from "bento/function";\nimport { word } from "./lib/word.ts";\nexport default defineFunction({\n  async invoke(session, env, ...args) {\n${body}\n  },\n});\n`;
  const talk = `    env.log.info("log line " + word);
    const count = Number(await (await env.storage?.get("n"))?.text() ?? 0) + 1;
    await env.storage?.put("n", String(count));
    await session.send(\`run \${count} \${word} \${args}\\n\`);
    for await (const message of session) {
      if (message.length === 3) break;
      await session.send("got " + new TextDecoder().decode(message) + "\\n");
    }`;
  await user.write("f/lib/word.ts", 'export const word: string = "one";\n');
  await user.write("f/manifest.json", manifest());
  await user.write("f/function.ts", code(talk));
  const child = user.start(["fn", "dev", "f", "Ada"]);
  const dev = new Dev(child);
  const said = await dev.says(/run 1 one Ada/, /log line one/);
  assert.match(said, /✓ granted: image deno · storage 1 MiB/);
  child.stdin?.write("hello\n");
  await dev.says(/got hello/);

  // Another function has its own storage; a save by rename, of what is imported.
  await user.write("f/lib/word.ts.new", 'export const word: string = "two";\n');
  await rename(path.join(user.dir, "f/lib/word.ts.new"), path.join(user.dir, "f/lib/word.ts"));
  await dev.says(/run 1 two Ada/, /log line two/);
  // "end" ends it; Enter runs it again, with the storage that it left.
  child.stdin?.write("end\n");
  await dev.says(/waiting for a change, Enter runs it again/);
  child.stdin?.write("\n");
  await dev.says(/run 2 two Ada/);

  await user.write("f/function.ts", `${code(talk)}oops(`);
  await dev.says(/Cannot bundle .*function\.ts:\d+/, /waiting for a change/);
  await user.write("f/manifest.json", manifest(', "memory": "8TiB"'));
  await user.write("f/function.ts", code("    word.nothing.at.all;"));
  await dev.says(/✗ the box refuses f\n +memory +wanted 8 TiB +granted at most 128 MiB/);
  await user.write("f/manifest.json", manifest());
  const failed = await dev.says(/the function failed: TypeError/, /waiting/);
  assert.match(failed, /at .*\(function\.ts:5:\d+\)/);
  assert.match(failed, /5 \| {5}word\.nothing\.at\.all;\n +\| +\^/);

  const closed = new Promise<number | null>((resolve) => child.once("close", resolve));
  assert.ok((await user.leftovers()).length > 0, "a control: there is a box while it runs");
  child.kill("SIGINT");
  assert.equal(await closed, 0);
  assert.deepEqual(await user.leftovers(), []);
});

test("bento fn dev: what it started ends with it, however it ends; wrong uses", async (t) => {
  const user = await author(t);
  const child = user.start(["fn", "dev", path.join(EXAMPLES, "chat-python"), "--json"]);
  const dev = new Dev(child);
  await dev.says(/"event":"output".*Say something/);
  child.stdin?.end("hi\n");
  await dev.says(/You said: hi/, /That was 1 message/, /"event":"waiting"/);
  // The launcher is replaced by node: this is the command itself.
  const closed = new Promise((resolve) => child.once("close", resolve));
  child.kill("SIGKILL");
  await closed;
  const end = Date.now() + COMMAND_MS;
  while ((await user.leftovers()).some((each) => /^\d/.test(each))) {
    assert.ok(Date.now() < end, "its box is still there");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  for (const args of [
    ["fn", "dev", "nothing-like-it"],
    ["fn", "dev", "hello", "--net", "--box", "x:1"],
    ["fn", "dev", "hello", "--net", "--private", "127.0.0.0/8"],
    ["fn", "dev", "hello", "--inspect", "0"],
    ["fn", "dev"],
  ])
    assert.equal((await user.bento(args)).code, 2, args.join(" "));
});

test("bento fn dev --direct ADDRESS, --box BOX --direct: on another box, where each version is shut down", async (t) => {
  const user = await author(t);
  await using box = await TestBox.start({
    script: async (call) => {
      call.output(Buffer.from("attached\n"));
      for await (const message of call.input) call.output(message);
      return { kind: "returned" };
    },
  });
  await user.write("f.py", "x = 1\n");
  for (const where of [
    ["--direct", box.address],
    ["--box", box.address, "--direct"],
  ]) {
    const ended = () => box.requests.filter((request) => request === `POST ${PATHS.shutdown}`).length;
    const before = ended();
    const child = user.start(["fn", "dev", "./f.py", ...where]);
    const dev = new Dev(child);
    await dev.says(/attached/);
    assert.equal(ended(), before, "a control: it is not shut down while it runs");
    await user.write("f.py", `x = ${before + 2}\n`);
    await dev.says(/attached/);
    assert.equal(ended(), before + 1);
    const closed = new Promise((resolve) => child.once("close", resolve));
    child.kill("SIGINT");
    assert.equal(await closed, 0);
    assert.equal(ended(), before + 2);
  }
  assert.deepEqual(await user.leftovers(), []);
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Evaluates an expression in the function's process, as a debugger does. */
async function evaluate(url: string, expression: string): Promise<unknown> {
  const socket = new WebSocket(url);
  const answered = Promise.withResolvers<unknown>();
  socket.addEventListener("error", () => answered.reject(new Error("no inspector")));
  socket.addEventListener("close", () => answered.reject(new Error("the inspector left")));
  socket.addEventListener("open", () => {
    const params = { expression, returnByValue: true };
    socket.send(JSON.stringify({ id: 1, method: "Runtime.evaluate", params }));
  });
  socket.addEventListener("message", ({ data }) => {
    const message = JSON.parse(String(data)) as { id?: number; result?: { result: { value: unknown } } };
    if (message.id === 1) answered.resolve(message.result?.result.value);
  });
  try {
    return await answered.promise;
  } finally {
    socket.close();
  }
}

test("bento fn dev --inspect: an inspector into the sandbox, which holds; none for other host names", async (t) => {
  const user = await author(t);
  const port = await freePort();
  const child = user.start(["fn", "dev", path.join(EXAMPLES, "chat"), "--inspect", String(port)]);
  const dev = new Dev(child);
  const said = await dev.says(/Say something/, /Inspector at/);
  assert.match(said, /what differs: system call group loopback/);
  assert.match(said, /granted: .*syscalls loopback/);
  const list = async (host: string) =>
    new Promise<{ status: number | undefined; body: string }>((resolve, reject) => {
      get({ host: "127.0.0.1", port, path: "/json", headers: { host }, agent: false }, (response) => {
        let body = "";
        response.setEncoding("utf8").on("data", (part: string) => (body += part));
        response.on("end", () => resolve({ status: response.statusCode, body }));
      }).on("error", reject);
    });
  assert.equal((await list("onions.example")).status, 403);
  const listed = await list(`localhost:${port}`);
  const [target] = JSON.parse(listed.body) as { webSocketDebuggerUrl: string }[];
  const url = `ws://127.0.0.1:${port}/${target?.webSocketDebuggerUrl.split("/").at(-1)}`;
  assert.equal(await evaluate(url, "6 * 7"), 42);
  // A control: the file is there for who is outside.
  assert.notEqual(await readFile("/etc/passwd", "utf8"), "");
  const attempts = {
    file: 'Deno.readTextFileSync("/etc/passwd")',
    process: 'new Deno.Command("/bin/sh").outputSync().code',
    environment: "JSON.stringify(Deno.env.toObject())",
  };
  for (const [what, attempt] of Object.entries(attempts)) {
    const outcome = await evaluate(
      url,
      `(() => { try { return "got " + ${attempt}; } catch (e) { return "refused: " + e.name; } })()`,
    );
    assert.match(String(outcome), /^refused: /, what);
  }
  // It is the running function that is looked into, and it goes on.
  child.stdin?.end("hello\n");
  await dev.says(/You said: hello/, /That was 1 message/);
  const closed = new Promise((resolve) => child.once("close", resolve));
  child.kill("SIGINT");
  assert.equal(await closed, 0);
  assert.deepEqual(await user.leftovers(), []);
  await assert.rejects(list(`127.0.0.1:${port}`), /ECONNREFUSED/);
  const wrong = await user.bento(["fn", "dev", "hello", "--inspect", "--net"]);
  assert.equal(wrong.code, 2);
});
