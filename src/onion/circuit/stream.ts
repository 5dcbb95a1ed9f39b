// One stream on a circuit: bytes both ways, with back-pressure. The circuit moves its cells; this class keeps its state.
// Boundary: the exit, the directory cache or the onion service's client at the other end, and what it relays.
// Spec: tor-spec 6.2, 6.3, 7.4 (stream windows); proposal 324 4.1 (XON and XOFF instead, under congestion control).

import { orAborted } from "../../base/abort.ts";
import { concat } from "../../base/bytes.ts";
import type { Clock } from "../../base/clock.ts";
import { BentoError, ProtocolError } from "../../base/errors.ts";
import { u8 } from "../fields.ts";
import {
  checkXoff,
  decodeXon,
  END_REASON,
  encodeXoff,
  encodeXon,
  endReasonName,
  RELAY,
  RELAY_DATA_BYTES,
} from "./relay-message.ts";
import { STREAM_INCREMENT, STREAM_WINDOW } from "./windows.ts";

/** Bytes that one `read` returns at most. */
const READ_BYTES = 64 * 1024;
/** Proposal 324: cc_xoff_client, 500 cells. */
const XOFF_BYTES = 500 * RELAY_DATA_BYTES;
/** A rate that the peer advertises lets this much through at once: milliseconds of it. */
const RATE_BURST_MS = 100;

/** What the circuit does for its streams. */
export interface StreamHost {
  readonly clock: Clock;
  /** Sends a message of this stream that is not DATA. */
  control(stream: TorStream, command: number, data: Uint8Array): void;
  /** The stream has something to send, or may send again. */
  pump(stream: TorStream): void;
  /** Received bytes were taken by the reader. */
  consumed(byteCount: number): void;
  /** The stream is over on our side; its id may be used again. */
  release(stream: TorStream): void;
}

interface Write {
  rest: Uint8Array;
  readonly done: PromiseWithResolvers<void>;
}

export class TorStream implements Disposable {
  readonly id: number;
  readonly hop: number;
  readonly #host: StreamHost;
  readonly #usesXon: boolean;
  readonly #connected = Promise.withResolvers<void>();
  #isConnected = false;
  #end: BentoError | "done" | undefined;
  #wasEnded = Promise.withResolvers<void>();

  #chunks: Uint8Array[] = [];
  #buffered = 0;
  /** While somebody waits for something to read. */
  #arrived: PromiseWithResolvers<void> | undefined;
  #receiveRoom = STREAM_WINDOW;
  #consumedCells = 0;
  #hasSentXoff = false;

  #writes: Write[] = [];
  #sendRoom = STREAM_WINDOW;
  #isHeld = false;
  #rate: { readonly bytesPerMs: number; allowance: number; atMs: number } | undefined;
  #stopTimer: (() => void) | undefined;

  /** Made by circuits. `usesXon`: the hop agreed to congestion control, so streams have no windows. */
  constructor(host: StreamHost, options: { id: number; hop: number; usesXon: boolean }) {
    this.#host = host;
    this.id = options.id;
    this.hop = options.hop;
    this.#usesXon = options.usesXon;
    // Whoever does not wait for it learns of a failure from `read` and `write`.
    this.#connected.promise.catch(() => undefined);
  }

  /** Resolves when the other end has connected. Rejects with BentoError `onion-stream-ended` or `onion-circuit-closed`. */
  get connected(): Promise<void> {
    return this.#connected.promise;
  }

  /** Resolves when the stream is over, for whatever reason. Never rejects. */
  get ended(): Promise<void> {
    return this.#wasEnded.promise;
  }

  /** Received and not yet read. */
  get bufferedBytes(): number {
    return this.#buffered;
  }

