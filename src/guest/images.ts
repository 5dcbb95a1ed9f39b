// How each guest runtime is launched, as data: what the sandbox adds to the arguments it gives every runtime
// (spec/guest 6), and what a grant means for the launch.

import type { Grant } from "../wire/grant.ts";
import type { ImageName } from "../wire/policy.ts";

/** Where the directory of `buildGuests` is bound read-only inside a sandbox. */
export const GUEST_DIR = "/bento";

export interface GuestRunner {
  /** File name in the guest directory. */
  readonly file: string;
  /** Arguments to the runtime before the file, beyond those that isolate it. */
  readonly flags: readonly string[];
}

/** What functions of the chromium image see the browser as, and all that their runtime may start. */
export const CHROMIUM_PATH = "/usr/bin/chromium";

/** Where the main file of a ready instance leaves what to begin with (deno/ready.ts). */
export const READY_GLOBAL = "bentoReady";

/** The main file of an instance that has a function of the box's own loaded before anybody asks for it (build.ts). */
export function readyFile(sourceHash: string): string {
  return `ready-${sourceHash.slice(0, 16)}.js`;
}

/** The import map beside the Deno runner. */
export const DENO_IMPORTS_FILE = "imports.json";

/** Tor's control port for Python functions (python/tor_control.py), beside the runner. */
export const PYTHON_TOR_FILE = "tor_control.pyc";

/**
 * @param guestDir where the runtime sees the guest directory.
 *
 * Deno's permissions are a second fence: namespaces, the empty root and the system call filter are the first, so
 * `--allow-net` opens nothing but the sandbox's own loopback.
 */
export function guestRunners(guestDir: string = GUEST_DIR): Readonly<Record<ImageName, GuestRunner>> {
  const deno = (environment: string): GuestRunner => ({
    file: "deno.js",
    flags: [
      "--quiet",
      "--no-code-cache",
      "--allow-read=/tmp",
      "--allow-write=/tmp",
      "--allow-net",
      `--allow-env=${environment}`,
      `--import-map=${guestDir}/${DENO_IMPORTS_FILE}`,
    ],
  });
  // The runner points the runtime's own libraries to its proxy (deno/socks.ts).
  const { file, flags } = deno("ALL_PROXY");
  // Starting a process, the runtime looks whether it is to report coverage.
  const starter = deno("ALL_PROXY,NODE_V8_COVERAGE");
  return {
    deno: { file, flags },
    chromium: { file: starter.file, flags: [...starter.flags, `--allow-run=${CHROMIUM_PATH}`] },
    // Compiled: parsing the source at every start would cost 7 ms and 2.5 MB.
    python: { file: "python.pyc", flags: [] },
  };
}

/**
 * Whether the libraries of a runtime can open connections (fetch, requests): they need `net` and, for sockets on
 * the sandbox's loopback, the system call group of that name. `net` alone is reached through the function API.
 */
export function bridgesSockets(grant: Pick<Grant, "image" | "net" | "syscalls">): boolean {
  if (grant.net === undefined) return false;
  // The browser has no other way out, and its profile holds the group.
  return grant.image === "chromium" || grant.syscalls.includes("loopback");
}
