// What happens on a disk that is really full: a small tmpfs in a mount namespace of its own. Needs root.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const FILLER = fileURLToPath(new URL("./disk-filler.ts", import.meta.url));

async function onSmallDisk(what: "functions" | "storage"): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), "bento-full-"));
  try {
    const mount = 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$1" "$2" "$3" "$0"';
    const child = spawn("unshare", ["--mount", "sh", "-c", mount, dir, process.execPath, FILLER, what], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    const [errors, [code]] = await Promise.all([text(child.stderr), once(child, "close")]);
    assert.equal(code, 0, errors);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

const options = { skip: process.getuid?.() === 0 ? false : "needs root to mount a small disk" };

test(
  "FunctionStore: a full disk refuses cleanly, loses nothing, and works again with room",
  options,
  async () => {
    await onSmallDisk("functions");
  },
);

test(
  "FunctionStorage: a full disk refuses cleanly, loses nothing, and works again with room",
  options,
  async () => {
    await onSmallDisk("storage");
  },
);
