// Starts one process in a box with bwrap. Host side. bwrap is held before it forks: it waits for its arguments on a
// descriptor, and gets them only after the caller has put it into its control group, so that everything it makes is
// born there. (--block-fd would hold the guest later, and would let it go if this process died.) No host path is in
// its argv or environment, and the guest inherits descriptors 0, 1 and 2 only. Spec: docs/spec/sandbox.md 5.
// Documentation: bwrap(1), --args, --seccomp, --json-status-fd, --as-pid-1.

import { type ChildProcess, execFile, type StdioOptions, spawn } from "node:child_process";
import { access, constants, stat } from "node:fs/promises";
import type { Duplex } from "node:stream";
import { promisify } from "node:util";
import { z } from "zod";
import { messageOf } from "../../base/errors.ts";
import type { InheritedDescriptors } from "./inherited.ts";
import { SandboxUnavailable } from "./sandbox-unavailable.ts";
import type { StagedImage } from "./stage.ts";

const run = promisify(execFile);
const PRLIMIT = "/usr/bin/prlimit";
/** First version with --disable-userns. */
const VERSION_MIN = [0, 8, 0] as const;
/** Bytes of one status document of bwrap: real ones have under 300. */
const STATUS_BYTES_MAX = 4096;

const childStatus = z.object({ "child-pid": z.number().int().positive() });

export interface Bubblewrap {
  readonly path: string;
  readonly version: string;
}

/** Finds bwrap and refuses one that is setuid or too old. */
export async function findBubblewrap(): Promise<Bubblewrap> {
  const advice = "Install bubblewrap 0.8.0 or newer (apt-get install bubblewrap).";
  for (const path of ["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"]) {
    const found = await stat(path).catch(() => undefined);
    if (!found) continue;
    // A setuid bwrap does its mounting with the host's root powers, so any slip in it is a slip of root.
    if ((found.mode & 0o6000) !== 0) {
      throw new SandboxUnavailable(`Cannot use ${path}: it is setuid`, { advice: `chmod u-s,g-s ${path}` });
    }
    const version = await bubblewrapVersion(path, advice);
    return { path, version };
  }
  throw new SandboxUnavailable("Cannot start functions: bubblewrap is not installed", { advice });
}

async function bubblewrapVersion(path: string, advice: string): Promise<string> {
  let output: string;
  try {
    output = (await run(path, ["--version"], { env: {} })).stdout;
    await access(PRLIMIT, constants.X_OK);
  } catch (error) {
    throw new SandboxUnavailable(`Cannot use ${path}: ${messageOf(error)}`, { cause: error, advice });
  }
  const version = /(\d+)\.(\d+)\.(\d+)/.exec(output);
  if (!version || !atLeast(version.slice(1, 4).map(Number), VERSION_MIN)) {
    throw new SandboxUnavailable(`Cannot use ${path}: version ${output.trim()}, wanted 0.8.0 or newer`, {
      advice,
    });
  }
  return version[0];
}

/** Compares dotted versions. */
export function atLeast(found: readonly number[], wanted: readonly number[]): boolean {
  for (const [index, part] of wanted.entries()) {
    const difference = (found[index] ?? 0) - part;
    if (difference !== 0) return difference > 0;
  }
  return true;
}

/** Who runs the guest and within which kernel limits. */
export interface BoxedProcess {
  readonly image: StagedImage;
  readonly filter: Uint8Array;
  readonly tmpBytes: number;
  readonly openFilesMax: number;
  readonly stackBytes: number;
  /** Private host uid and its process limit; absent: the server's own uid, where a count would hit others. */
  readonly private: { readonly uid: number; readonly processesMax: number } | undefined;
  /** Descriptors of this process that become the guest's 0, 1 and 2. */
  readonly guestFds: readonly [number, number, number];
  readonly inherited: InheritedDescriptors;
}

/** A bwrap that waits for `release` before it does anything. */
export interface HeldProcess {
  /** bwrap's own process: ends when the guest has ended, with its exit code or 128 + signal. */
  readonly monitor: ChildProcess;
  /** Undefined when the process could not be made; then `guestPid` rejects. */
  readonly monitorPid: number | undefined;
  /** Process id of the guest on the host, once bwrap made it. Rejects when bwrap fails. */
  readonly guestPid: Promise<number>;
  /** Hands bwrap its arguments. If this process dies first, bwrap finds that some are missing and ends. */
  release(): void;
}

