import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { newInstanceId, newInvocationToken, newShutdownToken } from "../../wire/token.ts";
import { HISTORY_FILE, HISTORY_LINES_MAX, isHistory, ShellHistory } from "./shell-history.ts";

async function folder(t: TestContext): Promise<string> {
  const dir = await mkdtemp(path.join(tmpdir(), "bento-history-"));
  t.after(() => rm(dir, { recursive: true, force: true }));
  return path.join(dir, "state");
}

test("isHistory: commands, and nothing that could be a token or a message", () => {
  for (const line of ["store ./hello", "exec counter add(5, 12)", "open counter", "recv --wait 10"])
    assert.ok(isHistory(line), line);
  const token = newInvocationToken();
  const secrets = [token, token.toUpperCase(), token.slice(0, 20), newShutdownToken(), newInstanceId()];
  for (const secret of secrets) {
    assert.ok(!isHistory(`exec ${secret} hello()`), secret);
    assert.ok(!isHistory(secret), secret);
    assert.ok(!isHistory(`shutdown  "${secret}"`), secret);
  }
  for (const line of ["send my password", "  send x", "", "  ", `store ${"./x".repeat(200)}`])
    assert.ok(!isHistory(line), line);
});

test("ShellHistory: only its user can read it, also when it was made otherwise", async (t) => {
  const dir = await folder(t);
  const history = new ShellHistory(dir);
  assert.deepEqual(await history.read(), []);
  for (const line of ["store hello", `exec ${newInvocationToken()}`, "send secret", "recv", "recv"])
    await history.add(line);
  const file = path.join(dir, HISTORY_FILE);
  assert.equal(await readFile(file, "utf8"), "store hello\nrecv\n");
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  await rm(file);
  await writeFile(file, "recv\n", { mode: 0o644 });
  await history.add("close");
  assert.equal((await stat(file)).mode & 0o777, 0o600);
});

test("ShellHistory: keeps so many lines, the newest", async (t) => {
  const dir = await folder(t);
  await new ShellHistory(dir).add("recv");
  const lines = Array.from({ length: HISTORY_LINES_MAX }, (_, index) => `store f${index}`);
  const file = path.join(dir, HISTORY_FILE);
  await writeFile(file, `${lines.join("\n")}\n`);
  assert.deepEqual(await new ShellHistory(dir).read(), lines);
  await writeFile(file, `recv\n${lines.join("\n")}\n`);
  assert.deepEqual(await new ShellHistory(dir).read(), lines);
  assert.equal(await readFile(file, "utf8"), `${lines.join("\n")}\n`);
});

test("ShellHistory: a folder that cannot be written to is no error", async (t) => {
  const dir = await folder(t);
  await new ShellHistory(dir).add("recv");
  const history = new ShellHistory(path.join(dir, HISTORY_FILE));
  assert.deepEqual(await history.read(), []);
  await history.add("close");
  assert.deepEqual(await new ShellHistory(dir).read(), ["recv"]);
});
