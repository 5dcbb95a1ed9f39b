// Flow control between us and one hop: how many DATA cells may be under way, and the SENDMEs that prove their arrival.
// Each SENDME carries the digest of the cell that made it due: a hop cannot ask for more than it received.
// Spec: tor-spec 7.3, 7.4 (fixed windows); proposal 289 (digests); proposal 324 (congestion control).

import { ProtocolError } from "../../base/errors.ts";
import { equal } from "../crypto/primitives.ts";
import { SENDME_DIGESTS_MAX } from "../limits.ts";
import { Vegas, type VegasParameters } from "./vegas.ts";

/** tor-spec 7.3: cells. */
export const CIRCUIT_WINDOW = 1000;
export const CIRCUIT_INCREMENT = 100;
/** tor-spec 7.4. */
export const STREAM_WINDOW = 500;
export const STREAM_INCREMENT = 50;

/** Monotonic time in microseconds, for round trips. */
export type MicrosecondClock = () => number;

export interface CongestionControl {
  readonly parameters: VegasParameters;
  readonly nowUs: MicrosecondClock;
}

/** Counts DATA cells towards one hop. */
export class SendWindow {
  readonly #increment: number;
  readonly #congestion: { readonly vegas: Vegas; readonly nowUs: MicrosecondClock } | undefined;
  #inFlight = 0;
  #expected: { readonly digest: Uint8Array; readonly sentUs: number }[] = [];

  /** @param congestion given when the hop agreed to it; fixed windows otherwise. */
  constructor(congestion?: CongestionControl) {
    this.#increment = congestion?.parameters.sendmeIncrement ?? CIRCUIT_INCREMENT;
    this.#congestion = congestion && { vegas: new Vegas(congestion.parameters), nowUs: congestion.nowUs };
  }

  /** DATA cells that may be sent now. */
  get room(): number {
    const window = this.#congestion ? this.#congestion.vegas.window : CIRCUIT_WINDOW;
    return Math.max(0, window - this.#inFlight);
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** A DATA cell with this digest goes out. */
  sent(digest: Uint8Array): void {
    this.#inFlight++;
    if (this.#inFlight % this.#increment !== 0) return;
    if (this.#expected.length >= SENDME_DIGESTS_MAX)
      throw new ProtocolError("onion-window", "Cannot send: too many SENDMEs are outstanding");
    this.#expected.push({ digest: digest.subarray(0, 20), sentUs: this.#congestion?.nowUs() ?? 0 });
  }

  /**
   * A SENDME arrived. `isBlocked`: the link does not take more just now, a sign of congestion near us.
   * Throws ProtocolError `onion-window` when none was due or its digest is wrong: the circuit must be closed.
   */
  acknowledged(digest: Uint8Array | undefined, isBlocked: boolean): void {
    const expected = this.#expected.shift();
    if (!expected) throw new ProtocolError("onion-window", "Cannot go on: a SENDME that was not due");
    if (!digest || !equal(digest, expected.digest))
      throw new ProtocolError("onion-window", "Cannot go on: a SENDME that proves nothing");
    if (this.#congestion) {
      const { vegas, nowUs } = this.#congestion;
      vegas.acknowledged({ roundTripUs: nowUs() - expected.sentUs, inFlight: this.#inFlight, isBlocked });
    }
    this.#inFlight -= this.#increment;
  }
}

/** Counts DATA cells from one hop. */
export class ReceiveWindow {
  readonly #increment: number;
  #count = 0;

  constructor(sendmeIncrement: number = CIRCUIT_INCREMENT) {
    this.#increment = sendmeIncrement;
  }

  /** A DATA cell arrived. True when a SENDME with this cell's digest is due. */
  received(): boolean {
    this.#count = (this.#count + 1) % this.#increment;
    // SENDMEs leave at once, so a hop that keeps to the window is never out of it: nothing to enforce here.
    return this.#count === 0;
  }
}
