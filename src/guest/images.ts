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
  return {
    deno: {
      file: "deno.js",
      flags: [
        "--quiet",
        "--no-code-cache",
        "--allow-read=/tmp",
        "--allow-write=/tmp",
        "--allow-net",
        // The runner points the runtime's own libraries to its proxy (deno/socks.ts).
        "--allow-env=ALL_PROXY",
        `--import-map=${guestDir}/${DENO_IMPORTS_FILE}`,
      ],
    },
    // Compiled: parsing the source at every start would cost 7 ms and 2.5 MB.
    python: { file: "python.pyc", flags: [] },
  };
}

/**
 * Whether the libraries of a runtime can open connections (fetch, requests): they need `net` and, for sockets on
 * the sandbox's loopback, the system call group of that name. `net` alone is reached through the function API.
 */
export function bridgesSockets(grant: Pick<Grant, "net" | "syscalls">): boolean {
  return grant.net !== undefined && grant.syscalls.includes("loopback");
}
