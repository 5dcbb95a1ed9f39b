// Boxes end instances after so long: before that an instance starts its successor, which has the function's storage, claims the
// introduction points, and then takes the replicas and the standby over. Nothing of the service is given up before it has.
// Boundary: the own box, which may refuse a further instance, or start one that comes to nothing.

import type { Bento, Storage } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf, systemCode } from "../../src/base/errors.ts";
import type { LoadBalancerEvent, LoadBalancerResume } from "../../src/wire/loadbalancer.ts";
import { KEYS, readState, type StateKeeper } from "./state.ts";

export interface RenewalParts {
  readonly bento: Bento;
  readonly storage: Storage;
  readonly keeper: StateKeeper;
  readonly clock: Clock;
  /** When this instance began. */
  readonly sinceMs: number;
  readonly onEvent: (event: LoadBalancerEvent) => void;
  /** To keep what is not kept yet, before the successor reads it. */
  readonly flush: () => Promise<void>;
  /** The successor has the service. */
  readonly onRenewed: () => void;
}

/** So long before the end, or a quarter of the runtime where that is less: milliseconds. */
export const RENEW_BEFORE_MS = 1800_000;
/** Between two tries, or a fifth of what is left at the first one where that is less. */
export const RENEW_RETRY_MS = 300_000;
/** A successor that is not in charge by then is ended. */
export const IN_CHARGE_MS = 120_000;
const POLL_MS = 250;

/** How long before its end an instance is replaced. */
export function renewMarginMs(runtimeMs: number): number {
  return Math.min(RENEW_BEFORE_MS, runtimeMs / 4);
}

export class Renewal {
  readonly #parts: RenewalParts;
  readonly #ended = new AbortController();
  #notBeforeMs = Number.NEGATIVE_INFINITY;
  #running: Promise<void> | undefined;

  constructor(parts: RenewalParts) {
    this.#parts = parts;
  }

  /** Resolves when no successor is on its way, or it has the service. Until then somebody else may have our points rightly. */
  async settled(): Promise<void> {
    await this.#running;
  }

  /** To be called every now and then. */
  tick(): void {
    const { keeper, clock, sinceMs } = this.#parts;
    const { renew } = keeper.state;
    if (!renew || this.#running || this.#ended.signal.aborted) return;
    const marginMs = renewMarginMs(renew.runtimeMs);
    const nowMs = clock.now();
    if (nowMs < sinceMs + renew.runtimeMs - marginMs || nowMs < this.#notBeforeMs) return;
    this.#notBeforeMs = nowMs + Math.min(RENEW_RETRY_MS, marginMs / 5);
    this.#running = this.#renew(renew.token).finally(() => {
      this.#running = undefined;
    });
  }

  /** Leaves a successor that is on its way as it is. */
  leave(): void {
    this.#ended.abort(new Error("the load balancer ends"));
  }

  async #renew(token: string): Promise<void> {
    const { bento, storage, keeper, flush, onEvent, onRenewed } = this.#parts;
    let instance: string | undefined;
    try {
      await flush();
      // From here on the state is the successor's: what we wrote would undo what it has written.
      await keeper.hold();
      const args: [LoadBalancerResume] = [{ resume: true, renews: true }];
      instance = await bento.exec("self", token, { args });
      await this.#untilInCharge();
      await storage.put(KEYS.instance, instance);
      onEvent({ kind: "renewed" });
      onRenewed();
    } catch (error) {
      if (this.#ended.signal.aborted) return;
      if (instance !== undefined) await bento.close("self", instance).catch(() => undefined);
      await keeper.release().catch(() => undefined);
      onEvent({ kind: "renew-failed", code: systemCode(error) ?? "failed", message: messageOf(error) });
    }
  }

  async #untilInCharge(): Promise<void> {
    const { clock, storage, keeper } = this.#parts;
    for (let waitedMs = 0; waitedMs < IN_CHARGE_MS; waitedMs += POLL_MS) {
      await clock.sleep(POLL_MS, this.#ended.signal);
      const { inCharge = 0 } = (await readState(storage)) ?? {};
      if (inCharge > keeper.state.epoch) return;
    }
    throw new Error(`the next instance does not serve after ${IN_CHARGE_MS / 1000} s`);
  }
}
