// An instance of the load balancer from its start to its end, in each of its roles: a service's first instance, one that
// goes on where another ended, and a standby that may become either.
// Boundary: the owner, or a primary, by session messages.

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import type { Bento, Package, Session, Storage } from "bento/function";
import { orAborted } from "../../src/base/abort.ts";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import type {
  LoadBalancerResume,
  LoadBalancerStart,
  LoadBalancerWhere,
  OwnerAnswer,
} from "../../src/wire/loadbalancer.ts";
import { type TorAccess, TorNode } from "../replica/tor-node.ts";
import { LoadBalancer, type LoadBalancerEnd } from "./load-balancer.ts";
import { Outbox } from "./outbox.ts";
import { Seen } from "./seen.ts";
import { Standby } from "./standby.ts";
import {
  checkedStandbyStart,
  primaryMessage,
  type StandbyMessage,
  type StandbyStart,
} from "./standby-protocol.ts";
import { checkedOwnerMessage, checkedStart, Input } from "./start.ts";
import { firstState, KEYS, loadJson, StateKeeper } from "./state.ts";
import { asTaker } from "./takeover.ts";

export interface RunParts {
  readonly session: Pick<Session, "send" | "attached" | "signal" | typeof Symbol.asyncIterator>;
  readonly tor: TorAccess;
  readonly bento: Bento;
  readonly storage: Storage;
  readonly clock: Clock;
  readonly log: Log;
  readonly uniform?: () => number;
}

/** @param given the argument: LoadBalancerStart, LoadBalancerResume, LoadBalancerWhere or StandbyStart. Throws Error when it is none. */
export async function runLoadBalancer(given: unknown, parts: RunParts): Promise<LoadBalancerEnd> {
  const standby = checkedStandbyStart(given);
  if (standby) return new Instance(parts).standBy(standby);
  const { resume, renews, where } = (given ?? {}) as Partial<LoadBalancerResume & LoadBalancerWhere>;
  if (where === true) return answerWhere(parts);
  if (resume === true) return new Instance(parts).resume(renews === true);
  return new Instance(parts).start(checkedStart(given));
}

async function answerWhere({ session, storage }: RunParts): Promise<LoadBalancerEnd> {
  const instance = (await (await storage.get(KEYS.instance))?.text()) ?? null;
  const role = await (await storage.get(KEYS.role))?.text();
  const answer: OwnerAnswer =
    role === "primary" || role === "standby" ? { at: { instance, role } } : { at: { instance } };
  await session.send(JSON.stringify(answer));
  return "answered";
}

class Instance {
  readonly #parts: RunParts;
  readonly #sinceMs: number;
  readonly #input: Input;
  readonly #outbox: Outbox;
  readonly #seen: Seen;
  readonly #node: Promise<TorNode>;
  #balancer: LoadBalancer | undefined;
  #standby: Standby | undefined;

  constructor(parts: RunParts) {
    this.#parts = parts;
    this.#sinceMs = parts.clock.now();
    const { session, tor, storage, clock, log } = parts;
    this.#input = new Input(session);
    this.#outbox = new Outbox(async (text) => session.send(text), clock);
    this.#seen = new Seen(storage, clock, log);
    // Begun before anything else: it takes longest.
    this.#node = TorNode.start(tor, { clock, log, signal: session.signal });
    this.#node.catch(() => undefined);
  }

  async start(start: LoadBalancerStart): Promise<LoadBalancerEnd> {
    const { storage, log } = this.#parts;
    if (await StateKeeper.load(storage, log))
      throw new Error("Cannot balance: this function has a service already; go on with it, or stop it first");
    const { replicaBytes, standbyBytes } = start.packages;
    await this.#storePackage(KEYS.replica, replicaBytes);
    if (standbyBytes !== undefined) await this.#storePackage(KEYS.standby, standbyBytes);
    const siteDigest = start.serve.kind === "files" ? await this.#storeSite(start.serve.siteBytes) : "";
    const keeper = await StateKeeper.create(storage, log, firstState(start, siteDigest));
    void this.#listen();
    return this.#balance(keeper);
  }

  async resume(isRenewal: boolean): Promise<LoadBalancerEnd> {
    const { storage, log } = this.#parts;
    const keeper = await StateKeeper.load(storage, log);
    if (!keeper) throw new Error("Cannot go on: no service was begun here");
    // Kept before anybody is told: replicas listen to the highest epoch, and an instance that still runs sees ours.
    await keeper.change({ epoch: keeper.state.epoch + 1 });
    await this.#seen.load();
    void this.#listen();
    return this.#balance(keeper, { isRenewal });
  }

