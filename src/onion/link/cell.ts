// Cells, the units of a link: cutting them out of the byte stream, and writing them.
// The bytes come from a relay, or from whoever answers in its place: hostile.
// Spec: tor-spec 3 "Cell packet format".

import { ByteQueue } from "../../base/byte-queue.ts";
import { ProtocolError } from "../../base/errors.ts";
import { VARIABLE_CELL_BYTES_MAX } from "../limits.ts";

/** tor-spec 3: commands. Those of version 3 links and older are left out. */
export const CELL = {
  padding: 0,
  relay: 3,
  destroy: 4,
  createFast: 5,
  createdFast: 6,
  versions: 7,
  netinfo: 8,
  relayEarly: 9,
  create2: 10,
  created2: 11,
  paddingNegotiate: 12,
  vpadding: 128,
  certs: 129,
  authChallenge: 130,
} as const;

/** Payload of a fixed-length cell. */
export const CELL_BODY_BYTES = 509;
/** Circuit id, command, payload: link versions 4 and 5. */
export const CELL_BYTES = 514;
const FIRST_VARIABLE_COMMAND = 128;

export interface Cell {
  readonly circuitId: number;
  readonly command: number;
  /** Whole payload, padding included. A view of what was received. */
  readonly body: Uint8Array;
}

/**
 * Cuts cells out of chunks of any size. Holds at most one incomplete cell beyond what was pushed.
 * Circuit ids have 2 bytes until `widen` is called, which follows the peer's VERSIONS cell (tor-spec 3: CIRCID_LEN).
 */
export class CellParser {
  readonly #queue = new ByteQueue();
  #idBytes: 2 | 4 = 2;

  /** The parser keeps views of `chunk`. */
  push(chunk: Uint8Array): void {
    this.#queue.push(chunk);
  }

  /** From the next cell on, circuit ids have 4 bytes: link version 4 or later was agreed. */
  widen(): void {
    this.#idBytes = 4;
  }

  /** The next whole cell. Throws ProtocolError `onion-cell` for a length that no cell has. */
  next(): Cell | undefined {
    const head = this.#queue.peek(this.#idBytes + 3);
    if (!head) return undefined;
    const command = head[this.#idBytes] ?? 0;
    const headBytes = this.#idBytes + 1;
    if (!isVariable(command)) {
      const cell = this.#queue.take(headBytes + CELL_BODY_BYTES);
      return cell && { circuitId: this.#circuitId(cell), command, body: cell.subarray(headBytes) };
    }
    const length = ((head[headBytes] ?? 0) << 8) | (head[headBytes + 1] ?? 0);
    if (length > VARIABLE_CELL_BYTES_MAX)
      throw new ProtocolError(
        "onion-cell",
        `Cannot read cell: ${String(length)} bytes of payload, at most ${String(VARIABLE_CELL_BYTES_MAX)}`,
      );
    const cell = this.#queue.take(headBytes + 2 + length);
    return cell && { circuitId: this.#circuitId(cell), command, body: cell.subarray(headBytes + 2) };
  }

  /** Takes what was pushed and not yet cut: for whoever goes on without this parser. */
  rest(): Uint8Array {
    return this.#queue.take(this.#queue.length) ?? new Uint8Array(0);
  }

  #circuitId(cell: Uint8Array): number {
    const [a = 0, b = 0, c = 0, d = 0] = cell;
    return this.#idBytes === 2 ? (a << 8) | b : ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
  }
}

function isVariable(command: number): boolean {
  return command === CELL.versions || command >= FIRST_VARIABLE_COMMAND;
}

/** A fixed-length cell with a 4-byte circuit id; `body` is filled up with zeros. */
export function fixedCell(circuitId: number, command: number, body: Uint8Array): Uint8Array {
  const cell = new Uint8Array(CELL_BYTES);
  writeCell(cell, circuitId, command, body);
  return cell;
}

/** Cells of one circuit, one after the other. `bodies`: whole payloads, one after the other. */
export function fixedCells(circuitId: number, command: number, bodies: Uint8Array): Uint8Array {
  const count = bodies.length / CELL_BODY_BYTES;
  const cells = new Uint8Array(count * CELL_BYTES);
  for (let index = 0; index < count; index++) {
    const body = bodies.subarray(index * CELL_BODY_BYTES, (index + 1) * CELL_BODY_BYTES);
    writeCell(cells.subarray(index * CELL_BYTES), circuitId, command, body);
  }
  return cells;
}

function writeCell(cell: Uint8Array, circuitId: number, command: number, body: Uint8Array): void {
  cell[0] = circuitId >>> 24;
  cell[1] = circuitId >>> 16;
  cell[2] = circuitId >>> 8;
  cell[3] = circuitId;
  cell[4] = command;
  cell.set(body, CELL_BYTES - CELL_BODY_BYTES);
}

/** tor-spec 4.1: VERSIONS always has a 2-byte circuit id, even before a wider one was agreed. */
export function versionsCell(versions: readonly number[]): Uint8Array {
  const cell = new Uint8Array(5 + 2 * versions.length);
  cell[2] = CELL.versions;
  cell[4] = 2 * versions.length;
  for (const [index, version] of versions.entries()) cell[6 + 2 * index] = version;
  return cell;
}
