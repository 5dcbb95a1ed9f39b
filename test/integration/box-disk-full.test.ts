// A whole box on a disk that fills up under it: a small tmpfs in a mount namespace of its own. Storing, output that
// waits and a function's storage are refused by name, what was there stays, and all work again with room. Needs root.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const CHILD = fileURLToPath(new URL("../support/box-on-full-disk.ts", import.meta.url));

test("Box: on a full disk it refuses by name, loses nothing, and works again with room", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bento-full-"));
  const mount = 'mount -t tmpfs -o size=8m tmpfs "$0" && exec "$1" "$2" "$0"';
  const child = spawn("unshare", ["--mount", "sh", "-c", mount, dir, process.execPath, CHILD], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const [errors, [code]] = await Promise.all([text(child.stderr), once(child, "close")]);
  await rm(dir, { recursive: true, force: true });
  assert.equal(code, 0, errors);
});
