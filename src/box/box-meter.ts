// What `env.box` may tell a function about the box, as far as its grant names it. Measured at most once a second for
// all functions together, and coarsely: exact counters of a machine beside a relay would help whoever matches
// the traffic of circuits by time and volume (docs/spec/policy.md 2.6).

import { statfs } from "node:fs/promises";
import { cpus, freemem, loadavg, totalmem } from "node:os";
import type { Clock } from "../base/clock.ts";
import type { JsonValue } from "../wire/api.ts";
import type { Grant } from "../wire/grant.ts";
import type { BoxFact, Policy } from "../wire/policy.ts";

/** What the box knows of itself. Bytes and counts. */
export interface BoxState {
  readonly instances: number;
  readonly promisedMemoryBytes: number;
  readonly storageBytes: number;
  /** Of all functions, through the box's broker, since the box started. */
  readonly network: {
    readonly connections: number;
    readonly receivedBytes: number;
    readonly sentBytes: number;
  };
  readonly policy: Policy;
}

export interface BoxMeterOptions {
  /** Its file system is the disk that is meant. */
  readonly dataDir: string;
  readonly clock: Clock;
  readonly state: () => BoxState;
}

/** Nothing is measured again within this time: milliseconds. */
export const FACTS_MS = 1_000;
/** Bytes of the network are told in steps of this size. */
export const NETWORK_STEP_BYTES = 1024 * 1024;
/** Sizes of memory and disk, likewise. */
const SIZE_STEP_BYTES = 1024 * 1024;

type Facts = Readonly<Record<Exclude<BoxFact, "limits">, JsonValue>>;

export class BoxMeter {
  readonly #options: BoxMeterOptions;
  #measured: { readonly atMs: number; readonly facts: Promise<Facts> } | undefined;
  #cpu = cpuTimes();

  constructor(options: BoxMeterOptions) {
    this.#options = options;
  }

  /** The facts that a grant names; undefined when it names none. */
  forGrant(grant: Grant): (() => Promise<Readonly<Record<string, JsonValue>>>) | undefined {
    if (grant.box.length === 0) return undefined;
    return async () => {
      const facts = { ...(await this.#facts()), limits: { ...grant.limits } };
      return Object.fromEntries(grant.box.map((fact) => [fact, facts[fact]]));
    };
  }

  #facts(): Promise<Facts> {
    const nowMs = this.#options.clock.now();
    if (!this.#measured || nowMs - this.#measured.atMs >= FACTS_MS) {
      this.#measured = { atMs: nowMs, facts: this.#measure() };
    }
    return this.#measured.facts;
  }

  async #measure(): Promise<Facts> {
    const { dataDir, state } = this.#options;
    const before = this.#cpu;
    this.#cpu = cpuTimes();
    const disk = await statfs(dataDir);
    const { policy, network, ...now } = state();
    return {
      load: { average: loadavg(), cores: cpus().length, busyPercent: busyPercent(before, this.#cpu) },
      memory: {
        totalBytes: totalmem(),
        freeBytes: coarse(freemem(), SIZE_STEP_BYTES),
        promisedBytes: now.promisedMemoryBytes,
        limitBytes: policy.total.memoryBytes,
      },
      disk: {
        totalBytes: disk.blocks * disk.bsize,
        freeBytes: coarse(disk.bavail * disk.bsize, SIZE_STEP_BYTES),
        storageBytes: coarse(now.storageBytes, SIZE_STEP_BYTES),
        storageLimitBytes: policy.total.storageBytes,
      },
      network: {
        connections: network.connections,
        receivedBytes: coarse(network.receivedBytes, NETWORK_STEP_BYTES),
        sentBytes: coarse(network.sentBytes, NETWORK_STEP_BYTES),
      },
      instances: { running: now.instances, limit: policy.total.instances },
    };
  }
}

function coarse(bytes: number, step: number): number {
  return Math.floor(bytes / step) * step;
}

interface CpuTimes {
  readonly busyMs: number;
  readonly totalMs: number;
}

/** Of all cores together, since the machine started. */
function cpuTimes(): CpuTimes {
  let busyMs = 0;
  let totalMs = 0;
  for (const { times } of cpus()) {
    const allMs = times.user + times.nice + times.sys + times.irq + times.idle;
    totalMs += allMs;
    busyMs += allMs - times.idle;
  }
  return { busyMs, totalMs };
}

/** Share of all cores that was in use between two readings, 0 to 100; null when no time has passed. */
function busyPercent(from: CpuTimes, to: CpuTimes): number | null {
  const totalMs = to.totalMs - from.totalMs;
  return totalMs > 0 ? Math.round((100 * (to.busyMs - from.busyMs)) / totalMs) : null;
}
