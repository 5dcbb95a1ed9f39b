// One call of a guest while it is open, with the byte stream on its id (spec/guest 2.3). Everything that arrives
// on it comes from the hostile side: ProtocolError ends the guest.

import { ProtocolError } from "../../base/errors.ts";
import { GUEST_FRAME, GUEST_PAYLOAD_BYTES_MAX, guestFrameCost } from "../../wire/guest-frame.ts";
import { ReceiveWindow, SendWindow } from "./guest-window.ts";
import { CreditReturn, type GuestWriter } from "./guest-writer.ts";

/** Where the guest's bytes on this call go. `taken` must follow each `data` once. */
export interface GuestDataSink {
  data(bytes: Uint8Array, taken: () => void): void;
  end(): void;
}

export class OpenCall {
  readonly id: number;
  readonly #writer: GuestWriter;
  readonly #abort = new AbortController();
  readonly #sendWindow = new SendWindow();
  readonly #receiveWindow = new ReceiveWindow();
  readonly #credit: CreditReturn;
  readonly #hold: (bytes: number) => void;
  readonly #takesData: boolean;
  #early: Uint8Array[] = [];
  #sink: GuestDataSink | undefined;
  #inputEnded = false;
  #over = false;

  /** @param hold told of every byte that the box keeps for this call, and with negative numbers of its end. */
  constructor(id: number, writer: GuestWriter, takesData: boolean, hold: (bytes: number) => void) {
    this.id = id;
    this.#writer = writer;
    this.#credit = new CreditReturn(writer, id);
    this.#takesData = takesData;
    this.#hold = hold;
  }

  /** Aborted when the guest drops the call, or ends. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  // From the guest.

  onData(bytes: Uint8Array): void {
    if (!this.#takesData || this.#inputEnded) {
      throw new ProtocolError(
        "guest-frame",
        `Cannot take data on call ${this.id}: nothing more was expected`,
      );
    }
    const cost = guestFrameCost(bytes.length);
    this.#receiveWindow.receive(cost);
    this.#hold(cost);
    if (this.#sink) this.#deliver(this.#sink, bytes);
    else this.#early.push(bytes);
  }

  onDataEnd(): void {
    if (!this.#takesData || this.#inputEnded) {
      throw new ProtocolError("guest-frame", `Cannot take data-end on call ${this.id}: not expected`);
    }
    this.#inputEnded = true;
    this.#sink?.end();
  }

  onCredit(payload: Uint8Array): void {
    this.#sendWindow.credit(payload);
  }

  // To the guest.

  /** Hands over what arrived already and what follows. Once. */
  connectSink(sink: GuestDataSink): void {
    this.#sink = sink;
    for (const bytes of this.#early.splice(0)) this.#deliver(sink, bytes);
    if (this.#inputEnded) sink.end();
  }

  /** Sends bytes on the call's stream, as fast as the guest consumes them. Rejects when the call is over. */
  async send(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += GUEST_PAYLOAD_BYTES_MAX) {
      const part = bytes.subarray(at, at + GUEST_PAYLOAD_BYTES_MAX);
      const window = this.#sendWindow.take(guestFrameCost(part.length));
      if (window) await window;
      const room = this.#writer.room();
      if (room) await room;
      this.signal.throwIfAborted();
      this.#writer.write(GUEST_FRAME.data, this.id, part);
    }
  }

  /** Lets go of everything. Idempotent. */
  end(reason: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.#abort.abort(reason);
    this.#sendWindow.fail(reason);
    this.#early = [];
    this.#hold(-this.#receiveWindow.heldBytes);
  }

  #deliver(sink: GuestDataSink, bytes: Uint8Array): void {
    const cost = guestFrameCost(bytes.length);
    sink.data(bytes, () => {
      if (this.#over) return;
      this.#receiveWindow.consume(cost);
      this.#hold(-cost);
      this.#credit.give(cost);
    });
  }
}
