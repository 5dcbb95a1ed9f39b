// Introductions that this replica was handed: each becomes a circuit to the client's rendezvous point, or a word that it
// did not. So many at once, so many waiting, none twice; relays on the way fail now and then, so that each gets some paths.
// Boundary: the rendezvous point, which a stranger chose: it may be any address, lie or never answer, and costs one place
// for a while.

import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Circuit, CircuitRelay, IncomingStream } from "../../src/onion/circuit/circuit.ts";
import type { RendezvousMaterial } from "../../src/onion/service/handover.ts";
import { answerClient } from "../../src/onion/service/rendezvous.ts";

/** Circuits being built at once. A stranger's rendezvous point that never answers holds one for MEET_MS. */
export const MEETINGS_AT_ONCE = 64;
export const MEETINGS_WAITING_MAX = 1024;
/** Numbers remembered, so that what a broken session brings twice is met once. */
export const NUMBERS_MAX = 4096;
/** For all paths to one rendezvous point together, as C tor's services have (MAX_REND_TIMEOUT). */
export const MEET_MS = 30_000;
/** For one path: milliseconds. */
export const PATH_MS = 10_000;
/** Before another one: milliseconds. Our own relay, where all paths begin, may be starting again. */
export const RETRY_MS = 500;
/** C tor's: default and bounds of the consensus parameter hs_service_max_rdv_failures, paths after the first. */
const RETRIES = { normal: 2, min: 1, max: 10 } as const;

export interface MeetingsOptions {
  readonly clock: Clock;
  /** An open circuit that ends at this relay. */
  readonly circuitTo: (end: CircuitRelay, signal: AbortSignal) => Promise<Circuit>;
  readonly parameters: () => ReadonlyMap<string, number>;
  /** Takes the circuit over, and returns what takes its streams; undefined when there is no room. */
  readonly add: (circuit: Circuit) => ((stream: IncomingStream) => void) | undefined;
  /** `failure` undefined: the client has its answer. */
  readonly onDone: (introduction: Introduction, failure: string | undefined) => void;
}

export interface Introduction {
  readonly epoch: number;
  readonly number: number;
  readonly material: RendezvousMaterial;
}

export class Meetings {
  readonly #options: MeetingsOptions;
  readonly #waiting: Introduction[] = [];
  readonly #seen = new Set<string>();
  #running = 0;
  #isOpen = false;
  met = 0;
  failed = 0;
  readonly #ended = new AbortController();

  constructor(options: MeetingsOptions) {
    this.#options = options;
  }

  /** Begins with those that wait. */
  open(): void {
    this.#isOpen = true;
    this.#next();
  }

  /** No more; those under way are given up. */
  close(): void {
    this.#ended.abort(new Error("the replica ends"));
    this.#waiting.splice(0);
  }

  take(introduction: Introduction): void {
    const key = `${introduction.epoch} ${introduction.number}`;
    if (this.#seen.has(key)) return;
    this.#seen.add(key);
    const [oldest] = this.#seen;
    if (this.#seen.size > NUMBERS_MAX && oldest !== undefined) this.#seen.delete(oldest);
    if (this.#waiting.length >= MEETINGS_WAITING_MAX) {
      this.#done(introduction, "too many introductions wait");
      return;
    }
    this.#waiting.push(introduction);
    this.#next();
  }

  #next(): void {
    while (this.#isOpen && this.#running < MEETINGS_AT_ONCE) {
      const introduction = this.#waiting.shift();
      if (!introduction) return;
      this.#running++;
      void this.#meet(introduction);
    }
  }

  async #meet(introduction: Introduction): Promise<void> {
    const { clock } = this.#options;
    const late = new AbortController();
    const stop = clock.after(MEET_MS, () => late.abort(new Error("the rendezvous point does not answer")));
    let failure: string | undefined;
    try {
      const circuit = await this.#circuitTo(introduction.material.rendezvousPoint, late.signal);
      failure = this.#answer(circuit, introduction.material);
    } catch (error) {
      failure = messageOf(error);
    } finally {
      stop();
      this.#running--;
    }
    this.#done(introduction, failure);
    this.#next();
  }

  /** Tries other paths when one fails. Throws what the last one failed of. */
  async #circuitTo(end: CircuitRelay, late: AbortSignal): Promise<Circuit> {
    const { clock, circuitTo, parameters } = this.#options;
    const signal = AbortSignal.any([late, this.#ended.signal]);
    const asked = parameters().get("hs_service_max_rdv_failures") ?? RETRIES.normal;
    let left = Math.min(RETRIES.max, Math.max(RETRIES.min, asked));
    for (;;) {
      const slow = new AbortController();
      const stop = clock.after(PATH_MS, () =>
        slow.abort(new Error("a path to the rendezvous point is not built")),
      );
      try {
        return await circuitTo(end, AbortSignal.any([signal, slow.signal]));
      } catch (error) {
        signal.throwIfAborted();
        if (left-- <= 0) throw error;
      } finally {
        stop();
      }
      await clock.sleep(RETRY_MS, signal);
    }
  }

  /** Says why not, when it does not. */
  #answer(circuit: Circuit, material: RendezvousMaterial): string | undefined {
    const { add, parameters } = this.#options;
    try {
      const onStream = add(circuit);
      if (!onStream) throw new Error("the replica has no room for another client");
      answerClient(circuit, material, { parameters: parameters(), onStream });
      return undefined;
    } catch (error) {
      circuit.destroy();
      return messageOf(error);
    }
  }

  #done(introduction: Introduction, failure: string | undefined): void {
    if (failure === undefined) this.met++;
    else this.failed++;
    this.#options.onDone(introduction, failure);
  }
}
