// One end of a covered session (spec/cover): paces its own cells, reads those of the other end, and carries session
// frames in both. Used by the Cover function and by its client; clock and send are passed in. What the frames are
// and when they come has no influence on when a cell leaves.

import { Channel } from "../base/channel.ts";
import { ProtocolError } from "../base/errors.ts";
import {
  type Begin,
  CellReader,
  CellWriter,
  CoverCredit,
  type CoverFrame,
  type CoverSettings,
  WINDOW_BYTES,
} from "./cover.ts";
import { CellSchedule, cellIntervalMs, type PaceClock, pace } from "./pace.ts";

/**
 * Cells handed to the connection that it has not taken yet, as time: a machine that is busy for a moment does not move the
 * schedule, a circuit that is too slow does.
 */
const IN_HAND_MS = 500;
/** Taken frames are credited after this much, or when none waits. */
const CREDIT_BYTES = 32 * 1024;

export interface TunnelIo {
  readonly clock: PaceClock;
  /** Resolves when the connection has taken the cell. */
  readonly send: (cell: Uint8Array) => Promise<void>;
  readonly signal?: AbortSignal | undefined;
}

export class CoverTunnel {
  /** What the client asked for. Rejects when the other end broke the rules or is gone before it has. */
  readonly begun: Promise<Begin>;
  readonly #settings: CoverSettings;
  readonly #writer: CellWriter;
  readonly #reader: CellReader;
  readonly #credit = new CoverCredit();
  readonly #incoming = new Channel<Uint8Array>(Number.POSITIVE_INFINITY);
  readonly #begin = Promise.withResolvers<Begin>();
  #creditOpened = Promise.withResolvers<void>();
  #uncredited = 0;
  #owed = 0;
  #isLast = false;
  #failure: Error | undefined;
  #hasSentLast = false;

  constructor(settings: CoverSettings) {
    this.#settings = settings;
    this.#writer = new CellWriter(settings.cellBytes);
    this.#reader = new CellReader(settings.cellBytes);
    this.begun = this.#begin.promise;
    this.begun.catch(() => undefined);
  }

  /** Client: the first frame. */
  begin(begin: Begin): void {
    this.#writer.push({ kind: "begin", begin });
  }

  /** Takes a session frame for the other end once it has room for it. Throws why the tunnel is over. */
  async send(frame: Uint8Array): Promise<void> {
    while (!this.#credit.isOpen && !this.#failure) await this.#creditOpened.promise;
    if (this.#failure) throw this.#failure;
    this.#credit.spend(frame);
    this.#writer.push({ kind: "session", frame });
  }

  /** The next session frame; undefined when no more come. Throws why the tunnel broke. */
  async receive(): Promise<Uint8Array | undefined> {
    const frame = await this.#incoming.receive();
    if (!frame) return undefined;
    this.#owed += Math.max(1, frame.length);
    if (this.#owed >= CREDIT_BYTES || this.#incoming.cost === 0) {
      this.#writer.push({ kind: "credit", bytes: this.#owed });
      this.#uncredited -= this.#owed;
      this.#owed = 0;
    }
    return frame;
  }

  /** Client: the cell that has everything sent before in it is the last, at both ends. */
  end(): void {
    if (this.#isLast) return;
    this.#writer.push({ kind: "end" });
    this.#isLast = true;
  }

  /** Takes a cell of the other end. Throws ProtocolError, and the tunnel is over. */
  take(cell: Uint8Array): void {
    try {
      for (const frame of this.#reader.push(cell)) this.#takeFrame(frame);
    } catch (error) {
      this.fail(error);
      throw error;
    }
  }

  /** The connection is gone: whoever waits learns why. */
  fail(cause: unknown): void {
    if (this.#failure) return;
    const error = cause instanceof Error ? cause : new Error(String(cause));
    this.#failure = error;
    this.#begin.reject(error);
    if (!this.#incoming.isClosed) this.#incoming.fail(error);
    this.#creditOpened.resolve();
  }

  /** Sends cells until the end, or until the tunnel fails. Throws what `send` throws, or the signal's reason. */
  async run({ clock, send, signal }: TunnelIo): Promise<void> {
    const { cellBytes, rate } = this.#settings;
    const inHand = new Set<Promise<void>>();
    const intervalMs = cellIntervalMs(cellBytes, rate);
    const inHandMax = Math.max(1, Math.floor(IN_HAND_MS / intervalMs));
    await pace({
      clock,
      schedule: new CellSchedule(intervalMs, clock.now()),
      next: () => this.#nextCell(),
      send: (cell) => {
        // A promise of its own for each cell: `send` may return the same one twice.
        const taken = (async () => {
          await send(cell);
        })();
        inHand.add(taken);
        taken
          .catch((error: unknown) => this.fail(error))
          .finally(() => {
            inHand.delete(taken);
          });
        return inHand.size > inHandMax ? inHand.values().next().value : undefined;
      },
      signal,
    });
    await Promise.all(inHand);
  }

  #nextCell(): Uint8Array | undefined {
    if (this.#hasSentLast || this.#failure) return undefined;
    const cell = this.#writer.next();
    this.#hasSentLast = this.#isLast && this.#writer.queued === 0;
    return cell;
  }

  #takeFrame(frame: CoverFrame): void {
    switch (frame.kind) {
      case "begin":
        this.#begin.resolve(frame.begin);
        break;
      case "session": {
        this.#uncredited += Math.max(1, frame.frame.length);
        // One frame may overdraw: its sender had credit left when it began.
        if (this.#uncredited - frame.frame.length > WINDOW_BYTES) throw overdrawn();
        this.#incoming.push(frame.frame);
        break;
      }
      case "credit":
        this.#credit.restore(frame.bytes);
        this.#creditOpened.resolve();
        this.#creditOpened = Promise.withResolvers();
        break;
      case "end":
        this.#incoming.close();
        this.#isLast = true;
        break;
    }
  }
}

function overdrawn(): ProtocolError {
  return new ProtocolError("bad-request", "Cannot cover: found more than was credited");
}
