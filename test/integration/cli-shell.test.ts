// `bento shell` and `bento fn dev` as a person uses them: on a pseudo-terminal, key by key.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { fileURLToPath } from "node:url";
import { TestBox } from "../../src/client/test-box.ts";

const BENTO = fileURLToPath(new URL("../../bento", import.meta.url));
const TERMINAL = fileURLToPath(new URL("../support/terminal.py", import.meta.url));
/** A key that is answered by nothing for so long hangs. */
const KEY_MS = 30_000;
const TAB = "\t";
const ENTER = "\r";
const UP = "\u001b[A";
const CTRL_C = "\u0003";

class Terminal {
  readonly #child: ChildProcess;
  #shown = "";
  #changed = Promise.withResolvers<void>();

  constructor(t: TestContext, home: string, args: readonly string[]) {
    const env = { PATH: process.env["PATH"], HOME: home, TERM: "xterm", NO_COLOR: "1" };
    this.#child = spawn("/usr/bin/python3", [TERMINAL, BENTO, ...args], { cwd: home, env });
    t.after(() => this.#child.kill("SIGKILL"));
    this.#child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.#shown += text;
      this.#changed.resolve();
    });
  }

  /** Types, and waits for what is shown then; returns what was shown until and with it. */
  async type(keys: string, wanted: string): Promise<string> {
    this.#shown = "";
    this.#child.stdin?.write(keys);
    const end = Date.now() + KEY_MS;
    while (!this.#shown.includes(wanted)) {
      this.#changed = Promise.withResolvers();
      const late = setTimeout(() => this.#changed.resolve(), KEY_MS);
      await this.#changed.promise;
      clearTimeout(late);
      assert.ok(Date.now() < end, `wanted ${JSON.stringify(wanted)}, shown: ${JSON.stringify(this.#shown)}`);
    }
    return this.#shown;
  }

  async exit(keys: string): Promise<number> {
    const exited = once(this.#child, "close");
    this.#child.stdin?.write(keys);
    const [code] = (await exited) as [number];
    return code;
  }
}

async function home(t: TestContext): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-shell-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

test("bento shell on a terminal: completes commands, functions, flags and saved names; history without tokens", async (t) => {
  const dir = await home(t);
  await using box = await TestBox.start();
  const args = ["shell", "--box", box.address, "--direct"];
  const first = new Terminal(t, dir, args);
  await first.type("", ">> ");
  await first.type(`sto${TAB}`, "store ");
  await first.type(`hel${TAB}`, "hello ");
  await first.type(`--a${TAB}`, "--as ");
  const stored = await first.type(`greet${ENTER}`, "saved: greet");
  await first.type(ENTER, ">> ");
  await first.type(`exec gr${TAB}`, "greet ");
  const started = await first.type(ENTER, "instance: ");
  await first.type(ENTER, ">> ");
  const shown = stored + started + (await first.type(`exec${ENTER}`, "enter token: ["));
  const token = /[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/.exec(shown)?.[0] ?? assert.fail(shown);
  await first.type(`${token}${ENTER}`, "enter call: ");
  await first.type(`x${ENTER}`, "instance: ");
  await first.type(`exec ${token}${ENTER}`, "instance: ");
  await first.type(`exec greet again${ENTER}`, "instance: ");
  // Back in history: the line before the last one with a token in it, and no answer to a question.
  await first.type(UP, "exec greet again");
  assert.doesNotMatch(await first.type(UP, "exec"), /exec \S/);
  await first.type(UP, "exec greet");
  await first.type(CTRL_C, ">> ");
  assert.equal(await first.exit(`exit${ENTER}`), 0);

  const file = path.join(dir, ".local/state/bento/shell-history");
  const kept = (await readFile(file, "utf8"))
    .trimEnd()
    .split("\n")
    .map((line) => line.trim());
  assert.deepEqual(kept, ["store hello --as greet", "exec greet", "exec", "exec greet again", "exit"]);
  assert.equal((await stat(file)).mode & 0o777, 0o600);

  const second = new Terminal(t, dir, args);
  await second.type("", ">> ");
  await second.type(UP, "exit");
  await second.type(UP, "exec greet again");
  await second.type(CTRL_C, ">> ");
  assert.equal(await second.exit(CTRL_C), 0);
});
