// The role of a standby: has what the primary has, keeps circuits to the introduction points' relays, and takes the service
// over when the primary is silent for too long. Relays give a point to whoever claims it last: nothing is published again,
// and the primary, if it lives, loses its points.
// Boundary: the primary, whom it trusts with everything; relays; later its owner.

import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import type { Circuit } from "../../src/onion/circuit/circuit.ts";
import type { TorNode } from "../replica/tor-node.ts";
import type { Seen } from "./seen.ts";
import { decodeSeen, type PrimaryMessage, type StandbyMessage } from "./standby-protocol.ts";
import type { KeptState } from "./state.ts";

export interface StandbyParts {
  readonly node: TorNode;
  readonly seen: Seen;
  readonly clock: Clock;
  readonly log: Log;
  readonly silentMs: number;
  readonly send: (message: StandbyMessage) => void;
}

export interface Takeover {
  readonly noticedMs: number;
  /** What the primary said last. */
  readonly state: KeptState;
  /** To introduction points, by fingerprint; the taker's from now on. */
  readonly circuits: ReadonlyMap<string, Circuit>;
}

/** How often silence is looked for: milliseconds. */
const LOOK_MS = 100;
const RETRY_MS = 1000;

export class Standby implements Disposable {
  readonly #parts: StandbyParts;
  readonly #circuits = new Map<string, Circuit>();
  readonly #building = new Set<string>();
  readonly #ended = new AbortController();
  readonly #takeover = Promise.withResolvers<Takeover>();
  #state: KeptState | undefined;
  #heardMs: number;

  constructor(parts: StandbyParts) {
    this.#parts = parts;
    this.#heardMs = parts.clock.now();
    void this.#look();
  }

  /** Resolves when the primary is silent. Never, when this one was left before. */
  get takeover(): Promise<Takeover> {
    return this.#takeover.promise;
  }

  get state(): KeptState | undefined {
    return this.#state;
  }

  /** A sign of life. */
  hear({ beat, state, seen }: PrimaryMessage): void {
    if (this.#ended.signal.aborted) return;
    this.#heardMs = this.#parts.clock.now();
    if (state) this.#state = state;
    for (const batch of seen ? decodeSeen(seen) : []) this.#parts.seen.addBatch(batch);
    this.#keepCircuits();
    // Beat 0 asks for our word alone.
    if (this.#state) this.#parts.send({ waiting: { beat, circuits: this.#circuits.size } });
  }

  [Symbol.dispose](): void {
    if (this.#ended.signal.aborted) return;
    this.#ended.abort(new Error("the standby ends"));
    for (const circuit of this.#circuits.values()) circuit.destroy();
  }

  async #look(): Promise<void> {
    const { clock, silentMs } = this.#parts;
    try {
      for (;;) {
        await clock.sleep(LOOK_MS, this.#ended.signal);
        const noticedMs = clock.now();
        if (!this.#state || noticedMs - this.#heardMs <= silentMs) continue;
        this.#ended.abort(new Error("the standby took over"));
        this.#takeover.resolve({ noticedMs, state: this.#state, circuits: this.#circuits });
        return;
      }
    } catch {
      // It was left.
    }
  }

  /** One open circuit to each introduction point's relay, and none to others. */
  #keepCircuits(): void {
    const wanted = new Set(this.#state?.points.map(({ relay }) => relay));
    for (const [relay, circuit] of this.#circuits) {
      if (wanted.has(relay)) continue;
      this.#circuits.delete(relay);
      circuit.destroy();
    }
    for (const relay of wanted) if (!this.#circuits.has(relay)) void this.#build(relay);
  }

  async #build(fingerprint: string): Promise<void> {
    const { node, clock, log } = this.#parts;
    const { signal } = this.#ended;
    if (this.#building.has(fingerprint)) return;
    this.#building.add(fingerprint);
    try {
      const relay = node.network.relay(fingerprint);
      if (!relay) throw new Error("the relay is not in the consensus");
      const circuit = await node.builder.build(node.paths.to(relay), { signal });
      if (signal.aborted) {
        circuit.destroy();
        return;
      }
      this.#circuits.set(fingerprint, circuit);
      void circuit.closed.then(() => this.#forget(fingerprint, circuit));
    } catch (error) {
      if (!signal.aborted) log.debug("no circuit to an introduction point yet", { error: messageOf(error) });
      await clock.sleep(RETRY_MS, signal).catch(() => undefined);
    } finally {
      // The next sign of life tries again.
      this.#building.delete(fingerprint);
    }
  }

  #forget(fingerprint: string, circuit: Circuit): void {
    if (this.#circuits.get(fingerprint) === circuit) this.#circuits.delete(fingerprint);
  }
}