  /**
   * What has arrived, up to 64 KiB; waits for the first byte. undefined: the other end is done.
   * Throws BentoError `onion-stream-ended` or `onion-circuit-closed` once everything was read. The caller owns the bytes.
   */
  async read(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Uint8Array | undefined> {
    while (this.#chunks.length === 0) {
      if (this.#end === "done") return undefined;
      if (this.#end) throw this.#end;
      this.#arrived ??= Promise.withResolvers();
      const arrived = this.#arrived.promise;
      await (options.signal ? orAborted(arrived, options.signal) : arrived);
    }
    return this.#takeReceived();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (let bytes = await this.read(); bytes; bytes = await this.read()) yield bytes;
  }

  /**
   * Resolves when all bytes have been packaged into cells, which waits for windows and for the link. Bytes sent before the
   * stream is connected are carried along (tor-spec 6.2, optimistic data). Must not be changed meanwhile.
   * When aborted, part of the bytes may have gone: close the stream.
   */
  async write(bytes: Uint8Array, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<void> {
    if (this.#end) throw this.#endError();
    if (bytes.length === 0) return;
    const write: Write = { rest: bytes, done: Promise.withResolvers() };
    this.#writes.push(write);
    this.#host.pump(this);
    try {
      await (options.signal ? orAborted(write.done.promise, options.signal) : write.done.promise);
    } catch (error) {
      // Ours was aborted, or all were: either way this one must not go on.
      this.#writes = this.#writes.filter((other) => other !== write);
      write.done.promise.catch(() => undefined);
      throw error;
    }
  }

  /**
   * Ends the stream with this reason (tor-spec 6.3). Writes that wait are rejected, what was not read is dropped.
   * A stream must be read to its end or closed: unread bytes count against the circuit. Idempotent.
   */
  close(reason: number = END_REASON.done): void {
    if (!this.#end) {
      this.#host.control(this, RELAY.end, u8(reason));
      this.fail(new BentoError("onion-stream-ended", "Stream closed: by us"));
    }
    this.#chunks = [];
    this.#host.consumed(this.#buffered);
    this.#buffered = 0;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  // What follows is for the circuit.

  /** Whether a write waits and nothing but the circuit's window or the link may keep it. */
  get isReady(): boolean {
    return (
      this.#writes.length > 0 && !this.#isHeld && (this.#usesXon || this.#sendRoom > 0) && this.#hasRate()
    );
  }

  /** Data for one cell; call only when `isReady`. */
  takeForCell(): Uint8Array {
    let data = this.#takeWritten(RELAY_DATA_BYTES);
    while (data.length < RELAY_DATA_BYTES && this.#writes.length > 0)
      data = concat([data, this.#takeWritten(RELAY_DATA_BYTES - data.length)]);
    this.#sendRoom--;
    if (this.#rate) this.#rate.allowance -= data.length;
    return data;
  }

  /** A message of this stream from the other end. Throws ProtocolError: the circuit must be closed. */
  handle(command: number, data: Uint8Array): void {
    switch (command) {
      case RELAY.data:
        this.#handleData(data);
        return;
      case RELAY.connected:
        if (this.#isConnected) throw violation("CONNECTED twice");
        this.markConnected();
        return;
      case RELAY.end:
        this.#handleEnd(data);
        return;
      case RELAY.sendme:
        this.#handleSendme();
        return;
      case RELAY.xon:
        this.#handleXon(decodeXon(data));
        return;
      case RELAY.xoff:
        checkXoff(data);
        if (!this.#usesXon) throw violation("XOFF without congestion control");
        this.#isHeld = true;
        return;
      default:
        // tor-spec 6.1: what is not understood is dropped.
        return;
    }
  }

  /** We answered CONNECTED ourselves. */
  markConnected(): void {
    this.#isConnected = true;
    this.#connected.resolve();
  }

  /** Ends it from our side or the circuit's, without telling the other end. */
  fail(error: BentoError): void {
    this.#finish(error);
  }

  #handleData(data: Uint8Array): void {
    if (!this.#usesXon && --this.#receiveRoom < 0) throw violation("more DATA than the window allows");
    if (this.#end || data.length === 0) return;
    this.#chunks.push(data);
    this.#buffered += data.length;
    // Proposal 324 4.1.1: the other end is told to stop when nobody reads.
    if (this.#usesXon && !this.#hasSentXoff && this.#buffered > XOFF_BYTES) {
      this.#hasSentXoff = true;
      this.#host.control(this, RELAY.xoff, encodeXoff());
    }
    this.#notify();
  }

  #handleEnd(data: Uint8Array): void {
    const reason = data[0] ?? END_REASON.misc;
    // tor-spec 6.3: DONE is how an anonymised connection closes normally.
    this.#finish(
      reason === END_REASON.done && this.#isConnected
        ? "done"
        : new BentoError("onion-stream-ended", `Stream ended: ${endReasonName(reason)}`),
    );
  }

  #handleSendme(): void {
    if (this.#usesXon) throw violation("a stream SENDME under congestion control");
    if (this.#sendRoom + STREAM_INCREMENT > STREAM_WINDOW)
      throw violation("a stream SENDME that was not due");
    this.#sendRoom += STREAM_INCREMENT;
    this.#host.pump(this);
  }

  /** @param kilobytesPerS 0: no limit. */
  #handleXon(kilobytesPerS: number): void {
    if (!this.#usesXon) throw violation("XON without congestion control");
    this.#isHeld = false;
    this.#rate =
      kilobytesPerS === 0
        ? undefined
        : {
            bytesPerMs: kilobytesPerS,
            allowance: kilobytesPerS * RATE_BURST_MS,
            atMs: this.#host.clock.now(),
          };
    this.#host.pump(this);
  }

  #finish(end: BentoError | "done"): void {
    if (this.#end) return;
    this.#end = end;
    this.#stopTimer?.();
    const error = this.#endError();
    this.#connected.reject(error);
    for (const { done } of this.#writes.splice(0)) done.reject(error);
    this.#wasEnded.resolve();
    this.#host.release(this);
    this.#notify();
  }

  #endError(): BentoError {
    return this.#end instanceof BentoError
      ? this.#end
      : new BentoError("onion-stream-ended", "Cannot write: the other end closed the stream");
  }

  #takeReceived(): Uint8Array {
    let count = 0;
    let byteCount = 0;
    for (const chunk of this.#chunks) {
      if (count > 0 && byteCount + chunk.length > READ_BYTES) break;
      byteCount += chunk.length;
      count++;
    }
    const bytes = concat(this.#chunks.splice(0, count));
    this.#buffered -= byteCount;
    this.#host.consumed(byteCount);
    if (this.#end) return bytes;
    if (this.#usesXon) {
      if (this.#hasSentXoff && this.#buffered < XOFF_BYTES / 2) {
        this.#hasSentXoff = false;
        this.#host.control(this, RELAY.xon, encodeXon(0));
      }
      return bytes;
    }
    // tor-spec 7.4: a SENDME for each 50 cells, once they have been delivered.
    this.#consumedCells += count;
    for (; this.#consumedCells >= STREAM_INCREMENT; this.#consumedCells -= STREAM_INCREMENT) {
      this.#receiveRoom += STREAM_INCREMENT;
      this.#host.control(this, RELAY.sendme, new Uint8Array(0));
    }
    return bytes;
  }

  #takeWritten(byteCountMax: number): Uint8Array {
    const first = this.#writes[0];
    if (!first) return new Uint8Array(0);
    const data = first.rest.subarray(0, byteCountMax);
    first.rest = first.rest.subarray(data.length);
    if (first.rest.length === 0) {
      this.#writes.shift();
      first.done.resolve();
    }
    return data;
  }

  /** Proposal 324 4.1.2: a token bucket at the advertised rate. */
  #hasRate(): boolean {
    const rate = this.#rate;
    if (!rate) return true;
    const nowMs = this.#host.clock.now();
    const burst = rate.bytesPerMs * RATE_BURST_MS;
    rate.allowance = Math.min(burst, rate.allowance + Math.max(0, nowMs - rate.atMs) * rate.bytesPerMs);
    rate.atMs = nowMs;
    if (rate.allowance > 0) return true;
    const waitMs = Math.max(1, Math.ceil((RELAY_DATA_BYTES - rate.allowance) / rate.bytesPerMs));
    this.#stopTimer?.();
    this.#stopTimer = this.#host.clock.after(waitMs, () => {
      this.#host.pump(this);
    });
    return false;
  }

  #notify(): void {
    const waiting = this.#arrived;
    this.#arrived = undefined;
    waiting?.resolve();
  }
}

function violation(found: string): ProtocolError {
  return new ProtocolError("onion-stream", `Cannot go on with circuit: ${found}`);
}
