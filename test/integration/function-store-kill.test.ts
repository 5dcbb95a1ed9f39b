// Kills a process in the middle of its adds, again and again on one store, and looks for what it acknowledged.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { FunctionStore } from "../../src/box/store/function-store.ts";
import { parseInvocationToken, parseShutdownToken } from "../../src/wire/token.ts";

const WRITER = fileURLToPath(new URL("./store-writer.ts", import.meta.url));
const KILLS = 10;

/** Runs the writer until it has acknowledged `count` changes, kills it, and returns all that it acknowledged. */
async function killAfter(dir: string, count: number): Promise<string[]> {
  const child = spawn(process.execPath, [WRITER, dir], { stdio: ["ignore", "pipe", "inherit"] });
  const lines: string[] = [];
  const output = createInterface({ input: child.stdout });
  output.on("line", (line) => {
    lines.push(line);
    if (lines.length === count) child.kill("SIGKILL");
  });
  const [[, signal]] = await Promise.all([once(child, "close"), once(output, "close")]);
  assert.equal(signal, "SIGKILL");
  return lines.filter((line) => /^\w+ \S{36} \S{47}$/.test(line));
}

test("FunctionStore: everything acknowledged is there after kill -9, nothing removed comes back", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bento-kill-"));
  try {
    const acknowledged: string[] = [];
    for (let kill = 0; kill < KILLS; kill++) acknowledged.push(...(await killAfter(dir, 40 + kill * 7)));
    assert.ok(acknowledged.length >= KILLS * 40);
    await using store = await FunctionStore.open({
      dir,
      functionsMax: 1_000_000,
      bytesMax: 2 ** 30,
      clock: systemClock,
      log: silentLog,
    });
    let kept = 0;
    for (const line of acknowledged) {
      const [what, invocation = "", shutdown = ""] = line.split(" ");
      const byInvocation = await store.findByInvocation(parseInvocationToken(invocation));
      const byShutdown = await store.findByShutdown(parseShutdownToken(shutdown));
      assert.equal(byInvocation !== undefined, what === "added");
      assert.equal(byShutdown?.id, byInvocation?.id);
      if (what === "added") kept++;
    }
    // In the store is what was acknowledged, and for each kill at most what its lanes had under way.
    assert.ok(
      store.count >= kept && store.count <= kept + KILLS * 8,
      `${store.count} stored, ${kept} acknowledged`,
    );
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
