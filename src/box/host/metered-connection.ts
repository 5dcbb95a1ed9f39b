// A connection out of an instance as its guest link sees it: every byte is taken from the instance's budget, as many as
// there are, and it ends when it idles. The far end is hostile.

import type { Socket } from "node:net";
import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { IdleTimer } from "../../base/idle-timer.ts";
import { CountedSocket, type Traffic } from "./counted-socket.ts";

/** Bytes that the connections of one instance may still carry, both ways together. */
export interface ByteBudget {
  left: number;
}

/** Milliseconds without a byte either way: long enough for held requests, short enough to free the descriptor. */
export const IDLE_MS = 10 * 60_000;

export class MeteredConnection extends CountedSocket {
  readonly #budget: ByteBudget;
  readonly #idle: IdleTimer;

  constructor(socket: Socket, budget: ByteBudget, traffic: Traffic, clock: Clock) {
    super(socket, traffic, { allowHalfOpen: true });
    this.#budget = budget;
    this.#idle = new IdleTimer(clock, IDLE_MS, () => {
      this.destroy(new BentoError("net-timeout", "Connection closed: it was idle too long"));
    });
  }

  protected override pay(chunk: Uint8Array): void {
    this.#idle.touch();
    if (chunk.length > this.#budget.left) throw budgetSpent();
    this.#budget.left -= chunk.length;
  }

  protected override arrived(chunk: Uint8Array): void {
    this.#idle.touch();
    const allowed = chunk.subarray(0, this.#budget.left);
    this.#budget.left -= allowed.length;
    if (allowed.length > 0) this.deliver(allowed);
    if (allowed.length < chunk.length) this.destroy(budgetSpent());
  }

  protected override lost(cause?: unknown): BentoError {
    return new BentoError("net-reset", "Connection lost: the far end or the network broke it", { cause });
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#idle.stop();
    super._destroy(error, callback);
  }
}

function budgetSpent(): BentoError {
  return new BentoError("net-limit", "Connection closed: the instance has used up its bytes");
}
