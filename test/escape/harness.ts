// Talks to the probe programs, inside a box and outside it. One request, one answer; a probe that dies answers
// with the way it died. Places to run in: `box` is the product; `host` is a plain process; `bare` is the same box
// without system call filter and with /proc and /dev; `capable` is `bare` as root of its own user namespace.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { findDeno, type GuestFiles, type ImageName } from "../../src/box/sandbox/image.ts";
import {
  type Sandbox,
  type SandboxExit,
  SandboxHost,
  type SandboxHostOptions,
  type SandboxSpec,
} from "../../src/box/sandbox/sandbox.ts";
import type { SandboxProfile } from "../../src/box/sandbox/seccomp-profiles.ts";
import { ownUids } from "../support/own-uids.ts";

export const MIB = 1024 * 1024;
const PROBES = fileURLToPath(new URL("./probes", import.meta.url));
/** Milliseconds an answer may take on a crowded machine. */
const ANSWER_MS = 60_000;
export const UIDS = ownUids(500);
/** A user id outside every box's range, for controls that must not be root. */
const CONTROL_UID = UIDS.first + UIDS.count;

export type Argument = number | { readonly s: string } | { readonly b: string } | { readonly r: number };
export type Request =
  /** `exitChild` is the number of exit_group: a fork that gets through ends its child with it. */
  | { readonly seq: readonly (readonly [number, ...Argument[]])[]; readonly exitChild: number }
  | { readonly eval: string }
  | { readonly code: string };

/** `errno` is a name; `died` tells how a box ended, or the signal name of a control. */
export type Answer =
  | { readonly kind: "value"; readonly value: unknown }
  | { readonly kind: "errno"; readonly errno: string; readonly at: number }
  | { readonly kind: "error"; readonly error: string }
  | { readonly kind: "died"; readonly exit: SandboxExit };

const errnoNames = new Map(Object.entries(constants.errno).map(([name, value]) => [value, name]));

export const guest: GuestFiles = {
  dir: PROBES,
  runners: { deno: { file: "probe.js", flags: ["-A"] }, python: { file: "probe.py" } },
};

export const baseOptions = (dir: string): SandboxHostOptions => ({
  dir,
  guest,
  images: ["deno", "python"],
  uidRange: UIDS,
  total: { memoryBytes: 1024 * MIB, pidsMax: 1000, cpuPercent: 200 },
  instancesMax: 24,
  warm: [],
  warmLimits: { memoryBytes: 96 * MIB, pidsMax: 64, cpuPercent: 100 },
  log: silentLog,
  clock: systemClock,
});

export const spec = (
  image: ImageName,
  profile: SandboxProfile,
  limits: Partial<SandboxSpec["limits"]> = {},
): SandboxSpec => ({
  image,
  profile,
  limits: {
    memoryBytes: 128 * MIB,
    pidsMax: 48,
    cpuPercent: 100,
    tmpBytes: 8 * MIB,
    openFilesMax: 128,
    ...limits,
  },
});

