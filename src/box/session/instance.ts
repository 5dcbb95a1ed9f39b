// One execution of a function, from its start to the end of its output (spec/wire 5). It outlives the sessions
// that attach to it: only its own end, its owner, `close --kill`, expiry or the policy ends it.

import { orAborted } from "../../base/abort.ts";
import type { Clock } from "../../base/clock.ts";
import { assert, messageOf } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import type { Invocation, Outcome } from "../../wire/api.ts";
import type { Grant } from "../../wire/grant.ts";
import type { GuestStart } from "../../wire/guest-frame.ts";
import { Limits } from "../../wire/limits.ts";
import type { InstanceId } from "../../wire/token.ts";
import { type HostServices, servicesToClose } from "../host/services.ts";
import type { FunctionId } from "../store/function-store.ts";
import { Backlog } from "./backlog.ts";
import type { InstanceLog } from "./function-log.ts";
import type { Guest, GuestEnd, GuestStarter } from "./guest.ts";
import type { Spool } from "./spool.ts";

/** How long a function that was asked to end may take before it is killed: milliseconds. */
export const STOP_GRACE_MS = 2_000;

export type KillReason = Extract<Outcome, { kind: "killed" }>["reason"];

/** What is executed. */
export interface InstanceRequest {
  readonly functionId: FunctionId;
  readonly name: string;
  readonly source: string;
  readonly sourceHash: string;
  readonly entry?: string;
  readonly grant: Grant;
  readonly invocation: Invocation;
}

export interface InstanceDeps {
  readonly clock: Clock;
  readonly log: Log;
  readonly guests: GuestStarter;
  readonly spool: Spool;
}

/** A client that is attached. At most one at a time. */
export interface Attachment {
  /** Another client attached: tell this one and let go. */
  takeOver(): void;
}

export class Instance implements AsyncDisposable {
  readonly id: InstanceId;
  readonly functionId: FunctionId;
  readonly startedAt: number;
  readonly backlog: Backlog;
  readonly log: InstanceLog;
  /** Until it has started: an ended instance that waits for a reader does not keep its code in memory. */
  #request: InstanceRequest | undefined;
  readonly #deps: InstanceDeps;
  readonly #ended = Promise.withResolvers<Outcome>();
  readonly #abort = new AbortController();
  #guest: Guest | undefined;
  #attachment: Attachment | undefined;
  #killReason: KillReason | undefined;
  #killDetail: string | undefined;
  #outcome: Outcome | undefined;
  #endedAt: number | undefined;
  #life: Promise<void> | undefined;
  /** Pending while a message is handed over. */
  #inputTurn: Promise<void> | undefined;
  #starting = false;

  /** Takes over `log`. */
  constructor(id: InstanceId, request: InstanceRequest, log: InstanceLog, deps: InstanceDeps) {
    this.id = id;
    this.log = log;
    this.functionId = request.functionId;
    this.startedAt = deps.clock.now();
    this.#request = request;
    this.#deps = deps;
    this.backlog = new Backlog({
      capacityBytes: request.grant.limits.backlogBytes,
      spool: deps.spool,
      onCredit: (bytes) => this.#guest?.credit(bytes),
    });
  }

  /** Resolves when the instance has ended and nothing of it runs any more. */
  get ended(): Promise<Outcome> {
    return this.#ended.promise;
  }

  get outcome(): Outcome | undefined {
    return this.#outcome;
  }

  /** Unix milliseconds. */
  get endedAt(): number | undefined {
    return this.#endedAt;
  }

  get isAttached(): boolean {
    return this.#attachment !== undefined;
  }

