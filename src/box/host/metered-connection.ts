// A connection out of an instance as its guest link sees it: a Duplex that counts every byte against the
// instance's budget, keeps back-pressure both ways and ends when it idles. The far end is hostile.

import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";

/** Bytes that the connections of one instance may still carry, both ways together. */
export interface ByteBudget {
  left: number;
}

/** Bytes that all connections of the box have carried. */
export interface Traffic {
  receivedBytes: number;
  sentBytes: number;
}

/** Milliseconds without a byte either way: long enough for held requests, short enough to free the descriptor. */
export const IDLE_MS = 10 * 60_000;

export class MeteredConnection extends Duplex {
  readonly #socket: Socket;
  readonly #budget: ByteBudget;
  readonly #traffic: Traffic;
  readonly #clock: Clock;
  #hasEnded = false;
  #lastByteAt: number;
  #stopIdleTimer: () => void = () => undefined;
  #resume: (() => void) | undefined;

  constructor(socket: Socket, budget: ByteBudget, traffic: Traffic, clock: Clock) {
    super({ allowHalfOpen: true });
    this.#socket = socket;
    this.#budget = budget;
    this.#traffic = traffic;
    this.#clock = clock;
    this.#lastByteAt = clock.now();
    socket.on("data", (chunk: Buffer) => {
      this.#onData(chunk);
    });
    socket.pause();
    socket.on("end", () => {
      this.#hasEnded = true;
      this.push(null);
    });
    socket.on("drain", () => {
      this.#resume?.();
    });
    socket.on("error", (cause) => {
      this.destroy(connectionLost(cause));
    });
    socket.on("close", () => {
      // After an orderly end, what was received still waits here to be read.
      if (!this.#hasEnded) this.destroy(connectionLost());
      else this.#resume?.();
    });
    this.#watchIdle(IDLE_MS);
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#lastByteAt = this.#clock.now();
    if (this.#socket.destroyed) {
      callback(connectionLost());
      return;
    }
    if (chunk.length > this.#budget.left) {
      callback(budgetSpent());
      return;
    }
    this.#budget.left -= chunk.length;
    this.#traffic.sentBytes += chunk.length;
    if (this.#socket.write(chunk)) {
      callback();
      return;
    }
    this.#resume = () => {
      this.#resume = undefined;
      callback();
    };
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#socket.end(() => {
      callback();
    });
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#stopIdleTimer();
    this.#socket.destroy();
    const resume = this.#resume;
    this.#resume = undefined;
    resume?.();
    callback(error);
  }

  #onData(chunk: Buffer): void {
    this.#lastByteAt = this.#clock.now();
    const allowed = chunk.subarray(0, this.#budget.left);
    this.#budget.left -= allowed.length;
    this.#traffic.receivedBytes += allowed.length;
    if (allowed.length > 0 && !this.push(allowed)) this.#socket.pause();
    if (allowed.length < chunk.length) this.destroy(budgetSpent());
  }

  /** One timer at a time, set again for what is left: a busy connection costs no timer a byte. */
  #watchIdle(delayMs: number): void {
    this.#stopIdleTimer = this.#clock.after(delayMs, () => {
      const leftMs = this.#lastByteAt + IDLE_MS - this.#clock.now();
      if (leftMs > 0) this.#watchIdle(leftMs);
      else this.destroy(new BentoError("net-timeout", "Connection closed: it was idle too long"));
    });
  }
}

function connectionLost(cause?: unknown): BentoError {
  return new BentoError("net-reset", "Connection lost: the far end or the network broke it", { cause });
}

function budgetSpent(): BentoError {
  return new BentoError("net-limit", "Connection closed: the instance has used up its bytes");
}
