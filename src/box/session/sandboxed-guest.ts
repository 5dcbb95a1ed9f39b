// A guest in a real sandbox: takes a boxed process, speaks the guest channel with it, and says how it ended.
// Everything from the process is hostile; this file only joins box/sandbox and box/host.

import { orAborted } from "../../base/abort.ts";
import type { Clock } from "../../base/clock.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { BoxError } from "../../wire/error-code.ts";
import type { Grant } from "../../wire/grant.ts";
import { GuestLink, type GuestEnd as LinkEnd } from "../host/guest-link.ts";
import type { Sandbox, SandboxExit, SandboxHost, SandboxSpec } from "../sandbox/sandbox.ts";
import { SANDBOX_LIMITS } from "../sandbox/sandbox-limits.ts";
import { SandboxUnavailable } from "../sandbox/sandbox-unavailable.ts";
import type { SandboxProfile } from "../sandbox/seccomp-profiles.ts";
import type { Guest, GuestEnd, GuestRequest, GuestStarter } from "./guest.ts";

/** Files that one instance may have open. The runtimes hold about 15; connections are not files of the guest. */
export const GUEST_OPEN_FILES = 256;
/** Of one process of the chromium image: the browser holds about 120 and more for each frame and connection. */
const CHROMIUM_OPEN_FILES = 1024;
/** How long the end of the process may lag behind the end of its channel: milliseconds. */
const EXIT_GRACE_MS = 1_000;

/** Lines of a dead runtime's standard error that its owner gets: a panic with its advice, or a traceback. */
const LAST_WORDS_MAX = 32;

/** How Deno's and CPython's own crashes read: those that a source can cause which is too much for their parsers. */
const CRASHES: readonly (readonly [RegExp, string])[] = [
  [
    /has overflowed its stack|Cannot recover from stack overflow/,
    ": its stack overflowed, as on code that is nested too deeply",
  ],
  [/^thread '.*' (?:\(\d+\) )?panicked at /m, ": it panicked; its last words are in the log of the instance"],
];

/** What a grant means to the sandbox. Processes are rounded up to what the runtimes need to exist. */
export function sandboxSpec(grant: Grant): Omit<SandboxSpec, "main"> {
  const { memoryBytes, cpuPercent, pids, tmpBytes } = grant.limits;
  return {
    image: grant.image,
    profile: profileOf(grant),
    limits: {
      memoryBytes,
      cpuPercent,
      pidsMax: Math.max(pids, SANDBOX_LIMITS.pidsMin),
      tmpBytes: Math.max(tmpBytes, SANDBOX_LIMITS.tmpBytesMin),
      openFilesMax: grant.image === "chromium" ? CHROMIUM_OPEN_FILES : GUEST_OPEN_FILES,
    },
  };
}

/** The narrowest profile that holds all granted groups. `files` and `loopback` reach nothing but the box itself. */
function profileOf({ image, syscalls }: Grant): SandboxProfile {
  // Its profile is part of the image: an operator who offers one offers the other.
  if (image === "chromium") return "chromium";
  if (syscalls.includes("fork")) return "standard";
  return syscalls.length > 0 ? "unforked" : "strict";
}

export class SandboxedGuests implements GuestStarter {
  readonly #host: SandboxHost;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #readyMain: (sourceHash: string) => string | undefined;

  constructor(options: {
    host: SandboxHost;
    clock: Clock;
    log: Log;
    /** The main file of instances that wait with this source loaded, if there are such. */
    readyMain: (sourceHash: string) => string | undefined;
  }) {
    this.#readyMain = options.readyMain;
    this.#host = options.host;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  async start(request: GuestRequest): Promise<Guest> {
    try {
      return await this.#start(request);
    } catch (error) {
      throw this.#explained(error);
    }
  }

