// One circuit as its builder sees it: hops that are added one by one, messages to and from each, streams on top.
// Does no I/O: cells go to a slot on a link, and come from there.
// Boundary: every hop, each of which may be hostile. What breaks the protocol destroys the circuit.
// Spec: tor-spec 5 (circuits), 5.5 (relay cells), 5.6 (RELAY_EARLY), 6 (streams), 7 (flow control).

import { concat } from "../../base/bytes.ts";
import { type Clock, systemClock } from "../../base/clock.ts";
import { assert, BentoError, ProtocolError } from "../../base/errors.ts";
import { FieldReader, u8, u16 } from "../fields.ts";
import { CIRCUIT_INPUT_BYTES_MAX, HOPS_MAX, STREAMS_PER_CIRCUIT_MAX } from "../limits.ts";
import { CELL, type Cell, fixedCell, fixedCells } from "../link/cell.ts";
import type { CellSink, CircuitSlot, Link } from "../link/link.ts";
import { createFast } from "./create-fast.ts";
import type { ClientHandshake, HandshakeResult, HopKeys } from "./hop-keys.ts";
import { type Hop, HopStack, type OpenedCell } from "./hop-stack.ts";
import { encodeLinkSpecifiers, type RelayAddress } from "./link-specifier.ts";
import { ntorHandshake } from "./ntor.ts";
import { ntorV3Handshake } from "./ntor-v3.ts";
import {
  DESTROY_REASON,
  decodeBegin,
  decodeSendme,
  destroyReasonName,
  END_REASON,
  encodeBegin,
  encodeSendme,
  RELAY,
  type RelayMessage,
} from "./relay-message.ts";
import { type StreamHost, TorStream } from "./stream.ts";
import type { VegasParameters } from "./vegas.ts";
import type { MicrosecondClock } from "./windows.ts";

/** A relay that circuits can go through. */
export interface CircuitRelay extends RelayAddress {
  /** KP_ntor, 32 bytes. */
  readonly ntorKey: Uint8Array;
}

export interface CircuitOptions {
  readonly clock?: Clock;
  /** Monotonic microseconds. */
  readonly nowUs?: MicrosecondClock;
}

interface Signal {
  readonly signal?: AbortSignal | undefined;
}

/** A stream that the other end of an onion-service hop asks for. Call exactly one of `accept` and `refuse`. */
export interface IncomingStream {
  /** "" in what C tor clients send. */
  readonly host: string;
  readonly port: number;
  accept(): TorStream;
  /** @param reason END reason (tor-spec 6.3). */
  refuse(reason: number): void;
}

/** How long a hop may take to answer; C tor's own limit for building a circuit is 60 s. */
export const REPLY_MS = 60_000;
/** A circuit that answers within this time is short enough for `#nudge` to help. */
const NUDGE_ROUND_TRIP_US = 20_000;
/** Cells of one stream before the next one's turn: what one TLS record holds. */
const CELLS_PER_TURN = 31;
/** Answers and announcements that only come when asked for. */
const NEVER_UNASKED: ReadonlySet<number> = new Set([
  RELAY.extended2,
  RELAY.introduce2,
  RELAY.rendezvous2,
  RELAY.introEstablished,
  RELAY.rendezvousEstablished,
  RELAY.introduceAck,
]);

export class Circuit implements CellSink, StreamHost, Disposable {
  readonly clock: Clock;
  readonly #nowUs: MicrosecondClock;
  readonly #slot: CircuitSlot;
  readonly #hops: HopStack;
  readonly #closed = Promise.withResolvers<BentoError>();
  #ended: BentoError | undefined;
  #destroyReason: number | undefined;
  #created: PromiseWithResolvers<Cell> | undefined;
  /** By relay command: who waits for one, and from which hop. */
  readonly #awaited = new Map<number, { hop: number; reply: PromiseWithResolvers<Uint8Array> }>();
  readonly #handlers = new Map<number, { hop: number; handle: (data: Uint8Array) => void }>();
  #incoming: { hop: number; handle: (stream: IncomingStream) => void } | undefined;
  readonly #streams = new Map<number, TorStream>();
  /** In the order of their turns. */
  readonly #sending = new Set<TorStream>();
  #lastStreamId = Math.floor(Math.random() * 0xffff);
  #inputBytes = 0;
  #fastestReplyUs = Number.POSITIVE_INFINITY;

