// Host user ids for instances: each gets one of its own, so that kernel bookkeeping per user (process counts, key
// rings, pending signals) is per instance too. Host side. The range is the operator's; several boxes on one machine
// may be given the same range, so each box leases a slice of it first.

import { createServer, type Server } from "node:net";
import { BentoError, systemCode } from "../../base/errors.ts";
import { SandboxUnavailable } from "./sandbox-unavailable.ts";

/** Consecutive user ids that belong to nobody else on this machine. */
export interface UidRange {
  readonly first: number;
  readonly count: number;
}

export const DEFAULT_UID_RANGE: UidRange = { first: 20_000, count: 1000 };

/** Hands out user ids, none twice at one time. */
export class UidPool implements AsyncDisposable {
  readonly #range: UidRange;
  readonly #free: number[];
  readonly #used = new Set<number>();
  readonly #lease: Server;

  private constructor(range: UidRange, lease: Server) {
    this.#range = range;
    this.#lease = lease;
    this.#free = Array.from({ length: range.count }, (_, index) => range.first + index);
  }

  /**
   * Leases `count` ids of `range` that no other box on this machine has leased. The lease is a bound abstract
   * socket: the kernel ends it with this process, however that ends.
   * @throws SandboxUnavailable when the range is too small or every slice is taken.
   */
  static async lease(range: UidRange, count: number): Promise<UidPool> {
    for (let first = range.first; first + count <= range.first + range.count; first += count) {
      const lease = await bindName(`bento-uids-${first}`);
      if (lease) return new UidPool({ first, count }, lease);
    }
    throw new SandboxUnavailable(
      `Cannot lease ${count} user ids: none free in ${range.first}-${range.first + range.count - 1}`,
      { advice: "Give the box a larger uid range, or stop another box on this machine." },
    );
  }

  get range(): UidRange {
    return this.#range;
  }

  get inUse(): number {
    return this.#used.size;
  }

  /** An id that no living instance has. Least recently used first. */
  acquire(): number {
    const uid = this.#free.shift();
    if (uid === undefined) {
      throw new BentoError("full", `Cannot start instance: all ${this.#range.count} user ids are in use`);
    }
    this.#used.add(uid);
    return uid;
  }

  /** Gives back an id whose processes are all gone. An id whose group could not be emptied is never given back. */
  release(uid: number): void {
    if (this.#used.delete(uid)) this.#free.push(uid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#lease.listening) return;
    await new Promise<void>((resolve) => {
      this.#lease.close(() => {
        resolve();
      });
    });
  }
}

/** Binds an abstract socket name, or returns undefined when somebody has it. Nobody is ever served on it. */
async function bindName(name: string): Promise<Server | undefined> {
  const server = createServer((socket) => {
    socket.destroy();
  });
  const { promise, resolve, reject } = Promise.withResolvers<boolean>();
  server.once("error", (error) => {
    if (systemCode(error) === "EADDRINUSE") resolve(false);
    else reject(error);
  });
  server.listen(`\0${name}`, () => {
    resolve(true);
  });
  const bound = await promise;
  server.unref();
  return bound ? server : undefined;
}
