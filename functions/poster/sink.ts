// Where the cells go when no sink is named: an onion service of this function's own, which sends as many back at the same
// rate. Whoever else finds it is a stranger: streams beyond those of the lanes are dropped.

import type { TorIncoming, TorOnion, TorOnions } from "bento/function";
import { cellsOf, PosterLimits, type PosterRequest } from "../../src/wire/poster.ts";
import { within } from "../within.ts";
import { countBytes, sendCells } from "./cells.ts";

/** Any: nobody else is told. */
export const SINK_PORT = 80;
/** How long the last cells may be under way: milliseconds. */
const LAST_MS = 15_000;

export class Sink implements AsyncDisposable {
  readonly #onion: TorOnion;
  readonly #request: PosterRequest;
  readonly #signal: AbortSignal;
  readonly #running = new Set<Promise<void>>();
  #streams = 0;
  cellsSent = 0;
  bytesReceived = 0;

  private constructor(onion: TorOnion, request: PosterRequest, signal: AbortSignal) {
    this.#onion = onion;
    this.#request = request;
    this.#signal = signal;
    void this.#accept();
  }

  /** Resolves when clients can find it. */
  static async open(onions: TorOnions, request: PosterRequest, signal: AbortSignal): Promise<Sink> {
    const onion = await onions.open({ ports: [SINK_PORT] });
    await onion.published();
    return new Sink(onion, request, signal);
  }

  get address(): string {
    return this.#onion.address;
  }

  /** Resolves when all streams have ended, or the last cells were waited for long enough. */
  async settled(): Promise<void> {
    await within(LAST_MS, Promise.all(this.#running), () => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#onion.close();
  }

  async #accept(): Promise<void> {
    try {
      for await (const incoming of this.#onion) {
        const isOurs = this.#streams < this.#request.circuits * PosterLimits.failuresMax;
        if (!isOurs) {
          await incoming.close();
          continue;
        }
        this.#streams++;
        const answering = this.#answer(incoming);
        this.#running.add(answering);
        void answering.finally(() => this.#running.delete(answering));
      }
    } catch {
      // Tor ended: the lanes say so.
    }
  }

  async #answer(incoming: TorIncoming): Promise<void> {
    const count = cellsOf(this.#request);
    let received = 0;
    const whole = Promise.withResolvers<void>();
    const reading = countBytes(
      incoming,
      (bytes) => {
        received += bytes;
        this.bytesReceived += bytes;
        if (received >= count * this.#request.cellBytes) whole.resolve();
      },
      // To the end: that is how it is known that the lane has closed.
      () => false,
    );
    reading.catch(() => undefined);
    const stop = new AbortController();
    const sending = sendCells(incoming, this.#request, {
      count,
      signal: AbortSignal.any([this.#signal, stop.signal]),
      onSent: () => {
        this.cellsSent++;
      },
    });
    sending.catch(() => undefined);
    try {
      // A lane closes its stream when it has what was sent: an end that came too early ends this side, too.
      await Promise.race([whole.promise, reading]);
      if (received < count * this.#request.cellBytes) return;
      await sending;
      // Closing drops what is under way here: this end has everything, and what it sent goes before the end.
      await incoming.writable.close();
      await within(LAST_MS, reading, () => undefined);
    } catch {
      // A broken stream is the lane's to tell.
    } finally {
      stop.abort();
      await incoming.close().catch(() => undefined);
    }
  }
}
