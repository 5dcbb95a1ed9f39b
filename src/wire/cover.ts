// A session inside cells of constant size (spec/cover): what the Cover function and its client say to each other. Every
// cell is full, of content or of zeros; cells leave at a constant rate both ways (pace.ts), so that whoever sees
// the client's link cannot tell the one from the other. Pure. Each side distrusts the other.
//
//   cell   [number u32] [used u16] [used bytes of frames, going on from the cell before] [zeros]
//          00 00 00 07  00 05      00 00 00 01 03   00 00 ...
//   frame  [length u32: kind and body] [kind u8] [body]
//
//   00 begin    JSON Begin, client only, first      02 credit   u32: bytes of session frames the sender has taken
//   01 session  one frame of session-frame.ts       03 end      client only, last: the function sends no more
//
// Each side sends at most WINDOW_BYTES of session frames beyond what was credited: what nobody reads waits at its
// sender, never in a cell.

import { ByteQueue } from "../base/byte-queue.ts";
import { concat, fromUtf8, utf8, view } from "../base/bytes.ts";
import { ProtocolError, unreachable } from "../base/errors.ts";
import type { JsonValue } from "./api.ts";
import { Limits } from "./limits.ts";

/** Sizes of a cell: multiples of what one cell of Tor carries (tor-spec, RELAY_PAYLOAD_SIZE 498), framing included. */
export const CELL_SIZES = [470, 968, 1964, 3956, 7940] as const;
/** Rates: bytes of cells per second, each way. */
export const RATE_MIN = 4 * 1024;
export const RATE_MAX = 4 * 1024 * 1024;
/** A second holds at least so many cells, where sizes allow: one more or less is then under 1 %. */
const CELLS_PER_SECOND = 100;

const HEADER_BYTES = 6;
/** Session frames under way without credit, each way: bytes. */
export const WINDOW_BYTES = 256 * 1024;
const FRAME_BYTES_MAX = Limits.packageBytesMax + Limits.argumentBytesMax + 4096;

const KIND = { begin: 0, session: 1, credit: 2, end: 3 } as const;

/** What the covered session is: a package to install at this box, or a function that it has, by its token. */
export interface Begin {
  readonly token?: string | undefined;
  readonly start: {
    readonly package?: { readonly manifest: object; readonly source: string } | undefined;
    readonly invocation: { readonly args: readonly JsonValue[] } | { readonly call: string };
  };
}

export type CoverFrame =
  | { readonly kind: "begin"; readonly begin: Begin }
  | { readonly kind: "session"; readonly frame: Uint8Array }
  | { readonly kind: "credit"; readonly bytes: number }
  | { readonly kind: "end" };

/** How a covered session is paced. */
export interface CoverSettings {
  readonly rate: number;
  readonly cellBytes: number;
}

/** The largest size of which a second holds CELLS_PER_SECOND, else the smallest. Throws RangeError on a rate out of range. */
export function coverSettings(rate: number): CoverSettings {
  if (!Number.isInteger(rate) || rate < RATE_MIN || rate > RATE_MAX) {
    throw new RangeError(
      `Cannot cover: found ${rate} bytes a second, expected a whole number from ${RATE_MIN} to ${RATE_MAX}`,
    );
  }
  const cellBytes = CELL_SIZES.findLast((size) => size * CELLS_PER_SECOND <= rate) ?? CELL_SIZES[0];
  return { rate, cellBytes };
}

/** Fills cells: frames in, one cell out whenever it is asked for. */
export class CellWriter {
  readonly #cellBytes: number;
  readonly #queue = new ByteQueue();
  #number = 0;

  constructor(cellBytes: number) {
    this.#cellBytes = cellBytes;
  }

  /** Bytes that wait for their cells. */
  get queued(): number {
    return this.#queue.length;
  }

  push(frame: CoverFrame): void {
    this.#queue.push(encodeCoverFrame(frame));
  }

