// Which tor this machine has.

import { execFile } from "node:child_process";
import { promisify } from "node:util";

/** `"Tor version 0.4.9.11"`, or undefined where there is none. */
export async function findTor(): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)("tor", ["--version"], { timeout: 10_000 });
    return stdout.split("\n", 1)[0]?.replace(/\.$/, "");
  } catch {
    // Not installed, or not a tor: either way there is none to use.
    return undefined;
  }
}
