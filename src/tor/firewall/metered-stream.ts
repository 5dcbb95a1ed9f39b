// One stream of an owner, seen from the owner's side: every byte is counted against its account, back-pressure holds
// both ways, and a stream without a byte for long ends. The far end is hostile.

import { Duplex } from "node:stream";
import { BentoError } from "../../base/errors.ts";
import { IdleTimer } from "../../base/idle-timer.ts";
import { bytesSpent, type OwnerAccount } from "./owner-account.ts";

/** Milliseconds without a byte either way. */
export const STREAM_IDLE_MS = 10 * 60_000;

export class MeteredStream extends Duplex {
  readonly #inner: Duplex;
  readonly #account: OwnerAccount;
  readonly #idle: IdleTimer;

  /** Takes over `inner`: it is destroyed with this stream. */
  constructor(inner: Duplex, account: OwnerAccount) {
    super({ allowHalfOpen: true });
    this.#inner = inner;
    this.#account = account;
    this.#idle = new IdleTimer(account.clock, STREAM_IDLE_MS, () => {
      this.destroy(new BentoError("tor-timeout", "Stream closed: it was idle too long"));
    });
    inner.on("data", (chunk: Buffer) => {
      this.#onData(chunk);
    });
    inner.pause();
    inner.on("end", () => {
      this.push(null);
    });
    inner.on("error", (cause) => {
      this.destroy(broken(cause));
    });
    inner.on("close", () => {
      // After an orderly end, what was received still waits here to be read.
      if (!inner.readableEnded) this.destroy(broken());
    });
  }

  override _read(): void {
    this.#inner.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#idle.touch();
    if (chunk.length > this.#account.bytesLeft) {
      callback(bytesSpent());
      return;
    }
    this.#account.spend(chunk.length, "written");
    this.#inner.write(chunk, (error) => {
      callback(error ? broken(error) : null);
    });
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#inner.end(() => {
      callback();
    });
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#idle.stop();
    this.#inner.destroy();
    callback(error);
  }

  #onData(chunk: Buffer): void {
    this.#idle.touch();
    const taken = this.#account.spend(chunk.length, "read");
    if (taken > 0 && !this.push(chunk.subarray(0, taken))) this.#inner.pause();
    if (taken < chunk.length) this.destroy(bytesSpent());
  }
}

function broken(cause?: unknown): BentoError {
  // The firewall's own reasons (tor gone, instance ended) are said as they are.
  if (cause instanceof BentoError) return cause;
  return new BentoError("tor-stream-closed", "Stream lost: the far end, the circuit or tor ended it", {
    cause,
  });
}
