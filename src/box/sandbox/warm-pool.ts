// Runtimes started ahead of need, so that a function begins in 2 ms instead of 30. Members are single use: each is
// handed out once and never comes back. A member has run nothing but our runner, which waits for its first bytes.
// What cannot change after the start (image, profile, /tmp, descriptors) is the class; memory, pids and CPU are
// rewritten when a member is claimed.

import type { Clock } from "../../base/clock.ts";
import { messageOf } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import type { ImageName } from "./image.ts";
import type { Instance } from "./instance.ts";
import { SANDBOX_LIMITS } from "./sandbox-limits.ts";
import type { SandboxProfile } from "./seccomp-profiles.ts";

/** Instances that can stand in for each other. */
export interface WarmClass {
  readonly image: ImageName;
  readonly profile: SandboxProfile;
  readonly tmpBytes: number;
  readonly openFilesMax: number;
  /** File of the guest directory that starts instead of the image's runner. */
  readonly main?: string | undefined;
}

/** A class and how many of it to keep. */
export interface WarmPlan extends WarmClass {
  readonly count: number;
  /** Milliseconds from a claim to the start of the successor, if no instance ends sooner: SANDBOX_LIMITS.refillDelayMs when left out. */
  readonly refillDelayMs?: number | undefined;
  /** Of one CPU, while a member starts and waits: what takes long to start leaves room for what is being waited for. */
  readonly cpuPercent?: number | undefined;
}

export interface WarmPoolOptions {
  readonly plan: WarmPlan;
  /** Starts a member; undefined when the host has no room for one now. */
  readonly start: (signal: AbortSignal) => Promise<Instance> | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

/** Keeps `plan.count` ready members of one class. */
export class WarmPool implements AsyncDisposable {
  readonly #options: WarmPoolOptions;
  readonly #members: Instance[] = [];
  readonly #stop = new AbortController();
  #starting = 0;
  #failures = 0;
  #retry: (() => void) | undefined;
  #soon: { readonly atMs: number; readonly cancel: () => void } | undefined;
  #work = new Set<Promise<void>>();

  constructor(options: WarmPoolOptions) {
    this.#options = options;
    this.#fill();
  }

  get ready(): number {
    return this.#members.length;
  }

  get plan(): WarmPlan {
    return this.#options.plan;
  }

  matches(wanted: WarmClass): boolean {
    const { image, profile, tmpBytes, openFilesMax, main } = this.#options.plan;
    return (
      wanted.main === main &&
      wanted.image === image &&
      wanted.profile === profile &&
      wanted.tmpBytes === tmpBytes &&
      wanted.openFilesMax === openFilesMax
    );
  }

  /** The member that has waited longest, or undefined. It is the caller's now. */
  take(): Instance | undefined {
    const member = this.#members.shift();
    if (member) this.refill(this.#options.plan.refillDelayMs);
    return member;
  }

  /** Resolves when the pool is full. */
  async filled(signal?: AbortSignal): Promise<void> {
    while (this.#members.length < this.#options.plan.count && !this.#stop.signal.aborted) {
      signal?.throwIfAborted();
      if (this.#work.size > 0) await Promise.race(this.#work);
      else await this.#options.clock.sleep(SANDBOX_LIMITS.refillDelayMs, signal);
    }
  }

  /**
   * Starts what is missing, soon: starting a process stops this one for milliseconds and takes a core for tens, and
   * whoever was just handed a member is waiting for its first byte. The soonest of several calls counts.
   */
  refill(delayMs: number = SANDBOX_LIMITS.refillDelayMs): void {
    if (this.#stop.signal.aborted) return;
    const { clock } = this.#options;
    const atMs = clock.now() + delayMs;
    if (this.#soon && this.#soon.atMs <= atMs) return;
    this.#soon?.cancel();
    const cancel = clock.after(delayMs, () => {
      this.#soon = undefined;
      this.#fill();
    });
    this.#soon = { atMs, cancel };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error("The pool is closed"));
    this.#retry?.();
    this.#retry = undefined;
    this.#soon?.cancel();
    this.#soon = undefined;
    await Promise.all(this.#work);
    await Promise.all(this.#members.splice(0).map((member) => member[Symbol.asyncDispose]()));
  }

  /** Starts what is missing, unless an earlier failure still has to be waited out. */
  #fill(): void {
    if (this.#stop.signal.aborted || this.#retry) return;
    while (this.#members.length + this.#starting < this.#options.plan.count) {
      const starting = this.#options.start(this.#stop.signal);
      if (!starting) return;
      this.#starting++;
      const work: Promise<void> = this.#admit(starting).finally(() => this.#work.delete(work));
      this.#work.add(work);
    }
  }

  async #admit(starting: Promise<Instance>): Promise<void> {
    let member: Instance | undefined;
    try {
      member = await starting;
      await firstByte(member, this.#options.clock, this.#stop.signal);
      this.#starting--;
      this.#failures = 0;
    } catch (error) {
      this.#starting--;
      if (!this.#stop.signal.aborted) this.#backOff(messageOf(error), member?.stderrTail() ?? "");
      await member?.[Symbol.asyncDispose]();
      return;
    }
    if (this.#stop.signal.aborted) {
      await member[Symbol.asyncDispose]();
      return;
    }
    this.#members.push(member);
    void this.#watch(member);
  }

  async #watch(member: Instance): Promise<void> {
    await member.exited;
    const at = this.#members.indexOf(member);
    if (at < 0) return; // claimed: its owner watches it
    this.#members.splice(at, 1);
    this.#backOff("the member ended while it waited", member.stderrTail());
  }

  /** Waits twice as long after each failure, so that a broken runtime does not occupy the machine. */
  #backOff(cause: string, stderr: string): void {
    const { first, longest } = SANDBOX_LIMITS.refillBackoffMs;
    const delayMs = Math.min(longest, first * 2 ** this.#failures++);
    const { image, profile } = this.#options.plan;
    this.#options.log.warn("warm instance failed", {
      image,
      profile,
      cause,
      stderr: stderr.slice(-300),
      delayMs,
    });
    if (this.#retry || this.#stop.signal.aborted) return;
    this.#retry = this.#options.clock.after(delayMs, () => {
      this.#retry = undefined;
      this.#fill();
    });
  }
}

/** Waits until the runner has written something, which stays unread: its ready frame is the claimer's. */
async function firstByte(member: Instance, clock: Clock, signal: AbortSignal): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onReadable = () => {
    if (member.stdout.readableLength > 0) resolve();
  };
  const onAbort = () => {
    reject(signal.reason as Error);
  };
  const cancel = clock.after(SANDBOX_LIMITS.readyMs, () => {
    reject(new Error(`not ready after ${SANDBOX_LIMITS.readyMs} ms`));
  });
  const failAtEnd = async () => {
    reject(new Error(`ended before it was ready: ${JSON.stringify(await member.exited)}`));
  };
  void failAtEnd();
  member.stdout.on("readable", onReadable);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    await promise;
  } finally {
    cancel();
    member.stdout.off("readable", onReadable);
    signal.removeEventListener("abort", onAbort);
  }
}
