// Shows a file or an address in the user's browser, by the desktop's own means.

import { spawn } from "node:child_process";
import type { Cli } from "./cli.ts";

/** Never fails: where no program shows it, a note says where it is. */
export function openAddress(cli: Cli, address: string): void {
  const child = spawn("xdg-open", [address], { stdio: "ignore", detached: true });
  child.once("error", () => {
    cli.io.note(`No program to show pages was found; the page is at ${address}`);
  });
  child.unref();
}
