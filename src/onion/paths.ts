// Paths for everything that a client or service does: guard first, then what the purpose wants.
// Spec: path-spec 2.2, 5; rend-spec-v3 (paths of services have one relay more towards places that others chose).

import { type Clock, systemClock } from "../base/clock.ts";
import type { CircuitRelay } from "./circuit/circuit.ts";
import { GuardSet } from "./directory/guards.ts";
import type { Network, Relay } from "./directory/network.ts";
import { mayShare, type PathRules, pickPath, pickRelay } from "./directory/path.ts";

export interface PathsOptions {
  readonly network: Network;
  /** Kept by whoever keeps state; fresh ones otherwise. */
  readonly guards?: GuardSet;
  readonly rules?: PathRules;
  readonly clock?: Clock;
  /** A fixed first relay, such as the one that a box stands beside. */
  readonly firstHop?: Relay;
}

export class Paths {
  /** Replaced as new consensuses come. */
  network: Network;
  readonly #guards: GuardSet;
  readonly #rules: PathRules;
  readonly #clock: Clock;
  readonly #firstHop: Relay | undefined;

  constructor(options: PathsOptions) {
    this.network = options.network;
    this.#rules = options.rules ?? {};
    this.#guards = options.guards ?? new GuardSet(this.#rules);
    this.#clock = options.clock ?? systemClock;
    this.#firstHop = options.firstHop;
  }

  /** To a given relay. `middles`: relays between it and the guard. */
  to(end: CircuitRelay, middles = 1): CircuitRelay[] {
    return pickPath(this.network, { guard: this.#guard(), middles, end, rules: this.#rules });
  }

  /**
   * The beginning of a path whose end is not known yet: guard and `middles` more, one at least. Circuits along it can be built
   * ahead of time, as C tor does; `rest` says how each goes on.
   */
  start(middles = 1): Relay[] {
    const path = [this.#guard()];
    for (let added = 0; added < Math.max(1, middles); added++)
      path.push(pickRelay(this.network, this.network.relays, "middle", path, this.#rules));
    return path;
  }

  /** What leads from the end of `start` to `end`, `end` included; undefined where the two do not suit each other. */
  rest(start: readonly Relay[], end: CircuitRelay): CircuitRelay[] | undefined {
    const known = this.network.relayOf(end.identity);
    const last = start.at(-1);
    if (!known) return [end];
    if (last && !mayShare(last, known, this.#rules.distinctSubnets ?? true)) return undefined;
    // Relays refuse to extend back to the hop that a circuit came from.
    if (start.at(-2)?.fingerprint !== known.fingerprint) return [end];
    return [pickRelay(this.network, this.network.relays, "middle", [...start, known], this.#rules), end];
  }

  /** To an exit that lets this port out. */
  toExit(exitPort: number): CircuitRelay[] {
    return pickPath(this.network, {
      guard: this.#guard(),
      middles: 1,
      end: { exitPort },
      rules: this.#rules,
    });
  }

  /** A relay for others to meet at: any that is stable, except `others`. Throws BentoError `onion-path`. */
  meetingPoint(others: readonly Relay[] = []): Relay {
    const stable = this.network.relays.filter(({ flags }) => flags.has("Stable") && flags.has("Fast"));
    return pickRelay(this.network, stable, "middle", [this.#guard(), ...others], this.#rules);
  }

  /** What became of a circuit along `path`: guards that fail are left alone for a while. */
  report(path: readonly CircuitRelay[], hasWorked: boolean): void {
    const first = path[0] && this.network.relayOf(path[0].identity);
    if (!first) return;
    if (hasWorked) this.#guards.succeeded(first, this.#clock.now());
    else this.#guards.failed(first, this.#clock.now());
  }

  #guard(): Relay {
    return this.#firstHop ?? this.#guards.choose(this.network, this.#clock.now());
  }
}
