// An authenticated connection to a relay as an instance's guest link sees it: a Duplex that lets through a client's cells
// and nothing else, counts every byte, and keeps back-pressure both ways. Both ends are hostile: the function behind the
// gate, and the relay, whose cells are the function's to read.

import { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { CellGate } from "./cell-gate.ts";
import type { Traffic } from "./metered-connection.ts";
import type { RelayAccount } from "./relay-account.ts";

/** A relay that vanished without a word is noticed by TCP within minutes: milliseconds of silence before it asks. */
const KEEP_ALIVE_MS = 60_000;
/** How long what was written may take to leave when the function closes the link: milliseconds. */
const CLOSE_MS = 5_000;

export class RelayLinkStream extends Duplex {
  readonly #socket: TLSSocket;
  readonly #account: RelayAccount;
  readonly #traffic: Traffic;
  readonly #clock: Clock;
  readonly #gate: CellGate;
  #hasEnded = false;
  #resume: (() => void) | undefined;
  #stopTimer: () => void = () => undefined;

  /** @param early what came with the handshake's last cell. */
  constructor(
    socket: TLSSocket,
    early: Uint8Array,
    options: { readonly account: RelayAccount; readonly traffic: Traffic; readonly clock: Clock },
  ) {
    // A link is over when either end says so (tor-spec 4.6 knows no half of one).
    super({ allowHalfOpen: false });
    this.#socket = socket;
    this.#account = options.account;
    this.#traffic = options.traffic;
    this.#clock = options.clock;
    this.#gate = new CellGate(options.account);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    socket.on("data", (chunk: Buffer) => {
      this.#onData(chunk);
    });
    socket.on("end", () => {
      this.#end();
    });
    socket.on("drain", () => {
      this.#resume?.();
    });
    socket.on("error", (cause) => {
      this.destroy(linkLost(cause));
    });
    socket.on("close", () => {
      // After an orderly end, what was received still waits here to be read.
      if (!this.#hasEnded) this.destroy(linkLost());
      else this.#resume?.();
    });
    if (early.length > 0) this.#onData(early);
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    if (this.#socket.destroyed) {
      callback(linkLost());
      return;
    }
    try {
      this.#account.spend(chunk.length);
      this.#gate.check(chunk);
    } catch (error) {
      callback(error as BentoError);
      return;
    }
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

  override end(...last: unknown[]): this {
    // A relay that takes nothing any more is left: `_final` would wait for it, behind what was written.
    this.#stopTimer();
    this.#stopTimer = this.#clock.after(CLOSE_MS, () => {
      this.destroy(linkLost());
    });
    return super.end(...(last as []));
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#socket.end(() => {
      this.#end();
      callback();
    });
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#stopTimer();
    this.#socket.destroy();
    const resume = this.#resume;
    this.#resume = undefined;
    resume?.();
    callback(error);
  }

  #end(): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.push(null);
  }

  #onData(chunk: Uint8Array): void {
    if (this.#hasEnded) return;
    try {
      this.#account.spend(chunk.length);
    } catch (error) {
      this.destroy(error as BentoError);
      return;
    }
    this.#traffic.receivedBytes += chunk.length;
    if (!this.push(chunk)) this.#socket.pause();
  }
}

function linkLost(cause?: unknown): BentoError {
  return new BentoError("relays-closed", "Link closed: the relay or the network broke it", { cause });
}
