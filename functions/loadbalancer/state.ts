// What a load balancer must not forget, in its function's storage, so that another instance of the same function goes on
// where a dead one stopped: same address, same introduction points, the replicas with their clients.
// Written before what it says counts outside: keys before points are claimed, points before they are published, replicas
// before they get introductions. The storage is encrypted under keys that only the box's memory holds.

import type { Json, Storage } from "bento/function";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import type { LoadBalancerStart, ScaleSettings, StandbyPlace } from "../../src/wire/loadbalancer.ts";

export interface KeptPoint {
  /** Fingerprint. */
  readonly relay: string;
  /** exportIntroductionSecrets, base64. */
  readonly secrets: string;
}

/** A replica function at a box: its instances are replicas. */
export interface KeptHome {
  readonly box: string;
  readonly invocationToken: string;
  readonly shutdownToken: string;
  /** How long the box lets each instance run: milliseconds; it may not have said. */
  readonly runtimeMs?: number;
}

export interface KeptReplica {
  readonly id: number;
  readonly box: string;
  readonly instance: string;
  readonly startedAtMs: number;
  readonly isRetiring: boolean;
}

/** The load balancer's function at a box where a standby may be. */
export interface KeptStandbyHome extends KeptHome {
  /** When the box removes it: Unix milliseconds; it may not have said. */
  readonly expiresAt?: number;
  /** An instance there has stored package and site. */
  readonly isFilled: boolean;
}

export interface KeptState {
  readonly version: 1;
  readonly start: LoadBalancerStart;
  /** SHA-256 of the site, hexadecimal; "" where there is none. */
  readonly siteDigest: string;
  readonly scale: ScaleSettings;
  /** Rises with each instance, and with each standby that takes over. */
  readonly epoch: number;
  readonly nextReplicaId: number;
  readonly points: readonly KeptPoint[];
  readonly published: { readonly atMs: number; readonly places: string } | null;
  readonly homes: readonly KeptHome[];
  readonly replicas: readonly KeptReplica[];
  readonly standby: StandbyPlace | null;
  /** Where one can be started by token. */
  readonly standbyHomes?: readonly KeptStandbyHome[];
  /** How many standbys whoever is in charge has placed so far. */
  readonly standbysPlaced?: number;
  /** The box in charge, as others name it, after a takeover: before, it is the `own` of the start. */
  readonly at?: string;
  /** What starts another instance of this function, and how long its box lets each run: milliseconds. The owner says it. */
  readonly renew?: { readonly token: string; readonly runtimeMs: number; readonly shutdownToken?: string };
  /** The newest epoch whose instance has the introduction points: to the one before it, which waits for that. */
  readonly inCharge?: number;
}

export const KEYS = {
  state: "state",
  replica: "package/replica",
  standby: "package/standby",
  site: "site",
  /** The newest instance that this function, or whoever it stands by, started here: its id. */
  instance: "instance",
  /** What that one is: "primary" or "standby". */
  role: "role",
} as const;

/** The parts of the state that change. */
export type StateChange = Partial<Omit<KeptState, "version" | "start" | "siteDigest">>;

/** Of a service that has just begun. */
export function firstState(start: LoadBalancerStart, siteDigest: string): KeptState {
  return {
    version: 1,
    start,
    siteDigest,
    scale: start.scale,
    epoch: 1,
    nextReplicaId: 1,
    points: [],
    published: null,
    homes: [],
    replicas: [],
    standby: null,
  };
}

/** As it is kept, whichever instance wrote it; undefined when there is none. Throws Error when it cannot be read. */
export async function readState(storage: Storage): Promise<KeptState | undefined> {
  const found = await storage.get(KEYS.state);
  return found && (JSON.parse(await found.text()) as KeptState);
}

export class StateKeeper {
  readonly #storage: Storage;
  readonly #log: Log;
  #state: KeptState;
  #writing: Promise<void> = Promise.resolve();
  #isDue = false;
  #isHeld = false;
  /** Called with each new state, before it is written. */
  onChange: (state: KeptState) => void = () => undefined;

  private constructor(storage: Storage, log: Log, state: KeptState) {
    this.#storage = storage;
    this.#log = log;
    this.#state = state;
  }

  /** The first state of a service. Resolves when it is kept. */
  static async create(storage: Storage, log: Log, state: KeptState): Promise<StateKeeper> {
    const keeper = new StateKeeper(storage, log, state);
    await keeper.change({});
    return keeper;
  }

  /** What an earlier instance kept; undefined when there was none. Throws Error when it cannot be read. */
  static async load(storage: Storage, log: Log): Promise<StateKeeper | undefined> {
    const state = await readState(storage);
    if (!state) return undefined;
    if (state.version !== 1) throw new Error("Cannot go on: what was kept is of another version");
    return new StateKeeper(storage, log, state);
  }

  get state(): KeptState {
    return this.#state;
  }

  /** Resolves when it is kept. Changes made meanwhile are written together. Throws what the storage says. */
  async change(change: StateChange): Promise<void> {
    this.#state = { ...this.#state, ...change };
    this.onChange(this.#state);
    if (!this.#isDue) {
      this.#isDue = true;
      const before = this.#writing;
      this.#writing = (async () => {
        await before.catch(() => undefined);
        this.#isDue = false;
        if (!this.#isHeld) await this.#storage.put(KEYS.state, JSON.stringify(this.#state));
      })();
    }
    await this.#writing;
  }

  /** Nothing is written any more: the storage is another instance's. Resolves when that is so. */
  async hold(): Promise<void> {
    this.#isHeld = true;
    await this.#writing.catch(() => undefined);
  }

  /** It was for nothing: what changed meanwhile is written. Resolves when it is. */
  async release(): Promise<void> {
    this.#isHeld = false;
    await this.change({});
  }

  /** For what may be lost: the next instance finds it out by itself. */
  note(change: StateChange): void {
    this.change(change).catch((error: unknown) => {
      this.#log.warn("state not kept", { error: messageOf(error) });
    });
  }
}

/** A package or other JSON that was stored under `key`. Throws Error when it is not there. */
export async function loadJson(storage: Storage, key: string): Promise<Json> {
  const found = await storage.get(key);
  if (!found) throw new Error(`Cannot go on: ${key} is not in the storage`);
  return JSON.parse(await found.text()) as Json;
}
