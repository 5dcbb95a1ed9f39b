// One open link to a relay: many circuits' cells in, many out. Does no I/O: a transport carries the bytes.
// Boundary: the relay, whose identity is proved, and which may send anything all the same.
// Spec: tor-spec 3, 5.1.1 (circuit ids), 7.2 (link padding), padding-spec 2.2.

import { concat } from "../../base/bytes.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import { random } from "../crypto/primitives.ts";
import { CIRCUITS_PER_LINK_MAX, LINK_OUTPUT_BYTES_MAX } from "../limits.ts";
import { CELL, CELL_BYTES, type Cell, fixedCell } from "./cell.ts";
import type { RelayIdentity } from "./certs-cell.ts";
import type { LinkOpened } from "./handshake.ts";

/** What carries a link's bytes. It calls `receive`, `drained` and `fail` of the link. */
export interface LinkTransport {
  /** Takes the bytes over. False when its buffer is full enough; it calls `drained` later. */
  write(bytes: Uint8Array): boolean;
  /** Idempotent. */
  close(): void;
}

/** Who takes the cells of one circuit. */
export interface CellSink {
  handleCell(cell: Cell): void;
  /** The link ended, for this reason. Called once. */
  handleLinkClosed(reason: BentoError): void;
  /** The link takes data again. */
  handleWritable(): void;
}

/** A circuit's place on a link. */
export interface CircuitSlot {
  readonly id: number;
  /** Queues whole cells, which go out with others of the same turn. After the link ended, does nothing. */
  send(cells: Uint8Array): void;
  /** Whether data should be sent now; `handleWritable` follows a false. */
  readonly isWritable: boolean;
  /** The id may be used again. Idempotent. */
  release(): void;
}

/** TLS records hold 16 KiB: one record a write. */
const BATCH_BYTES = 31 * CELL_BYTES;
/** padding-spec 2.2: PADDING_NEGOTIATE version 0, command STOP, no times. */
const PADDING_STOP = Uint8Array.of(0, 1, 0, 0, 0, 0);

export class Link implements Disposable {
  readonly peer: RelayIdentity;
  readonly version: number;
  readonly #transport: LinkTransport;
  readonly #parser: LinkOpened["parser"];
  readonly #sinks = new Map<number, CellSink>();
  #output: Uint8Array[] = [];
  #outputBytes = 0;
  #isFlushDue = false;
  /** Bytes given to the transport since it said that it is full. */
  #blockedBytes = 0;
  #isBlocked = false;
  #ended: BentoError | undefined;
  readonly #closed = Promise.withResolvers<BentoError>();

  /** @param opened what `LinkHandshake` ended with; cells that came along with it are handled by `receive`. */
  constructor(opened: LinkOpened, transport: LinkTransport) {
    this.peer = opened.peer;
    this.version = opened.version;
    this.#parser = opened.parser;
    this.#transport = transport;
    // We send no padding, so that the relay's would hide nothing (padding-spec 2.2).
    if (opened.version >= 5) this.#send(fixedCell(0, CELL.paddingNegotiate, PADDING_STOP));
  }

  /** Resolves with the reason when the link has ended. Never rejects. */
  get closed(): Promise<BentoError> {
    return this.#closed.promise;
  }

  get isOpen(): boolean {
    return this.#ended === undefined;
  }

  get circuitCount(): number {
    return this.#sinks.size;
  }

  /** A fresh circuit id. Throws BentoError `onion-link-closed` or `onion-link-full`. */
  attach(sink: CellSink): CircuitSlot {
    if (this.#ended) throw this.#ended;
    if (this.#sinks.size >= CIRCUITS_PER_LINK_MAX)
      throw new BentoError(
        "onion-link-full",
        `Cannot create circuit: the link has ${String(this.#sinks.size)}, at most ${String(CIRCUITS_PER_LINK_MAX)}`,
      );
    const id = this.#freeId();
    this.#sinks.set(id, sink);
    const isWritable = () => !this.#isBlocked && this.#ended === undefined;
    return {
      id,
      send: (cells) => {
        this.#send(cells);
      },
      get isWritable() {
        return isWritable();
      },
      release: () => {
        if (this.#sinks.get(id) === sink) this.#sinks.delete(id);
      },
    };
  }

  /** Bytes of the peer, cut anywhere. A peer that breaks the rules ends the link. */
  receive(chunk: Uint8Array): void {
    if (this.#ended) return;
    this.#parser.push(chunk);
    try {
      for (let cell = this.#parser.next(); cell; cell = this.#parser.next()) {
        this.#dispatch(cell);
        if (!this.isOpen) return;
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.fail(error);
    }
  }

  /** The transport takes more. */
  drained(): void {
    if (!this.#isBlocked) return;
    this.#isBlocked = false;
    this.#blockedBytes = 0;
    // The one served first this time is served last the next.
    const [first] = this.#sinks;
    if (first) {
      this.#sinks.delete(first[0]);
      this.#sinks.set(...first);
    }
    for (const sink of this.#sinks.values()) {
      if (this.#isBlocked) return;
      sink.handleWritable();
    }
  }

  /** Ends the link and every circuit on it. First reason wins. */
  fail(reason: BentoError): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#output = [];
    this.#transport.close();
    const sinks = [...this.#sinks.values()];
    this.#sinks.clear();
    for (const sink of sinks) sink.handleLinkClosed(reason);
    this.#closed.resolve(reason);
  }

  /** Sends what is queued and closes. */
  [Symbol.dispose](): void {
    this.#flush();
    this.fail(new BentoError("onion-link-closed", "Link closed: by us"));
  }

  #dispatch(cell: Cell): void {
    switch (cell.command) {
      case CELL.relay:
      case CELL.relayEarly:
      case CELL.destroy:
      case CELL.created2:
      case CELL.createdFast:
        // Unknown ids are of circuits that we destroyed a moment ago.
        this.#sinks.get(cell.circuitId)?.handleCell(cell);
        return;
      default:
        // Padding, repeated VERSIONS, requests to a relay that we are not, and commands that we do not know:
        // "an OR must drop the cell" (tor-spec 3).
        return;
    }
  }

  /** tor-spec 5.1.1: whoever opened the connection takes ids with the highest bit set, and 0 is none. */
  #freeId(): number {
    for (;;) {
      const id = (new DataView(Uint8Array.from(random(4)).buffer).getUint32(0) | 0x8000_0000) >>> 0;
      if (!this.#sinks.has(id)) return id;
    }
  }

  #send(cells: Uint8Array): void {
    if (this.#ended) return;
    this.#output.push(cells);
    this.#outputBytes += cells.length;
    if (this.#outputBytes >= BATCH_BYTES) {
      this.#flush();
    } else if (!this.#isFlushDue) {
      // Cells of one turn leave in one write: a BEGIN and its first DATA in two writes met Nagle's algorithm and
      // delayed acknowledgements on the way, 40 ms each time.
      this.#isFlushDue = true;
      queueMicrotask(() => {
        this.#isFlushDue = false;
        this.#flush();
      });
    }
  }

  #flush(): void {
    if (this.#ended || this.#outputBytes === 0) return;
    const [only] = this.#output;
    const bytes = this.#output.length === 1 && only ? only : concat(this.#output);
    this.#output = [];
    this.#outputBytes = 0;
    if (this.#isBlocked) {
      this.#blockedBytes += bytes.length;
      if (this.#blockedBytes > LINK_OUTPUT_BYTES_MAX) {
        this.fail(new BentoError("onion-link-stuck", "Link closed: the relay stopped reading"));
        return;
      }
    }
    if (!this.#transport.write(bytes)) this.#isBlocked = true;
  }
}
