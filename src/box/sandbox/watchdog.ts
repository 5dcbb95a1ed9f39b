// The process that outlives a killed box, for a moment: a shell that waits until the box's end of its stdin closes,
// however the box ended, then kills every instance and removes control groups and staging directory. bwrap's own
// --die-with-parent cannot do it: until both of its processes run, the death of one leaves the other waiting for
// it for ever. Host side; it runs as the box's user and takes nothing from functions. Spec: docs/spec/sandbox.md 5.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import type { Log } from "../../base/log.ts";
import { SandboxUnavailable } from "./sandbox-unavailable.ts";

/** Rounds of killing and removing, 20 ms apart, before the watchdog gives up: 10 s, as SANDBOX_LIMITS.killMs. */
const ROUNDS_MAX = 500;

/**
 * $1 is the staging directory, the others make up the parent control group. Both drivers' files are tried: what is
 * not there is not written. Frozen processes cannot fork, so a list read while frozen is complete.
 */
const SCRIPT = `
trap '' HUP INT QUIT TERM
while read -r _; do :; done
exec 2>/dev/null
stage=$1
shift
put() { [ -e "$2" ] && echo "$1" >"$2"; }
strike() {
  put 1 "$1/cgroup.kill" && return
  put FROZEN "$1/freezer.state"
  put 1 "$1/cgroup.freeze"
  while read -r pid; do kill -9 "$pid"; done <"$1/cgroup.procs"
  put 0 "$1/cgroup.freeze"
  put THAWED "$1/freezer.state"
}
round=0
while [ $round -lt ${ROUNDS_MAX} ]; do
  left=
  for group; do
    for child in "$group"/*/; do [ -d "$child" ] && strike "$child"; done
    rmdir "$group"/*/
    [ -d "$group" ] && ! rmdir "$group" && left=yes
  done
  [ -z "$left" ] && break
  sleep 0.02
  round=$((round + 1))
done
rm -rf -- "$stage"
`;

export interface WatchdogOptions {
  /** Directory of the laid-out images, removed in the end. */
  readonly stage: string;
  /** Directories of this life's parent control group; no other life may use the same. */
  readonly groups: readonly string[];
  readonly log: Log;
}

/** Cleans up after this process, whatever ends it. Disposing lets it do so now and waits for it. */
export class Watchdog implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  #isClosing = false;

  private constructor(child: ChildProcess, log: Log) {
    this.#child = child;
    this.#exited = this.#follow(log);
  }

  static async start({ stage, groups, log }: WatchdogOptions): Promise<Watchdog> {
    const child = spawn("/bin/sh", ["-c", SCRIPT, "bento-watchdog", stage, ...groups], {
      cwd: "/",
      env: { PATH: "/usr/bin:/bin" },
      stdio: ["pipe", "ignore", "ignore"],
      // A session of its own: Ctrl-C at the box's terminal must not end both.
      detached: true,
    });
    child.stdin?.on("error", () => {
      /* it has ended, which its exit tells */
    });
    try {
      await once(child, "spawn");
    } catch (cause) {
      throw new SandboxUnavailable("Cannot start functions: /bin/sh does not start", { cause });
    }
    child.unref();
    return new Watchdog(child, log);
  }

  async #follow(log: Log): Promise<void> {
    await once(this.#child, "exit");
    if (!this.#isClosing) log.error("the sandbox's watchdog has ended: a killed box may leave processes");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true;
    this.#child.ref();
    this.#child.stdin?.end();
    await this.#exited;
  }
}
