// Standbys that were lost and not seen to have ended: each of them may take the service over, or have it by now. They are
// asked until they say what they are. One that waits is ended, for another one is in its place.
// Boundary: boxes that are not reached, for however long.

import type { Bento } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import type { StandbyPlace } from "../../src/wire/loadbalancer.ts";
import { askStandby } from "./standby-link.ts";

export interface LostStandbysParts {
  readonly bento: Bento;
  readonly clock: Clock;
  /** Nobody wants to know any more. */
  readonly signal: AbortSignal;
  readonly onTookOver: () => void;
}

/** For its word, and between two times that it is asked: milliseconds. */
export const ASK_MS = 30_000;
const ASK_AGAIN_MS = 5000;
const ASK_AGAIN_MS_MAX = 60_000;

export class LostStandbys {
  readonly #parts: LostStandbysParts;
  readonly #places = new Set<StandbyPlace>();

  constructor(parts: LostStandbysParts) {
    this.#parts = parts;
  }

  /** How many there are. */
  get size(): number {
    return this.#places.size;
  }

  add(place: StandbyPlace): void {
    this.#places.add(place);
    void this.#ascertain(place);
  }

  async #ascertain(place: StandbyPlace): Promise<void> {
    const { bento, clock, signal, onTookOver } = this.#parts;
    for (let waitMs = ASK_AGAIN_MS; !signal.aborted; waitMs = Math.min(2 * waitMs, ASK_AGAIN_MS_MAX)) {
      const word = await askStandby(bento, place, clock, ASK_MS);
      if (signal.aborted) return;
      if (word === "took-over") onTookOver();
      if (word === "waits") await bento.close(place.box, place.instance).catch(() => undefined);
      if (word !== undefined) {
        this.#places.delete(place);
        return;
      }
      await clock.sleep(waitMs, signal).catch(() => undefined);
    }
  }
}
