// All instances of a box: who may start one, where they are found, what becomes of them after their end.
// Ended instances keep their outcome and unread output for a while, bounded in time, number and bytes.

import type { Clock } from "../../base/clock.ts";
import type { LogPage } from "../../wire/api.ts";
import { BoxError } from "../../wire/error-code.ts";
import { hashToken, type InstanceId, newInstanceId, type TokenHash } from "../../wire/token.ts";
import type { HostServices } from "../host/services.ts";
import type { FunctionId } from "../store/function-store.ts";
import { FunctionLog } from "./function-log.ts";
import { Instance, type InstanceDeps, type InstanceRequest, type KillReason } from "./instance.ts";

/** Ended instances that wait for a reader. */
export const RETAIN = {
  /** Milliseconds after the end: a client that lost its circuit is back by then. */
  ms: 60 * 60e3,
  /** Ended instances of the box: each costs up to BACKLOG_MEMORY_BYTES and Limits.logBytesMax of memory. */
  instances: 512,
  /** Unread output of all ended instances together: bytes. */
  bytes: 256 * 2 ** 20,
} as const;

/** Room that was set aside for an instance. Disposing gives it back; idempotent. */
export type Reservation = Disposable;

export interface InstancesOptions extends InstanceDeps {
  /** Sets room aside at once or throws BoxError "too-many-instances", "box-full" or "functions-unavailable". */
  readonly reserve: (request: InstanceRequest) => Reservation;
  /** What the function may ask for. Throws when a granted service cannot be had. */
  readonly services: (request: InstanceRequest, instance: Instance) => Promise<HostServices>;
  readonly retain?: { readonly ms: number; readonly instances: number; readonly bytes: number };
}

export class Instances implements AsyncDisposable {
  readonly #options: InstancesOptions;
  readonly #clock: Clock;
  readonly #retain: { readonly ms: number; readonly instances: number; readonly bytes: number };
  readonly #byHash = new Map<TokenHash, Instance>();
  readonly #byFunction = new Map<FunctionId, Set<Instance>>();
  readonly #logs = new Map<FunctionId, FunctionLog>();
  /** Oldest end first. */
  readonly #endedOnes = new Map<Instance, () => void>();
  #running = 0;
  #stopping = false;

  constructor(options: InstancesOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.#retain = options.retain ?? RETAIN;
  }

  get running(): number {
    return this.#running;
  }

  /** Ended instances that are still known. */
  get retained(): number {
    return this.#endedOnes.size;
  }

  /** Starts an instance. Reserves room before anything is awaited. Throws BoxError. */
  async start(request: InstanceRequest): Promise<Instance> {
    if (this.#stopping) throw new BoxError("shutting-down", "Cannot start instance: the box is stopping");
    const reservation = this.#options.reserve(request);
    const log = this.#logOf(request.functionId).open();
    const instance = new Instance(newInstanceId(), request, log, this.#options);
    this.#add(instance);
    void this.#follow(instance, reservation);
    try {
      const services = await this.#options.services(request, instance);
      await instance.start(services);
    } catch (error) {
      await this.free(instance);
      throw error;
    }
    return instance;
  }

  find(id: InstanceId): Instance | undefined {
    return this.#byHash.get(hashToken(id));
  }

  /** Instances of a function, ended ones included. */
  ofFunction(id: FunctionId): readonly Instance[] {
    return [...(this.#byFunction.get(id) ?? [])];
  }

  /**
   * What a function's instances logged after a position. Waits for a line until `signal` aborts, and no longer than
   * that; without a signal not at all.
   */
  async logs(id: FunctionId, after: number, signal?: AbortSignal): Promise<LogPage> {
    const log = this.#logOf(id);
    if (signal) await log.changed(after, signal);
    const page = log.read(after);
    this.#dropLog(id);
    return page;
  }

  /** Ends all instances of a function but one. Resolves when they run no more: how many were running. */
  async endFunction(id: FunctionId, reason: KillReason, spared?: Instance): Promise<number> {
    const all = this.ofFunction(id);
    const running = all.filter((instance) => !instance.outcome && instance !== spared);
    await Promise.all(running.map((instance) => instance.kill(reason)));
    return running.length;
  }

  /** Forgets an instance and its output; kills it when it still runs. */
  async free(instance: Instance): Promise<void> {
    this.#byHash.delete(hashToken(instance.id));
    const others = this.#byFunction.get(instance.functionId);
    others?.delete(instance);
    if (others?.size === 0) this.#byFunction.delete(instance.functionId);
    this.#endedOnes.get(instance)?.();
    this.#endedOnes.delete(instance);
    await instance[Symbol.asyncDispose]();
    this.#dropLog(instance.functionId);
  }

  /** Ends everything and starts nothing more. Output stays, so that attached clients still see how it ended. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all([...this.#byHash.values()].map((instance) => instance.kill("box-stopping")));
  }

  /** Ends everything and forgets it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await Promise.all([...this.#byHash.values()].map((instance) => this.free(instance)));
  }

  #logOf(id: FunctionId): FunctionLog {
    const log = this.#logs.get(id) ?? new FunctionLog(this.#clock);
    this.#logs.set(id, log);
    return log;
  }

  #dropLog(id: FunctionId): void {
    if (this.#logs.get(id)?.isUnused) this.#logs.delete(id);
  }

  #add(instance: Instance): void {
    this.#byHash.set(hashToken(instance.id), instance);
    const others = this.#byFunction.get(instance.functionId) ?? new Set();
    others.add(instance);
    this.#byFunction.set(instance.functionId, others);
  }

  async #follow(instance: Instance, reservation: Reservation): Promise<void> {
    this.#running++;
    await instance.ended;
    this.#running--;
    reservation[Symbol.dispose]();
    if (!this.#byHash.has(hashToken(instance.id))) return;
    const cancel = this.#clock.after(this.#retain.ms, () => {
      void this.free(instance);
    });
    this.#endedOnes.set(instance, cancel);
    this.#evict();
  }

  /** Makes room among the ended ones, first at the expense of the function that has most of them. */
  #evict(): void {
    let bytes = 0;
    for (const instance of this.#endedOnes.keys()) bytes += instance.backlog.keptBytes;
    while (this.#endedOnes.size > this.#retain.instances || bytes > this.#retain.bytes) {
      const victim = this.#victim();
      if (!victim) return;
      bytes -= victim.backlog.keptBytes;
      void this.free(victim);
    }
  }

  #victim(): Instance | undefined {
    const counts = new Map<FunctionId, { count: number; oldest: Instance }>();
    let most: { count: number; oldest: Instance } | undefined;
    for (const instance of this.#endedOnes.keys()) {
      const entry = counts.get(instance.functionId) ?? { count: 0, oldest: instance };
      entry.count++;
      counts.set(instance.functionId, entry);
      if (!most || entry.count > most.count) most = entry;
    }
    return most?.oldest;
  }
}