  /** Starts the guest. Throws what the starter throws; the instance then has ended and holds nothing. */
  async start(services: HostServices): Promise<void> {
    let guest: Guest;
    const request = this.#request;
    assert(request, "an instance is started once");
    this.#request = undefined;
    this.#starting = true;
    try {
      guest = await this.#deps.guests.start({
        start: guestStart(request),
        sourceHash: request.sourceHash,
        services,
        onOutput: (bytes, last) => {
          this.#onOutput(bytes, last);
        },
        onValue: (value) => this.backlog.appendValue(value),
        onLog: (line) => {
          this.log.append(line);
        },
        signal: this.#abort.signal,
      });
    } catch (error) {
      await this.#close(services);
      this.#end({ kind: "died", reason: "crashed" });
      // Killed before it began: the outcome says so to whoever attaches.
      if (this.#killReason) return;
      throw error;
    }
    this.#guest = guest;
    if (this.#attachment) guest.setAttached(true);
    this.#life = this.#live(guest, services, request.grant.limits.runtimeMs);
    if (this.#killReason) this.#askToStop(guest);
  }

  /**
   * Ends the instance: asks, waits, kills. The first reason wins. Resolves when nothing of it runs any more.
   */
  async kill(reason: KillReason, detail?: string): Promise<void> {
    if (this.#outcome) return;
    if (!this.#killReason) {
      this.#killReason = reason;
      this.#killDetail = detail;
      this.#abort.abort(new Error(`instance killed: ${reason}`));
      if (this.#guest) this.#askToStop(this.#guest);
      else if (!this.#starting) this.#end({ kind: "died", reason: "crashed" });
    }
    await this.ended;
  }

  /** Makes `next` the attached client; who was attached is told. */
  attach(next: Attachment): void {
    const before = this.#attachment;
    this.#attachment = next;
    before?.takeOver();
    if (!before) this.#guest?.setAttached(true);
  }

  /** Does nothing unless `attachment` is the attached client. */
  detach(attachment: Attachment): void {
    if (this.#attachment !== attachment) return;
    this.#attachment = undefined;
    if (!this.#outcome) this.#guest?.setAttached(false);
  }

  /**
   * Hands one whole message to the function, after those before it. Waits for the function to read. When `signal`
   * aborts before its turn the message is dropped; once begun it is always completed, so that messages never mix.
   */
  async sendMessage(fragments: readonly Uint8Array[], signal: AbortSignal): Promise<void> {
    await this.#inTurn(signal, async (guest) => {
      const count = fragments.length;
      for (const [index, bytes] of fragments.entries()) await guest.sendInput(bytes, index === count - 1);
    });
  }

  async endInput(signal: AbortSignal): Promise<void> {
    await this.#inTurn(signal, (guest) => guest.endInput());
  }

  /** Kills what runs and frees output and log. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill("box-stopping");
    await this.#life;
    await this.backlog[Symbol.asyncDispose]();
    this.log[Symbol.dispose]();
  }

  #onOutput(bytes: Uint8Array, last: boolean): void {
    try {
      this.backlog.append(bytes, last);
    } catch (error) {
      this.#deps.log.info("instance broke the guest protocol", { reason: messageOf(error) });
      void this.kill("crashed", "the runtime broke the guest protocol");
    }
  }

  async #live(guest: Guest, services: HostServices, runtimeMs: number): Promise<void> {
    const cancelLimit = this.#deps.clock.after(runtimeMs, () => {
      void this.kill("runtime-limit");
    });
    const end = await guest.ended;
    cancelLimit();
    await Promise.all([this.#dispose("sandbox", guest), this.#close(services)]);
    this.#end(end);
  }

  #end(end: GuestEnd): void {
    this.#outcome = this.#outcomeOf(end);
    this.#endedAt = this.#deps.clock.now();
    this.#guest = undefined;
    this.backlog.finish();
    this.#ended.resolve(this.#outcome);
  }

  async #close(services: HostServices): Promise<void> {
    await Promise.all(servicesToClose(services).map((service) => this.#dispose("services", service)));
  }

  async #dispose(what: string, resource: AsyncDisposable): Promise<void> {
    try {
      await resource[Symbol.asyncDispose]();
    } catch (error) {
      // The instance still ends: its client must not wait for what the operator has to look at.
      this.#deps.log.error("cannot clean up after an instance", { what, reason: messageOf(error) });
    }
  }

  #outcomeOf(end: GuestEnd): Outcome {
    if (this.#killReason) {
      const detail = this.#killDetail === undefined ? {} : { detail: this.#killDetail };
      return { kind: "killed", reason: this.#killReason, ...detail };
    }
    switch (end.kind) {
      case "done":
        return { kind: "returned" };
      case "failed":
        return { kind: "failed", ...boundedFailure(end.failure) };
      case "died":
        return {
          kind: "killed",
          reason: end.reason,
          ...(end.detail === undefined ? {} : { detail: end.detail }),
        };
    }
  }

  #askToStop(guest: Guest): void {
    guest.stop();
    const cancel = this.#deps.clock.after(STOP_GRACE_MS, () => {
      void this.#dispose("sandbox", guest);
    });
    void this.ended.then(cancel);
  }

  async #inTurn(signal: AbortSignal, task: (guest: Guest) => Promise<void>): Promise<void> {
    while (this.#inputTurn) {
      try {
        await orAborted(this.#inputTurn, signal);
      } catch {
        return; // The session is gone before its turn came.
      }
    }
    const guest = this.#guest;
    if (signal.aborted || this.#outcome || !guest) return;
    const turn = Promise.withResolvers<void>();
    this.#inputTurn = turn.promise;
    try {
      await task(guest);
    } finally {
      this.#inputTurn = undefined;
      turn.resolve();
    }
  }
}

function guestStart({ name, source, entry, invocation, grant }: InstanceRequest): GuestStart {
  return { name, source, invocation, grant, ...(entry === undefined ? {} : { entry }) };
}

function boundedFailure(failure: { name: string; message: string; traceback: string }) {
  const cut = (text: string) => text.slice(0, Limits.errorTextBytesMax);
  return { name: cut(failure.name), message: cut(failure.message), traceback: cut(failure.traceback) };
}
