// The replica function at the boxes that have it: its instances are replicas. Installed where it is not, and installed again
// where a box has forgotten it.
// Boundary: boxes that refuse, die, or take long.

import type { Bento, FarSession, Package } from "bento/function";
import { orAborted } from "../../src/base/abort.ts";
import type { Clock } from "../../src/base/clock.ts";
import { systemCode } from "../../src/base/errors.ts";
import type { ReplicaStart } from "../replica/protocol.ts";
import { END_MS, inTime } from "./in-time.ts";
import { runtimeOf } from "./runtime-of.ts";
import type { KeptHome } from "./state.ts";

export interface ReplicaHomesParts {
  readonly bento: Bento;
  readonly clock: Clock;
  readonly pack: Package;
  /** Keeps what is known. Resolves when it is kept. */
  readonly onChange: () => Promise<void>;
  /** Nobody waits for boxes any more. */
  readonly signal: AbortSignal;
}

export class ReplicaHomes {
  readonly #parts: ReplicaHomesParts;
  readonly #homes = new Map<string, Omit<KeptHome, "box">>();

  constructor(parts: ReplicaHomesParts) {
    this.#parts = parts;
  }

  /** What an earlier instance, or the primary, had. */
  add(homes: readonly KeptHome[]): void {
    for (const { box, ...home } of homes) this.#homes.set(box, home);
  }

  get size(): number {
    return this.#homes.size;
  }

  has(box: string): boolean {
    return this.#homes.has(box);
  }

  /** How long the box lets each instance run, where it said so: milliseconds. */
  runtimeMs(box: string): number | undefined {
    return this.#homes.get(box)?.runtimeMs;
  }

  /** To be kept. */
  get kept(): KeptHome[] {
    return [...this.#homes].map(([box, home]) => ({ box, ...home }));
  }

  /** An instance of the function that is there already, which has the site; or of a new one. */
  async run(box: string, start: ReplicaStart): Promise<FarSession> {
    const { bento, pack, onChange, signal } = this.#parts;
    const args = [start];
    const home = this.#homes.get(box);
    if (home) {
      try {
        return await bento.run(box, { token: home.invocationToken }, { args });
      } catch (error) {
        if (systemCode(error) !== "bad-token") throw error;
        // The box began anew, or its function expired.
        this.#homes.delete(box);
      }
    }
    const far = await bento.run(box, pack, { args });
    const { deployment } = far;
    if (deployment) {
      const { invocationToken, shutdownToken } = deployment;
      const runtimeMs = runtimeOf(deployment);
      const known = runtimeMs === undefined ? {} : { runtimeMs };
      this.#homes.set(box, { invocationToken, shutdownToken, ...known });
      await orAborted(onChange(), signal);
    }
    return far;
  }

  /** Removes the function everywhere, asking all boxes at once. Resolves with those that did not answer in time. */
  async end(): Promise<string[]> {
    const { bento, clock } = this.#parts;
    const left: string[] = [];
    await Promise.all(
      [...this.#homes].map(async ([box, { shutdownToken }]) => {
        try {
          await inTime(bento.shutdown(box, shutdownToken), END_MS, clock);
        } catch {
          left.push(box);
        }
      }),
    );
    return left;
  }
}
