// Replaces replicas before their boxes end them: another one is started, and when it serves the old one is retired. One after
// the other, whatever the most is: clients are to find all the others as they were.

import type { Clock } from "../../src/base/clock.ts";
import type { ReplicaLink } from "./replica-link.ts";

/**
 * So long before its box ends it, or a quarter of its runtime where that is less, a replica is replaced: its clients have
 * until then to finish.
 */
export const RENEW_BEFORE_MS = 3600_000;

export class ReplicaRenewal {
  readonly #clock: Clock;
  readonly #runtimeMs: (box: string) => number | undefined;
  /** The replica that is replaced, and the one that comes in its place: one at a time. */
  #pair: { readonly old: number; readonly next: number } | undefined;

  /** @param runtimeMs how long a box lets each instance run, where it said so */
  constructor(clock: Clock, runtimeMs: (box: string) => number | undefined) {
    this.#clock = clock;
    this.#runtimeMs = runtimeMs;
  }

  /** Its box ends it soon. */
  isDue({ place: { box, startedAtMs } }: ReplicaLink): boolean {
    const runtimeMs = this.#runtimeMs(box);
    if (runtimeMs === undefined) return false;
    const leftMs = startedAtMs + runtimeMs - this.#clock.now();
    return leftMs <= Math.min(RENEW_BEFORE_MS, runtimeMs / 4);
  }

  /** The oldest of those that serve and are due. */
  due(links: readonly ReplicaLink[]): ReplicaLink | undefined {
    return links
      .filter((link) => link.state === "serving" && this.isDue(link))
      .toSorted((a, b) => a.place.startedAtMs - b.place.startedAtMs)[0];
  }

  /** `next` was asked for in its place. */
  begin({ place }: ReplicaLink, next: number): void {
    this.#pair = { old: place.id, next };
  }

  /**
   * What became of the pair. "waits": the new one does not serve yet. Else there is none any more, and the old one may go
   * when it is returned.
   */
  settle(
    links: ReadonlyMap<number, ReplicaLink>,
    isAsked: (id: number) => boolean,
  ): ReplicaLink | "waits" | undefined {
    if (!this.#pair) return undefined;
    const { old, next } = this.#pair;
    if (isAsked(next)) return "waits";
    const link = links.get(next);
    if (link?.state === "starting") return "waits";
    this.#pair = undefined;
    return link?.state === "serving" ? links.get(old) : undefined;
  }
}
