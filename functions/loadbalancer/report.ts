// What an owner is told of how it goes: one report now, or one every so often as long as somebody is attached.

import type { Clock } from "../../src/base/clock.ts";
import type { LoadBalancerReport } from "../../src/wire/loadbalancer.ts";
import type { Outbox } from "./outbox.ts";

export interface ReportsParts {
  readonly clock: Clock;
  readonly outbox: Outbox;
  /** Whether somebody reads what we say. */
  readonly isAttached: () => boolean;
  /** How it goes; undefined before it has begun: then there is nothing to tell. */
  readonly state: () => Omit<LoadBalancerReport, "id"> | undefined;
  /** Whether replicas are to tell of each client: that costs bytes of the grant. */
  readonly setTellsClients: (tells: boolean) => void;
}

interface Watch {
  readonly everyMs: number;
  readonly id?: number;
}

export class Reports {
  readonly #parts: ReportsParts;
  #watch: Watch | undefined;
  #stop: () => void = () => undefined;

  constructor(parts: ReportsParts) {
    this.#parts = parts;
  }

  /** What an owner asks for; takes the place of what was asked before. */
  watch(watch: Watch): void {
    this.#watch = watch;
    this.#parts.setTellsClients(watch.everyMs > 0);
    this.now();
  }

  /** One now, where somebody asked. */
  now(): void {
    this.leave();
    const watch = this.#watch;
    const { isAttached, outbox, clock, state, setTellsClients } = this.#parts;
    const report = state();
    if (!watch || !report) return;
    if (isAttached()) {
      outbox.report({ ...(watch.id === undefined ? {} : { id: watch.id }), ...report });
    } else if (watch.everyMs > 0) {
      // Nobody reads: details would cost the grant's bytes for nothing. Whoever comes next asks again.
      this.#watch = undefined;
      setTellsClients(false);
      return;
    }
    if (watch.everyMs > 0) this.#stop = clock.after(watch.everyMs, () => this.now());
  }

  /** None by themselves any more. */
  leave(): void {
    this.#stop();
  }
}
