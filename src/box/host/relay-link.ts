// An authenticated connection to a relay as an instance's guest link sees it: it lets through a client's cells and nothing
// else, and takes every byte from the instance's account. Both ends are hostile: the function behind the gate, and the
// relay, whose cells are the function's to read.

import type { TLSSocket } from "node:tls";
import type { Clock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { CellGate } from "./cell-gate.ts";
import { CountedSocket, type Traffic } from "./counted-socket.ts";
import type { RelayAccount } from "./relay-account.ts";

/** A relay that vanished without a word is noticed by TCP within minutes: milliseconds of silence before it asks. */
const KEEP_ALIVE_MS = 60_000;
/** How long what was written may take to leave when the function closes the link: milliseconds. */
const CLOSE_MS = 5_000;

export class RelayLinkStream extends CountedSocket {
  readonly #account: RelayAccount;
  readonly #clock: Clock;
  readonly #gate: CellGate;
  #stopTimer: () => void = () => undefined;

  /** @param early what came with the handshake's last cell. */
  constructor(
    socket: TLSSocket,
    early: Uint8Array,
    options: { readonly account: RelayAccount; readonly traffic: Traffic; readonly clock: Clock },
  ) {
    // A link is over when either end says so (tor-spec 4.6 knows no half of one).
    super(socket, options.traffic, { allowHalfOpen: false });
    this.#account = options.account;
    this.#clock = options.clock;
    this.#gate = new CellGate(options.account);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    if (early.length > 0) this.arrived(early);
    // A relay that closes is noticed although the function does not read.
    this.read(0);
  }

  protected override pay(chunk: Uint8Array): void {
    this.#account.spend(chunk.length);
    this.#gate.check(chunk);
  }

  protected override arrived(chunk: Uint8Array): void {
    try {
      this.#account.spend(chunk.length);
    } catch (error) {
      this.destroy(error as BentoError);
      return;
    }
    this.deliver(chunk);
  }

  protected override lost(cause?: unknown): BentoError {
    return new BentoError("relays-closed", "Link closed: the relay or the network broke it", { cause });
  }

  override end(...last: unknown[]): this {
    // A relay that takes nothing any more is left: `_final` would wait for it, behind what was written.
    this.#stopTimer();
    this.#stopTimer = this.#clock.after(CLOSE_MS, () => {
      this.destroy(this.lost());
    });
    return super.end(...(last as []));
  }

  override _final(callback: (error?: Error | null) => void): void {
    super._final((error) => {
      this.endReading();
      callback(error);
    });
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#stopTimer();
    super._destroy(error, callback);
  }
}