/** A host in a directory of its own, removed with it. */
export async function openHost(
  options: Partial<SandboxHostOptions> = {},
): Promise<{ host: SandboxHost; dir: string } & AsyncDisposable> {
  const dir = await mkdtemp(join(tmpdir(), "bento-escape-"));
  const host = await SandboxHost.open({ ...baseOptions(dir), ...options });
  return {
    host,
    dir,
    [Symbol.asyncDispose]: async () => {
      await host[Symbol.asyncDispose]();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

/** One probe process. Requests are answered in order. */
export class Probe implements AsyncDisposable {
  readonly #stdin: Writable;
  readonly #lines: AsyncIterator<string>;
  readonly #ended: Promise<SandboxExit>;
  readonly #close: () => Promise<void>;

  private constructor(
    stdin: Writable,
    stdout: Readable,
    ended: Promise<SandboxExit>,
    close: () => Promise<void>,
  ) {
    this.#stdin = stdin;
    this.#lines = linesOf(stdout);
    this.#ended = ended;
    this.#close = close;
  }

  /** Takes over a sandbox's streams and waits until the probe is ready. */
  static async of(sandbox: Sandbox): Promise<Probe> {
    const probe = new Probe(sandbox.stdin, sandbox.stdout, sandbox.exited, async () => {
      await sandbox[Symbol.asyncDispose]();
    });
    const first = await probe.#lines.next();
    assert.equal(first.value, "ready", `probe did not start: ${sandbox.stderrTail()}`);
    return probe;
  }

  static async ofProcess(child: ChildProcess): Promise<Probe> {
    const { stdin, stdout } = child;
    assert.ok(stdin && stdout);
    stdin.on("error", () => undefined);
    const ended = new Promise<SandboxExit>((resolve) => {
      child.once("exit", (code, signal) => {
        const number = signal === null ? (code ?? 0) - 128 : constants.signals[signal];
        resolve(number > 0 ? { kind: "signalled", signal: number } : { kind: "exited", code: code ?? 0 });
      });
    });
    const probe = new Probe(stdin, stdout, ended, async () => {
      child.kill("SIGKILL");
      await ended;
      stdin.destroy();
      stdout.destroy();
    });
    assert.equal((await probe.#lines.next()).value, "ready");
    return probe;
  }

  async ask(request: Request): Promise<Answer> {
    this.#stdin.write(`${JSON.stringify(request)}\n`);
    const next = await withDeadline(this.#lines.next(), JSON.stringify(request).slice(0, 200));
    if (next.done === true) return { kind: "died", exit: await this.#ended };
    const reply = JSON.parse(next.value) as { value?: unknown; errno?: number; at?: number; error?: string };
    if (reply.errno !== undefined && reply.errno > 0) {
      return { kind: "errno", errno: errnoNames.get(reply.errno) ?? String(reply.errno), at: reply.at ?? 0 };
    }
    if (reply.error !== undefined) return { kind: "error", error: reply.error };
    return { kind: "value", value: reply.value };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }
}

async function* linesOf(stream: Readable): AsyncGenerator<string> {
  let text = "";
  stream.setEncoding("utf8");
  for await (const part of stream) {
    text += String(part);
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      yield text.slice(0, end);
      text = text.slice(end + 1);
    }
  }
}

async function withDeadline<T>(value: Promise<T>, what: string): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const cancel = systemClock.after(ANSWER_MS, () => {
    reject(new Error(`no answer after ${ANSWER_MS} ms: ${what}`));
  });
  try {
    return await Promise.race([value, promise]);
  } finally {
    cancel();
  }
}

export type Place = "host" | "root" | "bare" | "capable";

/** Starts a probe outside the product's box. */
export async function startControl(place: Place, image: ImageName): Promise<Probe> {
  const deno = findDeno();
  assert.ok(deno);
  const onHost = place === "host" || place === "root";
  const probes = onHost ? PROBES : "/bento";
  const program =
    image === "deno"
      ? [onHost ? deno : "/deno", "run", "-A", "--no-config", "--no-lock", `${probes}/probe.js`]
      : ["/usr/bin/python3", "-I", "-S", "-u", `${probes}/probe.py`];
  const walls =
    place === "capable"
      ? ["--unshare-all", "--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL"]
      : ["--unshare-all", "--unshare-user", "--uid", "1000", "--gid", "1000"];
  const content = [
    [
      "--tmpfs",
      "/",
      "--ro-bind",
      "/usr",
      "/usr",
      "--symlink",
      "usr/bin",
      "/bin",
      "--symlink",
      "usr/lib",
      "/lib",
    ],
    ["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"],
    ["--ro-bind", deno, "/deno", "--ro-bind", PROBES, "/bento", "--die-with-parent", "--"],
  ].flat();
  const [file = "", ...args] = onHost ? program : ["/usr/bin/bwrap", ...walls, ...content, ...program];
  const user = place === "root" ? {} : { uid: CONTROL_UID, gid: CONTROL_UID };
  const child = spawn(file, args, {
    cwd: "/",
    env: {
      HOME: "/tmp",
      DENO_DIR: "/dev/null/deno",
      NO_COLOR: "1",
      DENO_NO_UPDATE_CHECK: "1",
      ...controlEnvironment,
    },
    stdio: ["pipe", "pipe", "ignore"],
    ...user,
  });
  return await Probe.ofProcess(child);
}

/** What a server's environment may hold, and no box may ever see. */
const controlEnvironment = { BENTO_ESCAPE_SECRET: "correct horse battery staple" };
