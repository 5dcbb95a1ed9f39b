// One circuit after another with one stream, for as long as the cover lasts: a broken one is replaced, a few times.

import type { Tor, TorCircuit, TorConnection } from "bento/function";
import { cellIntervalMs } from "../../src/wire/pace.ts";
import { pacingClock } from "../../src/wire/pacing-clock.ts";
import { cellsOf, type PosterAnswer, PosterLimits, type PosterRequest } from "../../src/wire/poster.ts";
import { within } from "../within.ts";
import { countBytes, sendCells } from "./cells.ts";
import { SINK_PORT } from "./sink.ts";

/** After the last cell, what comes back is waited for until nothing came for so long: milliseconds. */
const QUIET_MS = 5_000;
const PAUSE_MS = 1_000;
/** What asking again does not change. */
const FINAL: ReadonlySet<string> = new Set([
  "tor-limit",
  "tor-refused",
  "tor-exit-refused",
  "tor-bad-address",
]);

/** An onion service of this function's own, or an address behind an exit. */
export type Target =
  | { readonly onion: string }
  | { readonly sink: { readonly host: string; readonly port: number } };

interface LaneOptions {
  readonly lane: number;
  readonly target: Target;
  readonly request: PosterRequest;
  readonly say: (answer: PosterAnswer) => Promise<void>;
  readonly signal: AbortSignal;
}

export class Lane {
  readonly #tor: Tor;
  readonly #options: LaneOptions;
  opened = 0;
  cellsSent = 0;
  bytesReceived = 0;
  failed = 0;

  constructor(tor: Tor, options: LaneOptions) {
    this.#tor = tor;
    this.#options = options;
  }

  /** Resolves when the time is over, or no circuit can be had any more; throws the signal's reason. */
  async run(): Promise<void> {
    const { request, signal, lane, say } = this.#options;
    const untilMs = pacingClock.now() + request.durationMs;
    const intervalMs = cellIntervalMs(request.cellBytes, request.rate);
    while (this.failed < PosterLimits.failuresMax) {
      // What a broken circuit did not carry in its time is not made up for.
      const leftCells = Math.floor((untilMs - pacingClock.now()) / intervalMs);
      const count =
        this.opened === 0 ? cellsOf(request) : Math.min(cellsOf(request) - this.cellsSent, leftCells);
      if (count <= 0) return;
      try {
        await this.#carry(count);
        return;
      } catch (error) {
        signal.throwIfAborted();
        this.failed++;
        const { code: given } = error as { code?: unknown };
        const code = typeof given === "string" ? given.slice(0, 64) : "broken";
        const message = (error instanceof Error ? error.message : String(error)).slice(0, 300);
        await say({ failure: { lane, code, message } });
        if (FINAL.has(code)) return;
        await pacingClock.sleep(PAUSE_MS, signal);
      }
    }
  }

  async #carry(count: number): Promise<void> {
    const { request, signal, lane, say, target } = this.#options;
    await using opened = await this.#open(target);
    const { connection } = opened;
    this.opened++;
    await say({ open: { lane, path: opened.path } });
    let received = 0;
    const reading = countBytes(
      connection,
      (bytes) => {
        received += bytes;
        this.bytesReceived += bytes;
      },
      () => received >= count * request.cellBytes,
    );
    const stop = new AbortController();
    const broke = reading.then(() => {
      // A sink elsewhere may say what it likes; ours ends last.
      if ("onion" in target && received < count * request.cellBytes)
        throw new Error("the stream ended early");
      return new Promise<never>(() => undefined);
    });
    broke.catch(() => undefined);
    const sending = sendCells(connection, request, {
      count,
      signal: AbortSignal.any([signal, stop.signal]),
      onSent: () => {
        this.cellsSent++;
      },
    });
    sending.catch(() => undefined);
    try {
      await Promise.race([sending, broke]);
      // What does not answer is not waited for: a sink elsewhere need not echo.
      for (let before = -1; before < received; ) {
        before = received;
        const ended = reading.then(() => true);
        if (await Promise.race([within(QUIET_MS, ended, () => false), broke])) break;
      }
    } finally {
      stop.abort();
    }
  }

  async #open(target: Target): Promise<Opened> {
    const { circuits, streams } = this.#tor;
    if (!streams) throw new Error("no streams were granted");
    if ("onion" in target) {
      // Tor carries a stream to an onion service on circuits that it builds for it, one's own isolation, one's own circuit.
      const isolation = `lane ${this.#options.lane}, ${this.failed}`;
      const connection = await streams.connect({ host: target.onion, port: SINK_PORT, isolation });
      return new Opened(connection, undefined);
    }
    if (!circuits) throw new Error("no circuits were granted");
    const { host, port } = target.sink;
    const circuit = await circuits.build([null, {}, { exitPort: port }]);
    try {
      return new Opened(await streams.connect({ host, port, circuit }), circuit);
    } catch (error) {
      await circuit.close().catch(() => undefined);
      throw error;
    }
  }
}

class Opened implements AsyncDisposable {
  readonly connection: TorConnection;
  readonly #circuit: TorCircuit | undefined;

  constructor(connection: TorConnection, circuit: TorCircuit | undefined) {
    this.connection = connection;
    this.#circuit = circuit;
  }

  /** null where tor chose it. */
  get path(): readonly (string | null)[] | null {
    return this.#circuit?.path ?? null;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.connection.close().catch(() => undefined);
    await this.#circuit?.close().catch(() => undefined);
  }
}
