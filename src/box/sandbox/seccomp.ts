// Builds the seccomp filters at the box's start. The rules are data (seccomp-profiles.ts), libseccomp turns them
// into BPF in a helper process, and the result is checked for its shape before bwrap ever sees it.
// Nothing is cached on disk: a build takes 40 ms, and a filter read back from a file would have to be trusted.

import { execFile } from "node:child_process";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { z } from "zod";
import { messageOf } from "../../base/errors.ts";
import { SandboxUnavailable } from "./sandbox-unavailable.ts";
import { rulesOf, type SandboxProfile } from "./seccomp-profiles.ts";

const run = promisify(execFile);

/** Nothing can be made below a device, so Deno keeps no cache of the helper. */
const NO_CACHE = "/dev/null/deno";
const HELPER = fileURLToPath(new URL("./seccomp-helper.ts", import.meta.url));

/** Milliseconds the helper may take: 40 ms on an idle machine. */
const HELPER_MS = 20_000;
/** The kernel's own bound, BPF_MAXINSNS of 8 bytes each. */
const PROGRAM_BYTES_MAX = 4096 * 8;

/** A filter as struct sock_filter[] in this machine's byte order, and what it was made from. */
export interface SeccompFilter {
  readonly profile: SandboxProfile;
  readonly program: Uint8Array;
  /** Numbers of the calls named in the rules and of `names`; negative: absent on this architecture. */
  readonly numbers: Readonly<Record<string, number>>;
}

const helperOutput = z.array(
  z.object({ program: z.string().regex(/^(?:[0-9a-f]{16})+$/), numbers: z.record(z.string(), z.number()) }),
);

/**
 * Builds the filters of several profiles in one helper run.
 * @param deno path of the Deno binary.
 * @param names further system calls whose numbers are wanted.
 * @throws SandboxUnavailable when libseccomp is missing or refuses.
 */
export async function buildFilters(
  deno: string,
  profiles: readonly SandboxProfile[],
  names: readonly string[] = [],
): Promise<SeccompFilter[]> {
  const input = profiles.map((profile) => ({
    names,
    rules: rulesOf(profile).map((rule) => ({
      name: rule.name,
      tests: rule.tests.map((test) => ({
        argument: test.argument,
        mask: String(test.mask),
        value: String(test.value),
      })),
    })),
  }));
  const output = helperOutput.parse(JSON.parse(await runHelper(deno, JSON.stringify(input))));
  return output.map(({ program, numbers }, index) => {
    const profile = profiles[index];
    if (profile === undefined || program.length / 2 > PROGRAM_BYTES_MAX) {
      throw new SandboxUnavailable(
        `Cannot build the system call filter: program of ${program.length / 2} bytes`,
      );
    }
    return { profile, program: Buffer.from(program, "hex"), numbers };
  });
}

async function runHelper(deno: string, input: string): Promise<string> {
  const flags = ["run", "--no-prompt", "--no-config", "--no-lock", "--no-remote", "--no-npm", "--allow-ffi"];
  const env = { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", DENO_DIR: NO_CACHE };
  try {
    const running = run(deno, [...flags, HELPER], { env, timeout: HELPER_MS, killSignal: "SIGKILL" });
    running.child.stdin?.on("error", () => {
      /* the helper died early: the rejection tells why */
    });
    running.child.stdin?.end(input);
    return (await running).stdout;
  } catch (error) {
    const stderr: unknown = error instanceof Error ? Reflect.get(error, "stderr") : undefined;
    const detail = typeof stderr === "string" ? stderr.trim().split("\n").slice(0, 3).join(" ") : "";
    throw new SandboxUnavailable(`Cannot build the system call filter: ${detail || messageOf(error)}`, {
      cause: error,
      advice: "Install libseccomp2 2.5 or newer (apt-get install libseccomp2).",
    });
  }
}
