// What a function may send on a link to a relay: the cells of a client, and no more circuits than were granted. Walks the
// headers of cells, which may be cut anywhere, and touches nothing else. Boundary: the function, which is hostile; the
// relay is protected from what it could not get from a client, the box from being taken for something else than one.
// Spec: tor-spec 3 (cells of link versions 4 and 5), 5.6 (RELAY_EARLY); docs/spec/guest.md 5.3.

import { BentoError } from "../../base/errors.ts";
import { CELL, CELL_BYTES } from "../../onion/link/cell.ts";

/** Called for each cell of its kind. Throws BentoError `relays-limit` when there were enough. */
export interface CellCounts {
  takeCircuit(): void;
  takeEarly(): void;
}

/**
 * What is left out either belongs to the handshake, which the box has done (VERSIONS, NETINFO, CERTS, AUTHENTICATE, ...), or
 * is for relays to send. Cells of variable length are all of the first kind, but VPADDING, which nobody needs.
 */
const COMMANDS: ReadonlySet<number> = new Set([
  CELL.padding,
  CELL.relay,
  CELL.destroy,
  CELL.createFast,
  CELL.relayEarly,
  CELL.create2,
  CELL.paddingNegotiate,
]);
const COMMAND_AT = 4;

export class CellGate {
  readonly #counts: CellCounts;
  /** Bytes of the present cell that went by. */
  #at = 0;

  constructor(counts: CellCounts) {
    this.#counts = counts;
  }

  /**
   * The next bytes of the function. Throws BentoError `relays-refused` or `relays-limit`: then none of them may go on, and
   * the link must end.
   */
  check(bytes: Uint8Array): void {
    // From command to command: cells are of one length.
    for (let at = this.#toCommand(); at < bytes.length; at += CELL_BYTES) this.#take(bytes[at] ?? 0);
    this.#at = (this.#at + bytes.length) % CELL_BYTES;
  }

  /** Bytes until the next command. */
  #toCommand(): number {
    return (COMMAND_AT - this.#at + CELL_BYTES) % CELL_BYTES;
  }

  #take(command: number): void {
    if (!COMMANDS.has(command))
      throw new BentoError(
        "relays-refused",
        `Link closed: cell ${String(command)}, which a client does not send`,
      );
    if (command === CELL.create2 || command === CELL.createFast) this.#counts.takeCircuit();
    else if (command === CELL.relayEarly) this.#counts.takeEarly();
  }
}