/** The walls, in argv: they hold even if little arrives over the descriptor. */
const WALLS = [
  ["--unshare-all"],
  // No user namespace inside the box, even where the filter would allow one. Needs COMPLETE: without it, because
  // the box died before it could send it, bwrap ends at once instead of making processes that wait for each other.
  ["--disable-userns"],
  ["--cap-drop", "ALL"],
  ["--new-session", "--die-with-parent"],
  // Without its own init, bwrap's copy of the environment and arguments is not process 1 of the box.
  ["--as-pid-1"],
  ["--seccomp", "4", "--json-status-fd", "5"],
].flat();

/** The last of what goes over the descriptor: what the walls in argv cannot do without. */
const COMPLETE = "--unshare-user";

/** What is inside the walls, in the order in which bwrap carries it out. */
export function contentArguments(box: Pick<BoxedProcess, "image" | "tmpBytes">): string[] {
  const { plan, root, binds } = box.image;
  return [
    // The same everywhere: the host's own numbers would tell boxes apart.
    ["--uid", "1000", "--gid", "1000", "--hostname", "bento"],
    ["--ro-bind", root, "/"],
    ...binds.map(({ source, target }) => ["--ro-bind", source, target]),
    ...plan.devices.map((path) => ["--dev-bind", path, path]),
    ["--size", String(box.tmpBytes), "--perms", "0700", "--tmpfs", "/tmp"],
    ["--chdir", "/tmp"],
    ...Object.entries(plan.env).map(([name, value]) => ["--setenv", name, value]),
    COMPLETE,
  ].flat();
}

function resourceLimits(box: BoxedProcess): string[] {
  return [
    `--nofile=${box.openFilesMax}:${box.openFilesMax}`,
    `--fsize=${box.tmpBytes}:${box.tmpBytes}`,
    `--stack=${box.stackBytes}:${box.stackBytes}`,
    // A core dump would put a function's secrets on the relay's disk.
    "--core=0:0",
    "--memlock=65536:65536",
    "--msgqueue=0:0",
    ...(box.private ? [`--nproc=${box.private.processesMax}:${box.private.processesMax}`] : []),
  ];
}

/** Starts bwrap up to the point where it reads its arguments. */
export function spawnHeld(bubblewrap: Bubblewrap, box: BoxedProcess): HeldProcess {
  const stdio: StdioOptions & unknown[] = [...box.guestFds, "pipe", "pipe", "pipe"];
  const extra = box.inherited.numbers.filter((fd) => fd >= stdio.length);
  // bwrap closes what it reads arguments from: an empty file in place of each inherited descriptor ends it there.
  const closing = extra.flatMap((fd) => ["--args", String(fd)]);
  for (let fd = stdio.length; fd <= Math.max(...extra, 0); fd++) {
    stdio.push(extra.includes(fd) ? box.inherited.nullFd : "ignore");
  }
  const command = [bubblewrap.path, ...WALLS, ...closing, "--args", "3", "--", ...box.image.plan.argv];
  const monitor = spawn(PRLIMIT, [...resourceLimits(box), "--", ...command], {
    cwd: "/",
    env: {},
    stdio,
    ...(box.private ? { uid: box.private.uid, gid: box.private.uid } : {}),
  });
  const [, , , args, seccomp, status] = monitor.stdio as unknown as Duplex[];
  for (const stream of [args, seccomp, status]) {
    stream?.on("error", () => {
      /* bwrap died: guestPid and the exit event tell why */
    });
  }
  seccomp?.end(box.filter);
  const guestPid = readGuestPid(monitor, status);
  guestPid.catch(() => {
    /* the caller may give up before it looks */
  });
  return {
    monitor,
    monitorPid: monitor.pid,
    guestPid,
    release: () => {
      args?.end(`${contentArguments(box).join("\0")}\0`);
    },
  };
}

/** bwrap writes `{ "child-pid": 4711, ... }\n` once the child exists, and nothing when it fails before. */
async function readGuestPid(monitor: ChildProcess, status: Duplex | undefined): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  let text = "";
  status?.setEncoding("utf8");
  status?.on("data", (chunk: string) => {
    if (text.length < STATUS_BYTES_MAX) text += chunk;
    const end = text.indexOf("}");
    if (end < 0) return;
    try {
      resolve(childStatus.parse(JSON.parse(text.slice(0, end + 1)))["child-pid"]);
    } catch (error) {
      reject(
        new SandboxUnavailable("Cannot start instance: bwrap's status is not understood", { cause: error }),
      );
    }
  });
  monitor.once("error", (error) => {
    reject(new SandboxUnavailable(`Cannot start instance: ${error.message}`, { cause: error }));
  });
  monitor.once("exit", (code, signal) => {
    reject(new SandboxUnavailable(`Cannot start instance: bwrap ended with ${signal ?? String(code)}`));
  });
  return await promise;
}