  next(): Uint8Array {
    const used = Math.min(this.#queue.length, this.#cellBytes - HEADER_BYTES);
    const cell = new Uint8Array(this.#cellBytes);
    view(cell).setUint32(0, this.#number);
    view(cell).setUint16(4, used);
    if (used > 0) cell.set(this.#queue.take(used) ?? [], HEADER_BYTES);
    this.#number = (this.#number + 1) >>> 0;
    return cell;
  }
}

/** Reads cells. Holds at most one frame. */
export class CellReader {
  readonly #cellBytes: number;
  readonly #queue = new ByteQueue();
  #number = 0;

  constructor(cellBytes: number) {
    this.#cellBytes = cellBytes;
  }

  /** The frames that `cell` completes. Throws ProtocolError: wrong size, a cell that is missing, malformed frames. */
  push(cell: Uint8Array): CoverFrame[] {
    if (cell.length !== this.#cellBytes) throw bad(`a cell of ${cell.length} bytes`);
    const number = view(cell).getUint32(0);
    if (number !== this.#number) throw bad(`cell ${number} in place of ${this.#number}: some were lost`);
    this.#number = (number + 1) >>> 0;
    const used = view(cell).getUint16(4);
    if (used > cell.length - HEADER_BYTES) throw bad(`a cell that says it holds ${used} bytes`);
    // The cell is the caller's; frames may outlive it.
    this.#queue.push(cell.slice(HEADER_BYTES, HEADER_BYTES + used));
    const frames: CoverFrame[] = [];
    for (let header = this.#queue.peek(4); header; header = this.#queue.peek(4)) {
      const length = view(header).getUint32(0);
      if (length < 1 || length > FRAME_BYTES_MAX) throw bad(`a frame of ${length} bytes`);
      const whole = this.#queue.take(4 + length);
      if (!whole) break;
      frames.push(decodeCoverFrame(whole.subarray(4)));
    }
    return frames;
  }
}

/**
 * What a sender may still have under way. Frames cost their length and at least 1; one frame may overdraw, since
 * packages are longer than the window.
 */
export class CoverCredit {
  #left = WINDOW_BYTES;

  get isOpen(): boolean {
    return this.#left > 0;
  }

  spend(frame: Uint8Array): void {
    this.#left -= Math.max(1, frame.length);
  }

  /** Throws ProtocolError when more is given back than was spent. */
  restore(bytes: number): void {
    if (this.#left + bytes > WINDOW_BYTES) throw bad("credit for what was never sent");
    this.#left += bytes;
  }
}

export function encodeCoverFrame(frame: CoverFrame): Uint8Array {
  switch (frame.kind) {
    case "begin":
      return framed(KIND.begin, utf8(JSON.stringify(frame.begin)));
    case "session":
      return framed(KIND.session, frame.frame);
    case "credit": {
      const body = new Uint8Array(4);
      view(body).setUint32(0, frame.bytes);
      return framed(KIND.credit, body);
    }
    case "end":
      return framed(KIND.end, new Uint8Array());
    default:
      return unreachable(frame);
  }
}

function decodeCoverFrame(bytes: Uint8Array): CoverFrame {
  const body = bytes.subarray(1);
  switch (bytes[0]) {
    case KIND.begin:
      return { kind: "begin", begin: parseBegin(body) };
    case KIND.session:
      if (body.length === 0) throw bad("a session frame of 0 bytes");
      return { kind: "session", frame: body };
    case KIND.credit:
      if (body.length !== 4) throw bad(`credit of ${body.length} bytes`);
      return { kind: "credit", bytes: view(body).getUint32(0) };
    case KIND.end:
      if (body.length !== 0) throw bad("an end with a body");
      return { kind: "end" };
    default:
      throw bad("a frame of unknown kind");
  }
}

/** Its form only: what is in a package or an invocation is for the box to check, as everybody's. */
function parseBegin(body: Uint8Array): Begin {
  let value: unknown;
  try {
    value = JSON.parse(fromUtf8(body));
  } catch (cause) {
    throw new ProtocolError("bad-request", "Cannot cover: found a beginning that is not JSON", { cause });
  }
  const [token, start] = [get(value, "token"), get(value, "start")];
  const [pack, invocation] = [get(start, "package"), get(start, "invocation")];
  const [args, call] = [get(invocation, "args"), get(invocation, "call")];
  if (token !== undefined && typeof token !== "string") throw bad("a token that is no text");
  if ((token === undefined) === (pack === undefined)) throw bad("not one of token and package");
  const isPackage = typeof get(pack, "source") === "string" && typeof get(pack, "manifest") === "object";
  if (pack !== undefined && !isPackage) throw bad("a package without manifest and source");
  if (!Array.isArray(args) && typeof call !== "string") throw bad("an invocation without args or call");
  return value as Begin;
}

function get(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
}

function framed(kind: number, body: Uint8Array): Uint8Array {
  const head = new Uint8Array(5);
  view(head).setUint32(0, 1 + body.length);
  head[4] = kind;
  return concat([head, body]);
}

function bad(found: string): ProtocolError {
  return new ProtocolError("bad-request", `Cannot cover: found ${found}`);
}
