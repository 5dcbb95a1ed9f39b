// The box's way into a guest: its standard input. A guest that does not read makes the box wait, never grow.

import type { Writable } from "node:stream";
import { BentoError } from "../../base/errors.ts";
import { encodeGuestFrame, GUEST_FRAME } from "../../wire/guest-frame.ts";
import { Limits } from "../../wire/limits.ts";

/** Credit is given back in steps of this size: a sender never waits for less, and frames are saved. */
const CREDIT_STEP_BYTES = Limits.streamWindowBytes / 4;

export class GuestWriter {
  readonly #stdin: Writable;
  #waiting: PromiseWithResolvers<void>[] = [];
  #dead: BentoError | undefined;
  /** Called when the guest has read something after it had not kept up. */
  onDrain: () => void = () => {};

  constructor(stdin: Writable) {
    this.#stdin = stdin;
    stdin.on("drain", () => {
      this.#admit();
      this.onDrain();
    });
    // A guest that died closes its input, too. How it ended is known from its output alone.
    stdin.on("error", (cause) => {
      this.#die(cause);
    });
    stdin.on("close", () => {
      this.#die(undefined);
    });
  }

  /** Bytes that the guest has not taken. */
  get waitingBytes(): number {
    return this.#stdin.writableLength;
  }

  /** Writes a control frame at once; `onTaken` follows when it left the box or never will. */
  write(type: number, id: number, payload?: Uint8Array, onTaken?: () => void): void {
    if (this.#dead) {
      onTaken?.();
      return;
    }
    this.#stdin.write(encodeGuestFrame(type, id, payload), onTaken && (() => onTaken()));
  }

  writeJson(type: number, id: number, value: unknown, onTaken?: () => void): void {
    this.write(type, id, Buffer.from(JSON.stringify(value)), onTaken);
  }

  /**
   * A promise to wait for before writing bulk data, undefined when there is room now. Waiters are let in one by
   * one in the order they came. Rejects when the guest is gone.
   */
  room(): Promise<void> | undefined {
    if (this.#dead) return Promise.reject(this.#dead);
    if (!this.#stdin.writableNeedDrain && this.#waiting.length === 0) return undefined;
    const waiter = Promise.withResolvers<void>();
    this.#waiting.push(waiter);
    return waiter.promise;
  }

  close(): void {
    this.#die(undefined);
    this.#stdin.destroy();
  }

  #admit(): void {
    const next = this.#waiting.shift();
    if (!next) return;
    next.resolve();
    // It writes in its own continuation; those after it follow when there is still room then.
    setImmediate(() => {
      if (!this.#stdin.writableNeedDrain) this.#admit();
    });
  }

  #die(cause: unknown): void {
    if (this.#dead) return;
    this.#dead = new BentoError("guest-gone", "Cannot write to guest: it closed its input", { cause });
    for (const waiter of this.#waiting.splice(0)) waiter.reject(this.#dead);
  }
}

/** Counts what was consumed of one stream and gives it back to the guest in steps. */
export class CreditReturn {
  readonly #writer: GuestWriter;
  readonly #id: number;
  #owedBytes = 0;

  constructor(writer: GuestWriter, id: number) {
    this.#writer = writer;
    this.#id = id;
  }

  give(bytes: number): void {
    this.#owedBytes += bytes;
    if (this.#owedBytes < CREDIT_STEP_BYTES) return;
    const payload = Buffer.allocUnsafe(4);
    payload.writeUInt32BE(this.#owedBytes);
    this.#owedBytes = 0;
    this.#writer.write(GUEST_FRAME.credit, this.#id, payload);
  }
}