  async standBy({
    replicaBytes,
    siteBytes,
    silentMs,
    isAgain,
  }: StandbyStart["standby"]): Promise<LoadBalancerEnd> {
    const { storage, log, clock, session } = this.#parts;
    await storage.put(KEYS.role, "standby");
    if (isAgain !== true) await this.#storePackage(KEYS.replica, replicaBytes);
    // Better to fail now than when it counts.
    else await loadJson(storage, KEYS.replica);
    if (isAgain !== true && siteBytes > 0) await this.#storeSite(siteBytes);
    const node = await this.#node;
    using standby = new Standby({
      node,
      seen: this.#seen,
      clock,
      log,
      silentMs,
      send: (message) => this.#tell(message),
    });
    this.#standby = standby;
    void this.#listen();
    const { state, circuits, noticedMs } = await orAborted(standby.takeover, session.signal);
    const keeper = await StateKeeper.create(storage, log, asTaker(state));
    this.#tell({ tookOver: { epoch: keeper.state.epoch } });
    return await this.#balance(keeper, { takeover: { noticedMs, circuits } });
  }

  async #balance(
    keeper: StateKeeper,
    {
      takeover,
      isRenewal = false,
    }: {
      readonly takeover?: {
        readonly noticedMs: number;
        readonly circuits: Parameters<LoadBalancer["begin"]>[1];
      };
      readonly isRenewal?: boolean;
    } = {},
  ): Promise<LoadBalancerEnd> {
    const { storage, bento, clock, log, session, uniform } = this.#parts;
    await storage.put(KEYS.role, "primary");
    // Who took over has none to install: what its primary installed is started.
    const hasPackage = !takeover && (await storage.get(KEYS.standby)) !== undefined;
    await using balancer = new LoadBalancer(keeper, {
      bento,
      storage,
      node: await this.#node,
      seen: this.#seen,
      replicaPackage: (await loadJson(storage, KEYS.replica)) as unknown as Package,
      standbyPackage: hasPackage
        ? ((await loadJson(storage, KEYS.standby)) as unknown as Package)
        : undefined,
      clock,
      log,
      outbox: this.#outbox,
      isAttached: () => session.attached,
      sinceMs: this.#sinceMs,
      isRenewal,
      ...(uniform ? { uniform } : {}),
      ...(takeover ? { takeover } : {}),
    });
    this.#balancer = balancer;
    for (const message of this.#early.splice(0)) await this.#obey(message);
    await balancer.begin(session.signal, takeover?.circuits);
    const end = await orAborted(balancer.ended, session.signal);
    await this.#outbox.flush();
    return end;
  }

  /** Messages of the owner that came before there was anything to obey them. */
  readonly #early: Uint8Array[] = [];

  async #listen(): Promise<void> {
    try {
      for (let bytes = await this.#input.message(); bytes; bytes = await this.#input.message())
        await this.#obey(bytes);
    } catch (error) {
      this.#parts.log.warn("input failed", { error: messageOf(error) });
    }
  }

  async #obey(bytes: Uint8Array): Promise<void> {
    const balancer = this.#balancer;
    try {
      const beat = primaryMessage(bytes);
      if (beat && this.#standby) {
        // A primary that lives all the same learns that it is one no more.
        if (balancer) this.#tell({ tookOver: { epoch: this.#standby.state?.epoch ?? 0 } });
        else {
          this.#standby.hear(beat);
          await this.#noteInstance(beat.state?.standby?.instance);
        }
      } else if (balancer) {
        await balancer.obey(checkedOwnerMessage(bytes, balancer.scale));
      } else if (this.#early.length < EARLY_MAX) {
        this.#early.push(bytes);
      }
    } catch (error) {
      this.#parts.log.warn("message dropped", { error: messageOf(error) });
    }
  }

  /** A standby does not know by itself which instance it is: its owner, who has the function's token alone, asks (`where`). */
  async #noteInstance(instance: string | undefined): Promise<void> {
    if (instance === undefined || instance === this.#noted) return;
    this.#noted = instance;
    await this.#parts.storage.put(KEYS.instance, instance);
  }

  #noted: string | undefined;
  #unsent = 0;

  /** To the primary, while it is there: what waits for it is old news. */
  #tell(message: StandbyMessage): void {
    const { session } = this.#parts;
    if (!session.attached || this.#unsent > 0) return;
    this.#unsent++;
    session.send(JSON.stringify(message)).then(
      () => this.#unsent--,
      () => this.#unsent--,
    );
  }

  async #storePackage(key: string, bytes: number): Promise<void> {
    const pack = await this.#input.json(bytes);
    await this.#parts.storage.put(key, JSON.stringify(pack));
  }

  /** Its SHA-256. */
  async #storeSite(bytes: number): Promise<string> {
    const hash = createHash("sha256");
    const input = this.#input;
    await this.#parts.storage.put(
      KEYS.site,
      (async function* hashed() {
        for await (const piece of input.bytes(bytes)) {
          hash.update(piece);
          yield piece;
        }
      })(),
    );
    return Buffer.from(hash.digest()).toString("hex");
  }
}

const EARLY_MAX = 16;