  private constructor(link: Link, { clock = systemClock, nowUs = systemUs }: CircuitOptions) {
    this.clock = clock;
    this.#nowUs = nowUs;
    this.#hops = new HopStack(nowUs);
    this.#slot = link.attach(this);
  }

  /** A circuit of one hop, authenticated by the link alone: for directories, before their keys are known. */
  static async createFast(link: Link, options: CircuitOptions & Signal = {}): Promise<Circuit> {
    const handshake = createFast();
    return Circuit.#create(link, options, CELL.createFast, handshake.body, (cell) => {
      if (cell.command !== CELL.createdFast) throw unexpected(`cell ${String(cell.command)}`);
      return handshake.finish(cell.body);
    });
  }

  /** A circuit of one hop, by ntor. `relay` is the one that the link goes to. */
  static async create(
    link: Link,
    relay: CircuitRelay,
    options: CircuitOptions & Signal = {},
  ): Promise<Circuit> {
    const handshake = ntorHandshake({ rsa: relay.identity.rsa, ntorKey: relay.ntorKey });
    return Circuit.#create(link, options, CELL.create2, create2Body(handshake), (cell) => {
      if (cell.command !== CELL.created2) throw unexpected(`cell ${String(cell.command)}`);
      const reader = new FieldReader(cell.body, "CREATED2");
      return handshake.finish(reader.bytes(reader.u16()));
    });
  }

  static async #create(
    link: Link,
    options: CircuitOptions & Signal,
    command: number,
    body: Uint8Array,
    finish: (cell: Cell) => HandshakeResult,
  ): Promise<Circuit> {
    options.signal?.throwIfAborted();
    const circuit = new Circuit(link, options);
    try {
      circuit.#created = Promise.withResolvers();
      circuit.#slot.send(fixedCell(circuit.#slot.id, command, body));
      const reply = await circuit.#inTime(circuit.#created, options.signal);
      const { keys } = circuit.#orDestroy(() => finish(reply));
      circuit.#hops.add(keys, "builder", undefined);
      return circuit;
    } catch (error) {
      circuit.destroy();
      throw error;
    }
  }

  get hopCount(): number {
    return this.#hops.length;
  }

  /** KH of the last relay: what ESTABLISH_INTRO is tied to (rend-spec-v3 3.1.1). */
  get lastNonce(): Uint8Array {
    const nonce = this.#hops.at(this.#hops.length - 1)?.nonce;
    assert(nonce, "the last hop is a relay");
    return nonce;
  }

  get isOpen(): boolean {
    return this.#ended === undefined;
  }

  /** Resolves with the reason when the circuit is gone. Never rejects. */
  get closed(): Promise<BentoError> {
    return this.#closed.promise;
  }

  /** Why a relay ended the circuit (tor-spec 5.4); undefined while it is open, or when we or the link did. A relay's word. */
  get destroyReason(): number | undefined {
    return this.#destroyReason;
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  /**
   * Adds a relay at the end. With `congestion`, asks by ntor-v3 for congestion control; give it only for relays that
   * list FlowCtrl=2 and Relay=4. Throws BentoError and destroys the circuit when that fails.
   */
  async extend(
    relay: CircuitRelay,
    options: Signal & { readonly congestion?: VegasParameters | undefined } = {},
  ): Promise<void> {
    // tor-spec 5.6: relays take eight RELAY_EARLY cells, and refuse an EXTEND2 in any other cell.
    if (this.#hops.length >= HOPS_MAX)
      throw new BentoError("onion-path", `Cannot extend: ${String(HOPS_MAX)} hops are the most`);
    const { congestion, signal } = options;
    const handshake = congestion
      ? ntorV3Handshake(
          { ed25519: relay.identity.ed25519, ntorKey: relay.ntorKey },
          congestion.sendmeIncrement,
        )
      : ntorHandshake({ rsa: relay.identity.rsa, ntorKey: relay.ntorKey });
    const data = concat([encodeLinkSpecifiers(relay), create2Body(handshake)]);
    try {
      const reply = await this.request(
        { hop: this.#hops.length - 1, command: RELAY.extend2, data, reply: RELAY.extended2 },
        { signal },
      );
      const { keys, sendmeIncrement } = this.#orDestroy(() => {
        const reader = new FieldReader(reply, "EXTENDED2");
        return handshake.finish(reader.bytes(reader.u16()));
      });
      const agreed =
        congestion && sendmeIncrement !== undefined ? { ...congestion, sendmeIncrement } : undefined;
      this.#hops.add(keys, "builder", agreed);
    } catch (error) {
      this.destroy();
      throw error;
    }
  }

  /**
   * Adds the other end of a rendezvous as a hop (rend-spec-v3 4.2.1). The service uses the client's keys the other way
   * round. `congestion` when both sides agreed to it (proposal 324 9).
   */
  addOnionHop(keys: HopKeys, role: "client" | "service", congestion: VegasParameters | undefined): void {
    this.#hops.add(keys, role === "client" ? "builder" : "service", congestion);
  }

  /** Sends a message to `hop` and resolves with the body of its answer. One at a time for each kind of answer. */
  async request(
    request: {
      readonly hop: number;
      readonly command: number;
      readonly data: Uint8Array;
      readonly reply: number;
    },
    options: Signal = {},
  ): Promise<Uint8Array> {
    if (this.#ended) throw this.#ended;
    const sentUs = this.#nowUs();
    const waiting = this.expect(request.hop, request.reply, options);
    this.sendTo(request.hop, request.command, request.data);
    const reply = await waiting;
    this.#fastestReplyUs = Math.min(this.#fastestReplyUs, this.#nowUs() - sentUs);
    return reply;
  }

  /** Resolves with the body of the next `command` from `hop`. Anything of that kind from another hop ends the circuit. */
  async expect(
    hop: number,
    command: number,
    options: Signal & { readonly timeoutMs?: number } = {},
  ): Promise<Uint8Array> {
    options.signal?.throwIfAborted();
    if (this.#ended) throw this.#ended;
    assert(!this.#awaited.has(command), "one wait at a time for each kind of message");
    const reply = Promise.withResolvers<Uint8Array>();
    this.#awaited.set(command, { hop, reply });
    try {
      return await this.#inTime(reply, options.signal, options.timeoutMs);
    } finally {
      if (this.#awaited.get(command)?.reply === reply) this.#awaited.delete(command);
    }
  }

  /** Calls `handle` with the body of each `command` from `hop`. A ProtocolError that it throws ends the circuit. */
  onMessage(hop: number, command: number, handle: (data: Uint8Array) => void): void {
    this.#handlers.set(command, { hop, handle });
  }

  /** Calls `handle` for each stream that the other end of an onion-service hop begins. */
  onStream(hop: number, handle: (stream: IncomingStream) => void): void {
    this.#incoming = { hop, handle };
  }

  /** Sends one message that belongs to no stream. */
  sendTo(hop: number, command: number, data: Uint8Array): void {
    this.#send(hop, { command, streamId: 0, data });
  }

  /** Cover for one cell: the hop drops it (tor-spec 7.2, RELAY_DROP). Windows do not count it. */
  sendDrop(hop: number): void {
    this.sendTo(hop, RELAY.drop, new Uint8Array(0));
  }

  /**
   * Begins a stream at the last hop and returns at once; what is written goes along with the request.
   * `await stream.connected` to know. Throws BentoError `onion-circuit-closed` or `onion-too-many-streams`.
   */
  openStream(host: string, port: number): TorStream {
    return this.#begin(this.#hops.length - 1, RELAY.begin, encodeBegin(host, port));
  }

  /** tor-spec 6.2.1: a stream to the directory cache that `hop` (the last by default) is. */
  openDirectoryStream(hop: number = this.#hops.length - 1): TorStream {
    return this.#begin(hop, RELAY.beginDir, new Uint8Array(0));
  }

  /** Ends the circuit and all its streams. Idempotent. */
  destroy(): void {
    this.#close(new BentoError("onion-circuit-closed", "Circuit closed: by us"), true);
  }

  [Symbol.dispose](): void {
    this.destroy();
  }

  // CellSink: what the link calls.

  handleCell(cell: Cell): void {
    if (this.#ended) return;
    try {
      this.#takeCell(cell);
    } catch (error) {
      // The circuit is at an end; the link and its other circuits are not.
      if (!(error instanceof ProtocolError)) throw error;
      this.#close(error, true);
    }
  }

  handleLinkClosed(reason: BentoError): void {
    this.#close(
      new BentoError("onion-circuit-closed", `Circuit closed: ${reason.message}`, { cause: reason }),
      false,
    );
  }

  handleWritable(): void {
    this.#pump();
  }

  // StreamHost: what our streams call.

  control(stream: TorStream, command: number, data: Uint8Array): void {
    if (this.#ended) return;
    this.#send(stream.hop, { command, streamId: stream.id, data });
  }

  pump(stream: TorStream): void {
    this.#sending.add(stream);
    this.#pump();
  }

  consumed(byteCount: number): void {
    this.#inputBytes -= byteCount;
  }

  release(stream: TorStream): void {
    this.#sending.delete(stream);
    const key = streamKey(stream.hop, stream.id);
    if (this.#streams.get(key) === stream) this.#streams.delete(key);
  }

  // Everything below is ours alone.

  #begin(hop: number, command: number, data: Uint8Array): TorStream {
    if (this.#ended) throw this.#ended;
    if (this.#streams.size >= STREAMS_PER_CIRCUIT_MAX)
      throw new BentoError(
        "onion-too-many-streams",
        `Cannot open stream: the circuit has ${String(this.#streams.size)}, the most there may be`,
      );
    const stream = this.#addStream(hop, this.#freeStreamId(hop));
    this.control(stream, command, data);
    return stream;
  }

  #addStream(hop: number, id: number): TorStream {
    const stream = new TorStream(this, { id, hop, usesXon: this.#hops.at(hop)?.usesXon ?? false });
    this.#streams.set(streamKey(hop, id), stream);
    return stream;
  }

  /** tor-spec 6.1: any but 0 that no stream of the hop has. Counting up, so that late cells meet no new stream. */
  #freeStreamId(hop: number): number {
    do this.#lastStreamId = (this.#lastStreamId % 0xffff) + 1;
    while (this.#streams.has(streamKey(hop, this.#lastStreamId)));
    return this.#lastStreamId;
  }

  /** Seals and queues. Returns the digest. */
  #send(hop: number, message: RelayMessage): Uint8Array {
    if (this.#ended) throw this.#ended;
    const { body, digest } = this.#hops.seal(hop, message);
    const isExtend = message.command === RELAY.extend2;
    this.#slot.send(fixedCell(this.#slot.id, isExtend ? CELL.relayEarly : CELL.relay, body));
    return digest;
  }

  /** Sends what streams have to send, in turns, until windows or the link are full. */
  #pump(): void {
    if (this.#ended) return;
    for (let progress = true; progress; ) {
      progress = false;
      for (const stream of this.#sending) {
        const hop = this.#hops.at(stream.hop);
        if (!hop || !stream.isReady) {
          this.#sending.delete(stream);
          continue;
        }
        if (!this.#slot.isWritable) return;
        if (hop.sendWindow.room === 0) continue;
        this.#sendData(stream, hop);
        progress = true;
      }
    }
  }

  /** One stream's turn. It has something to send, and the hop's window has room. */
  #sendData(stream: TorStream, hop: Hop): void {
    const messages: RelayMessage[] = [];
    const cellsMax = Math.min(CELLS_PER_TURN, hop.sendWindow.room);
    while (messages.length < cellsMax && stream.isReady)
      messages.push({ command: RELAY.data, streamId: stream.id, data: stream.takeForCell() });
    const { bodies, digests } = this.#hops.sealAll(stream.hop, messages);
    for (const digest of digests) hop.sendWindow.sent(digest);
    this.#slot.send(fixedCells(this.#slot.id, CELL.relay, bodies));
  }

  #takeCell(cell: Cell): void {
    switch (cell.command) {
      case CELL.relay:
        this.#handleMessage(this.#hops.open(cell.body));
        return;
      case CELL.destroy:
        this.#destroyReason = cell.body[0];
        this.#close(closedBy("the first hop", cell.body[0]), false);
        return;
      case CELL.created2:
      case CELL.createdFast: {
        const created = this.#created;
        if (!created) throw unexpected(`cell ${String(cell.command)}`);
        this.#created = undefined;
        created.resolve(cell);
        return;
      }
      default:
        // tor-spec 5.6: RELAY_EARLY goes only away from the client; towards it, it would be a covert signal.
        throw unexpected(`cell ${String(cell.command)}`);
    }
  }

  #handleMessage({ index, hop, message, digest }: OpenedCell): void {
    const { command, streamId, data } = message;
    // tor-spec 6.1: what is not understood is dropped, "its contents still count with respect to [...] windows".
    if (command === RELAY.data && hop.receiveWindow.received())
      this.sendTo(index, RELAY.sendme, encodeSendme(digest));
    if (streamId !== 0) {
      this.#handleStreamMessage(index, message);
      return;
    }
    switch (command) {
      case RELAY.sendme:
        hop.sendWindow.acknowledged(decodeSendme(data), !this.#slot.isWritable);
        this.#wake();
        return;
      case RELAY.truncated:
        // tor-spec 5.4: C tor clients, too, give up the whole circuit.
        this.#destroyReason = data[0];
        this.#close(closedBy(`hop ${String(index + 1)}`, data[0]), true);
        return;
      default:
        this.#deliver(index, command, data);
    }
  }

  #deliver(index: number, command: number, data: Uint8Array): void {
    const awaited = this.#awaited.get(command);
    const handler = this.#handlers.get(command);
    if (awaited?.hop === index) {
      this.#awaited.delete(command);
      awaited.reply.resolve(data);
    } else if (handler?.hop === index) {
      handler.handle(data);
    } else if (NEVER_UNASKED.has(command)) {
      throw unexpected(`message ${String(command)} from hop ${String(index + 1)}`);
    }
    // DROP and whatever we do not know: dropped.
  }

  #handleStreamMessage(index: number, { command, streamId, data }: RelayMessage): void {
    const stream = this.#streams.get(streamKey(index, streamId));
    if (command === RELAY.begin) {
      this.#handleBegin(index, streamId, data);
      return;
    }
    // Cells of a stream that we have just ended.
    if (!stream) return;
    if (command === RELAY.data) {
      this.#inputBytes += data.length;
      if (this.#inputBytes > CIRCUIT_INPUT_BYTES_MAX) throw unexpected("more data than anybody reads");
    }
    stream.handle(command, data);
    if (command === RELAY.connected) this.#nudge(index);
  }

  /**
   * One cell of cover towards `hop`. Relays leave Nagle's algorithm on between each other: the DATA that follows
   * CONNECTED waits at each until CONNECTED is acknowledged, which takes 40 ms unless something goes the other way.
   * Where a whole round trip is shorter than that, we send something.
   */
  #nudge(hop: number): void {
    if (this.#fastestReplyUs < NUDGE_ROUND_TRIP_US && this.#slot.isWritable && this.#ended === undefined)
      this.sendDrop(hop);
  }

  #handleBegin(index: number, streamId: number, data: Uint8Array): void {
    const incoming = this.#incoming;
    if (incoming?.hop !== index) throw unexpected("BEGIN where we serve nothing");
    if (this.#streams.has(streamKey(index, streamId))) throw unexpected("BEGIN for a stream that is open");
    const { host, port } = decodeBegin(data);
    if (this.#streams.size >= STREAMS_PER_CIRCUIT_MAX) {
      this.#send(index, { command: RELAY.end, streamId, data: u8(END_REASON.resourceLimit) });
      return;
    }
    const stream = this.#addStream(index, streamId);
    let isAnswered = false;
    const answer = () => {
      assert(!isAnswered, "an incoming stream is answered once");
      isAnswered = true;
    };
    incoming.handle({
      host,
      port,
      accept: () => {
        answer();
        // rend-spec-v3 4.3: an onion service names no address.
        this.control(stream, RELAY.connected, new Uint8Array(0));
        stream.markConnected();
        return stream;
      },
      refuse: (reason) => {
        answer();
        stream.close(reason);
      },
    });
  }

  /** All streams may send again. */
  #wake(): void {
    for (const stream of this.#streams.values()) if (stream.isReady) this.#sending.add(stream);
    this.#pump();
  }

  #close(reason: BentoError, tellPeer: boolean): void {
    if (this.#ended) return;
    this.#ended = reason;
    // tor-spec 5.4: the builder gives no reason, which could tell it apart.
    if (tellPeer) this.#slot.send(fixedCell(this.#slot.id, CELL.destroy, u8(DESTROY_REASON.none)));
    this.#slot.release();
    this.#created?.reject(reason);
    for (const { reply } of this.#awaited.values()) reply.reject(reason);
    this.#awaited.clear();
    for (const stream of this.#streams.values()) stream.fail(reason);
    this.#closed.resolve(reason);
  }

  /** Runs a step on what a hop sent; when it broke the protocol, the circuit ends and the error goes on to who waits. */
  #orDestroy<T>(step: () => T): T {
    try {
      return step();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#close(error, true);
      throw error;
    }
  }

  async #inTime<T>(
    waiting: PromiseWithResolvers<T>,
    signal: AbortSignal | undefined,
    timeoutMs = REPLY_MS,
  ): Promise<T> {
    const stopTimer = this.clock.after(timeoutMs, () => {
      waiting.reject(new BentoError("onion-timeout", `Circuit: no answer in ${String(timeoutMs / 1000)} s`));
    });
    const onAbort = () => {
      waiting.reject(signal?.reason);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      return await waiting.promise;
    } finally {
      stopTimer();
      signal?.removeEventListener("abort", onAbort);
    }
  }
}

function create2Body(handshake: ClientHandshake): Uint8Array {
  return concat([u16(handshake.type), u16(handshake.body.length), handshake.body]);
}

function streamKey(hop: number, streamId: number): number {
  return hop * 0x1_0000 + streamId;
}

function systemUs(): number {
  return Math.round(performance.now() * 1000);
}

function closedBy(who: string, reason: number | undefined): BentoError {
  return new BentoError(
    "onion-circuit-closed",
    `Circuit closed: by ${who}: ${destroyReasonName(reason ?? DESTROY_REASON.none)}`,
  );
}

function unexpected(found: string): ProtocolError {
  return new ProtocolError("onion-circuit", `Cannot go on with circuit: ${found}`);
}
