// Circuits built ahead of time, guard and middles each, so that whoever must go somewhere at once adds a single relay,
// as C tor does. Kept at a size, replaced as they are taken, get old or break.
// Does no I/O itself. Spec: path-spec 2.1.1 (circuits built preemptively), rend-spec-v3 4.2 (what services use them for).

import { type Clock, systemClock } from "../base/clock.ts";
import { BentoError, messageOf } from "../base/errors.ts";
import { type Log, silentLog } from "../base/log.ts";
import type { Circuit, CircuitRelay } from "./circuit/circuit.ts";
import type { CircuitBuilder } from "./circuit-builder.ts";
import type { Relay } from "./directory/network.ts";
import type { Paths } from "./paths.ts";

export interface CircuitPoolOptions {
  readonly builder: Pick<CircuitBuilder, "build">;
  readonly paths: Pick<Paths, "start" | "rest" | "to">;
  /** Circuits kept ready. */
  readonly size: number;
  /** Relays between the guard and the end. Default 1. */
  readonly middles?: number;
  readonly clock?: Clock;
  readonly log?: Log;
}

interface Ready {
  readonly circuit: Circuit;
  readonly start: readonly Relay[];
  readonly builtMs: number;
  /** How often it did not suit whoever came. */
  passedOver: number;
}

/** C tor lets go of clean circuits after 30 minutes. */
const AGE_MS_MAX = 20 * 60_000;
const BUILDS_AT_ONCE = 4;
/** Where the same few ends are wanted again and again, those that do not suit them would be all that is left in the end. */
const PASSED_OVER_MAX = 1;
const RETRY_MS = 500;
const RETRY_MS_MAX = 30_000;

export class CircuitPool implements Disposable {
  readonly #options: CircuitPoolOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #ended = new AbortController();
  #ready: Ready[] = [];
  #building = 0;
  #retryMs = RETRY_MS;
  #stopTimer: (() => void) | undefined;

  /** Begins to build at once. */
  constructor(options: CircuitPoolOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#log = options.log ?? silentLog;
    this.#fill();
  }

  /** Circuits that wait to be taken. */
  get ready(): number {
    return this.#ready.length;
  }

  /**
   * An open circuit to `end`, the caller's from then on: one that was ready and suits, or a new one.
   * Throws BentoError; nothing of it is left then.
   */
  async to(end: CircuitRelay, signal?: AbortSignal): Promise<Circuit> {
    const taken = this.#take(end);
    this.#fill();
    const { builder, paths, middles } = this.#options;
    if (!taken) return builder.build(paths.to(end, middles), { signal });
    try {
      for (const relay of taken.rest) await taken.circuit.extend(relay, { signal });
      return taken.circuit;
    } catch (error) {
      taken.circuit.destroy();
      throw error;
    }
  }

  /** Destroys those that are ready. Idempotent. */
  [Symbol.dispose](): void {
    this.#ended.abort(new BentoError("onion-circuit-closed", "Circuit pool: it was closed"));
    this.#stopTimer?.();
    for (const { circuit } of this.#ready.splice(0)) circuit.destroy();
  }

  #take(end: CircuitRelay): { readonly circuit: Circuit; readonly rest: CircuitRelay[] } | undefined {
    const oldestMs = this.#clock.now() - AGE_MS_MAX;
    for (const one of this.#ready.filter(({ builtMs }) => builtMs < oldestMs)) one.circuit.destroy();
    this.#ready = this.#ready.filter(({ circuit }) => circuit.isOpen);
    let best: { readonly one: Ready; readonly rest: CircuitRelay[] } | undefined;
    for (const one of this.#ready) {
      const rest = this.#options.paths.rest(one.start, end);
      if (rest && rest.length < (best?.rest.length ?? Infinity)) best = { one, rest };
      if (rest?.length === 1) break;
      one.passedOver++;
    }
    if (best) this.#ready.splice(this.#ready.indexOf(best.one), 1);
    for (const { circuit } of this.#ready.filter(({ passedOver }) => passedOver > PASSED_OVER_MAX))
      circuit.destroy();
    this.#ready = this.#ready.filter(({ circuit }) => circuit.isOpen);
    return best && { circuit: best.one.circuit, rest: best.rest };
  }

  #fill(): void {
    if (this.#ended.signal.aborted || this.#stopTimer) return;
    while (this.#building < BUILDS_AT_ONCE && this.#ready.length + this.#building < this.#options.size) {
      this.#building++;
      void this.#build();
    }
  }

  async #build(): Promise<void> {
    const { builder, paths, middles } = this.#options;
    try {
      const start = paths.start(middles);
      const circuit = await builder.build(start, { signal: this.#ended.signal });
      if (this.#ended.signal.aborted) {
        circuit.destroy();
        return;
      }
      const ready = { circuit, start, builtMs: this.#clock.now(), passedOver: 0 };
      this.#ready.push(ready);
      this.#retryMs = RETRY_MS;
      void circuit.closed.then(() => this.#broke(ready));
    } catch (error) {
      if (this.#ended.signal.aborted) return;
      this.#log.debug("circuit not built ahead", { error: messageOf(error) });
      this.#fillLater();
    } finally {
      this.#building--;
      this.#fill();
    }
  }

  #broke(ready: Ready): void {
    const at = this.#ready.indexOf(ready);
    // Taken ones are no longer ours.
    if (at < 0) return;
    this.#ready.splice(at, 1);
    this.#fillLater();
  }

  /** What fails is tried again, ever more slowly. */
  #fillLater(): void {
    if (this.#stopTimer || this.#ended.signal.aborted) return;
    this.#stopTimer = this.#clock.after(this.#retryMs, () => {
      this.#stopTimer = undefined;
      this.#fill();
    });
    this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MS_MAX);
  }
}