  async #start(request: GuestRequest): Promise<Guest> {
    const { start, sourceHash, services, onOutput, onValue, onLog, signal } = request;
    await using undo = new AsyncDisposableStack();
    const spec = { ...sandboxSpec(start.grant), main: this.#readyMain(sourceHash) };
    const sandbox = undo.use(await this.#host.start(spec, { signal }));
    const { source: _, ...loaded } = start;
    const { stdin, stdout } = sandbox;
    const link = undo.use(new GuestLink({ stdin, stdout, log: this.#log, clock: this.#clock }));
    await this.#ready(link, sandbox, signal);
    link.start(sandbox.main === undefined ? start : loaded, services, {
      onOutput: ({ bytes, last }) => {
        onOutput(bytes, last);
      },
      onValue,
      onLog,
    });
    undo.move();
    return new SandboxedGuest(sandbox, link, { clock: this.#clock, onLog });
  }

  async #ready(link: GuestLink, sandbox: Sandbox, signal: AbortSignal): Promise<void> {
    const late = new AbortController();
    const cancel = this.#clock.after(SANDBOX_LIMITS.readyMs, () => {
      late.abort(new SandboxUnavailable("Cannot start instance: the runtime is not ready in time"));
    });
    try {
      await orAborted(link.ready, AbortSignal.any([signal, late.signal]));
    } catch (cause) {
      signal.throwIfAborted();
      throw new SandboxUnavailable(
        `Cannot start instance: the runtime does not start (${sandbox.stderrTail().trim().slice(-500)})`,
        { cause },
      );
    } finally {
      cancel();
    }
  }

  #explained(error: unknown): unknown {
    if (error instanceof SandboxUnavailable) {
      this.#log.error("cannot start an instance", { reason: error.message });
      return new BoxError("functions-unavailable", "Cannot start instance: the sandbox failed", {
        cause: error,
      });
    }
    if (!(error instanceof BentoError)) return error;
    switch (error.code) {
      case "full":
        return new BoxError("box-full", error.message, { cause: error });
      case "closing":
        return new BoxError("shutting-down", "Cannot start instance: the box is stopping", { cause: error });
      case "sandbox-spec":
        return new BoxError("policy-refused", error.message, { cause: error });
      case "too-large":
        return new BoxError("too-large", error.message, { cause: error });
      default:
        return error;
    }
  }
}

class SandboxedGuest implements Guest {
  readonly ended: Promise<GuestEnd>;
  readonly #sandbox: Sandbox;
  readonly #link: GuestLink;

  constructor(sandbox: Sandbox, link: GuestLink, deps: EndDeps) {
    this.#sandbox = sandbox;
    this.#link = link;
    // Whatever happened in the sandbox, a shaped answer is as long as its shape says.
    this.ended = endOf(sandbox, link, deps).then(async (end) => {
      await link.drained;
      return end;
    });
  }

  async sendInput(bytes: Uint8Array, last: boolean): Promise<void> {
    try {
      await this.#link.sendInput(bytes, { last });
    } catch (error) {
      // Input for a guest that has ended goes nowhere: its session learns of the end by itself.
      if (!(error instanceof BentoError) || error.code !== "guest-gone") throw error;
    }
  }

  async endInput(): Promise<void> {
    this.#link.endInput();
  }

  credit(bytes: number): void {
    this.#link.credit(bytes);
  }

  setAttached(attached: boolean): void {
    this.#link.setAttached(attached);
  }

  stop(): void {
    this.#link.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.#sandbox[Symbol.asyncDispose](), this.#link[Symbol.asyncDispose]()]);
  }
}

interface EndDeps {
  readonly clock: Clock;
  readonly onLog: GuestRequest["onLog"];
}

async function endOf(sandbox: Sandbox, link: GuestLink, { clock, onLog }: EndDeps): Promise<GuestEnd> {
  const end: LinkEnd = await link.ended;
  switch (end.kind) {
    case "returned":
      return { kind: "done" };
    case "failed":
      return { kind: "failed", failure: end.failure };
    case "lost": {
      if (end.error instanceof ProtocolError) {
        return { kind: "died", reason: "crashed", detail: "the runtime broke the guest protocol" };
      }
      const cancel = clock.after(EXIT_GRACE_MS, () => {
        void sandbox.kill("its channel is closed");
      });
      const exit = await sandbox.exited;
      cancel();
      const stderr = sandbox.stderrTail();
      for (const text of lastWords(stderr)) onLog({ level: "error", text });
      return exit.kind === "out-of-memory"
        ? { kind: "died", reason: "out-of-memory" }
        : { kind: "died", reason: "crashed", detail: exitText(exit, stderr) };
    }
  }
}

/**
 * What a runtime wrote before it died, from the end: for the function's owner. It was written inside the sandbox and may
 * hold the function's data, so the box's own log does not get it.
 */
function lastWords(stderr: string): string[] {
  const lines = stderr.split("\n").map((line) => line.trimEnd());
  return lines.filter((line) => line !== "").slice(-LAST_WORDS_MAX);
}

/** Fixed texts: what the guest wrote only chooses among them, which is no more than it can do by ending otherwise. */
function exitText(exit: SandboxExit, stderr: string): string {
  const why = CRASHES.find(([pattern]) => pattern.test(stderr))?.[1] ?? "";
  switch (exit.kind) {
    case "exited":
      return `the runtime exited with code ${exit.code}${why}`;
    case "signalled":
      return `the runtime was ended by signal ${exit.signal}${why}`;
    case "out-of-memory":
      return "out of memory";
    case "killed":
      return `the runtime was killed: ${exit.reason}`;
  }
}
