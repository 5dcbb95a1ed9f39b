// How each guest runtime is launched, as data: the sandbox puts the runtime's binary before these arguments.
// `guestDir` is where the built runners are seen from inside the sandbox (build.ts, spec/guest 6).

import type { Grant } from "../wire/grant.ts";

/** Where the directory of `buildGuests` is bound read-only inside a sandbox. */
export const GUEST_DIR = "/bento";

/** Files of `buildGuests`, relative to its directory. */
export const GUEST_FILE = {
  denoRunner: "deno.js",
  denoImports: "imports.json",
  pythonRunner: "python.py",
} as const;

/**
 * Arguments for `deno`. The permissions are a second fence: the namespaces, the empty root and the system call
 * filter are the first, so `--allow-net` opens nothing but the sandbox's own loopback.
 */
export function denoArguments(guestDir: string = GUEST_DIR): readonly string[] {
  return [
    "run",
    "--quiet",
    "--no-prompt",
    "--no-remote",
    "--no-npm",
    "--no-config",
    "--no-lock",
    "--no-code-cache",
    "--allow-read=/tmp",
    "--allow-write=/tmp",
    "--allow-net",
    "--allow-env=ALL_PROXY",
    // Without /proc V8 copies its builtins into every process: 2 MiB each.
    "--v8-flags=--no-short-builtin-calls",
    `--import-map=${guestDir}/${GUEST_FILE.denoImports}`,
    `${guestDir}/${GUEST_FILE.denoRunner}`,
  ];
}

/** Arguments for CPython 3.11 or later: isolated, without `site`. */
export function pythonArguments(guestDir: string = GUEST_DIR): readonly string[] {
  return ["-I", "-S", "-B", `${guestDir}/${GUEST_FILE.pythonRunner}`];
}

/** Whether the libraries of a runtime can open connections: they need sockets on the sandbox's loopback. */
export function bridgesSockets(grant: Pick<Grant, "net" | "syscalls">): boolean {
  return grant.net !== undefined && grant.syscalls.includes("loopback");
}
