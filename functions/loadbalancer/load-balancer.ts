// The load balancer of an onion service, from the moment that it is in charge: keeps the service's introduction points and
// descriptors, hands each introduction to a replica, keeps replicas and a standby, tells its owner how it goes.
// Boundary: relays, clients, boxes of replicas, the owner's messages. What has to outlive this instance is in `StateKeeper`.

import { Buffer } from "node:buffer";
import type { Bento, Json, Package, Storage } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import type { Circuit } from "../../src/onion/circuit/circuit.ts";
import { readExpandedKey } from "../../src/onion/crypto/blinding.ts";
import {
  type IntroductionPoint,
  OnionService,
  type PointLoss,
  type PointLostAnswer,
} from "../../src/onion/service/onion-service.ts";
import type { LoadBalancerReport, OwnerMessage, ScaleSettings } from "../../src/wire/loadbalancer.ts";
import type { ReplicaStart } from "../replica/protocol.ts";
import type { TorNode } from "../replica/tor-node.ts";
import { Introductions } from "./introductions.ts";
import type { Outbox } from "./outbox.ts";
import { keptPoint, knownPoints, nameOf } from "./points.ts";
import { ReplicaSet } from "./replica-set.ts";
import type { Seen } from "./seen.ts";
import { hasTakenOver, StandbyLink } from "./standby-link.ts";
import { KEYS, type KeptState, type StateKeeper } from "./state.ts";

export interface LoadBalancerParts {
  readonly bento: Bento;
  readonly storage: Storage;
  /** This one's from now on. */
  readonly node: TorNode;
  readonly seen: Seen;
  readonly replicaPackage: Package;
  readonly standbyPackage: Package | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly outbox: Outbox;
  /** Whether somebody reads what we say. */
  readonly isAttached: () => boolean;
  readonly uniform?: () => number;
  /** For a standby: when it noticed that the primary is silent. Unix milliseconds. */
  readonly takeover?: { readonly noticedMs: number };
}

/** How it ended. Fenced off: somebody else has the service. */
export type LoadBalancerEnd = "stopped" | "fenced-off";

const TICK_MS = 200;
/** Points that were claimed by somebody: how long the others may take to follow before it is taken for an accident. */
const FENCE_MS = 5000;

export class LoadBalancer implements AsyncDisposable {
  readonly #parts: LoadBalancerParts;
  readonly #keeper: StateKeeper;
  readonly #introductions: Introductions;
  readonly #replicas: ReplicaSet;
  readonly #ended = Promise.withResolvers<LoadBalancerEnd>();
  readonly #counts = new Map<string, number>();
  readonly #stops: (() => void)[] = [];
  #standby: StandbyLink | undefined;
  #service: OnionService | undefined;
  #watch: { readonly everyMs: number; readonly id?: number } | undefined;
  #stopWatch: () => void = () => undefined;
  #isOver = false;
  /** Points, in all. */
  #claimed = 0;
  #hasStarted = false;

  constructor(keeper: StateKeeper, parts: LoadBalancerParts) {
    this.#keeper = keeper;
    this.#parts = parts;
    const { clock, bento, outbox, uniform } = parts;
    const { start, scale, epoch } = keeper.state;
    this.#introductions = new Introductions(clock, (introduction) => this.#replicas.give(introduction));
    this.#replicas = new ReplicaSet(scale, {
      bento,
      clock,
      epoch,
      boxes: start.boxes,
      pack: parts.replicaPackage,
      start: replicaStart(keeper.state),
      site: () => this.#site(),
      nextId: () => {
        const id = keeper.state.nextReplicaId;
        keeper.note({ nextReplicaId: id + 1 });
        return id;
      },
      onEvent: (event) => outbox.event(event),
      onRoom: () => {
        this.#introductions.retry();
        this.#sayStarted();
      },
      onAgain: (introduction) => this.#introductions.again(introduction),
      onChange: async (kept) => keeper.change(kept),
      ...(uniform ? { uniform } : {}),
    });
  }

  get scale(): ScaleSettings {
    return this.#replicas.scale;
  }

  /** Resolves when it was stopped, or somebody else has the service. */
  get ended(): Promise<LoadBalancerEnd> {
    return this.#ended.promise;
  }

  /**
   * Claims introduction points, those that are kept where there are some, and begins to tick.
   * @param circuits open ones that end at introduction points, by fingerprint; they are used up.
   * Throws BentoError `onion-service`, or the signal's reason.
   */
  async begin(signal: AbortSignal, circuits: ReadonlyMap<string, Circuit> = new Map()): Promise<void> {
    const { node, seen, clock, log } = this.#parts;
    const { state } = this.#keeper;
    if (state.standby && (await hasTakenOver(this.#parts.bento, state.standby, clock)) === true) {
      this.#fence();
      return;
    }
    const replicas = this.#replicas.attach(state.homes, state.replicas);
    this.#tick();
    const clients = state.start.clients?.map((key) => Uint8Array.from(Buffer.from(key, "base64")));
    this.#service = await OnionService.start(
      {
        builder: node.builder,
        paths: node.paths,
        isTestingNetwork: node.isTestingNetwork,
        identity: readExpandedKey(Uint8Array.from(Buffer.from(state.start.key, "base64"))),
        introductionPoints: state.start.introductionPoints ?? 3,
        ...(clients ? { clients } : {}),
        clock,
        log,
        onIntroduction: (material, point) => {
          const name = nameOf(point);
          this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
          this.#introductions.take(material);
        },
        onRefused: () => {
          this.#introductions.refused++;
        },
        onSeen: (point, entry) => seen.add(nameOf(point), entry),
        onPointClaimed: (point) => this.#pointClaimed(point),
        onPointLost: async (point, loss) => this.#pointLost(point, loss),
        onPoints: async (points) => this.#keeper.change({ points: points.map(keptPoint) }),
        onPublished: (published) => this.#published(published),
      },
      {
        known: knownPoints(state.points, node.network, seen, circuits),
        published: state.published ?? undefined,
        signal,
      },
    );
    node.onNetwork = (network) => {
      this.#service?.update(network).catch((error: unknown) => {
        log.warn("onion service not published", { error: messageOf(error) });
      });
    };
    await replicas;
    this.#beginStandby();
    this.#sayStarted();
  }

  /** What an owner says. */
  async obey(message: OwnerMessage): Promise<void> {
    if ("watch" in message) {
      this.#watch = message.watch;
      this.#replicas.setTellsClients(message.watch.everyMs > 0);
      this.#stopWatch();
      this.#report();
    } else if ("scale" in message) {
      const scale = { ...this.#keeper.state.scale, ...message.scale };
      this.#replicas.setScale(scale);
      await this.#keeper.change({ scale });
    } else {
      await this.#stop();
    }
  }

  /** Leaves replicas and standby as they are. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    this.#stopWatch();
    for (const stop of this.#stops.splice(0)) stop();
    this.#service?.[Symbol.dispose]();
    this.#parts.node[Symbol.dispose]();
    await Promise.all([this.#replicas.leave(), this.#standby?.leave(), this.#parts.seen.flush()]);
  }

  #tick(): void {
    if (this.#isOver) return;
    this.#replicas.tick();
    this.#introductions.retry();
    const stop = this.#parts.clock.after(TICK_MS, () => this.#tick());
    this.#stops.splice(0, this.#stops.length, stop);
  }

  #site(): AsyncIterable<Uint8Array> {
    const { storage } = this.#parts;
    return (async function* read() {
      const site = await storage.get(KEYS.site);
      if (!site) throw new Error("Cannot copy site: it is not in the storage");
      yield* site.readable;
    })();
  }

  #sayStarted(): void {
    if (this.#hasStarted || !this.#service || this.#replicas.serving === 0) return;
    this.#hasStarted = true;
    this.#parts.outbox.say({ started: { address: this.#service.address } });
  }

  #published(published: { readonly atMs: number; readonly places: string }): void {
    this.#keeper.note({ published });
    this.#parts.seen.keepOnly((this.#service?.introductionPoints ?? []).map(nameOf));
  }

  #pointClaimed({ relay }: IntroductionPoint): void {
    const { takeover, outbox, clock } = this.#parts;
    outbox.event({ kind: "point-claimed", relay: relay.fingerprint });
    this.#claimed++;
    if (takeover && this.#claimed === this.#keeper.state.points.length)
      outbox.event({ kind: "took-over", afterMs: clock.now() - takeover.noticedMs });
  }

  #beginStandby(): void {
    const { start, standby: place } = this.#keeper.state;
    const { standbyPackage, bento, clock, log, outbox, storage, seen } = this.#parts;
    if (!start.standby || !standbyPackage || this.#isOver) return;
    this.#standby = new StandbyLink({
      box: start.standby.box,
      place,
      pack: standbyPackage,
      state: () => this.#keeper.state,
      input: () => standbyInput(storage, this.#parts.replicaPackage, start.serve.kind === "files"),
      replicaBytes: packageBytes(this.#parts.replicaPackage).length,
      seen,
      bento,
      clock,
      log,
      onEvent: (event) => outbox.event(event),
      onPlace: async (standby) => {
        await this.#keeper.change({ standby });
        if (standby) outbox.say({ standby });
      },
      onTookOver: () => this.#fence(),
    });
    this.#keeper.onChange = () => this.#standby?.stateChanged();
  }

  /** Whether a lost point is replaced: not when somebody else has the service now. */
  async #pointLost(point: IntroductionPoint, { isClaimed }: PointLoss): Promise<PointLostAnswer> {
    const { outbox, clock } = this.#parts;
    this.#counts.delete(nameOf(point));
    if (this.#isOver) return "leave";
    outbox.event({ kind: "point-lost", relay: point.relay.fingerprint });
    if (!isClaimed) return "replace";
    if (await this.#hasSuccessor()) return this.#fence();
    // Nobody else has our keys, or who has says that it waits: then it is the relay's doing.
    const isAlone = () => (this.#standby ? this.#standby.isWaiting : !this.#parts.takeover);
    if (isAlone()) return "replace";
    if (this.#service?.introductionPoints.length !== 0) await clock.sleep(FENCE_MS);
    return !isAlone() && this.#service?.introductionPoints.length === 0 ? this.#fence() : "replace";
  }

  /** Whether a later instance of this function runs, which shares the storage. */
  async #hasSuccessor(): Promise<boolean> {
    try {
      const kept = await this.#parts.storage.get(KEYS.state);
      return (
        kept !== undefined && (JSON.parse(await kept.text()) as KeptState).epoch > this.#keeper.state.epoch
      );
    } catch {
      return false;
    }
  }

  #fence(): "leave" {
    if (!this.#isOver) {
      this.#isOver = true;
      this.#parts.outbox.event({ kind: "fenced-off" });
      this.#ended.resolve("fenced-off");
    }
    return "leave";
  }

  async #stop(): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#service?.[Symbol.dispose]();
    await this.#standby?.end();
    this.#parts.outbox.say({ stopped: await this.#replicas.end() });
    this.#ended.resolve("stopped");
  }

  #report(): void {
    const watch = this.#watch;
    if (!watch || this.#isOver) return;
    const { isAttached, outbox, clock } = this.#parts;
    if (isAttached()) {
      outbox.report({ ...(watch.id === undefined ? {} : { id: watch.id }), ...this.#state() });
    } else if (watch.everyMs > 0) {
      // Nobody reads: details would cost the grant's bytes for nothing. Whoever comes next asks again.
      this.#watch = undefined;
      this.#replicas.setTellsClients(false);
      return;
    }
    if (watch.everyMs > 0) this.#stopWatch = clock.after(watch.everyMs, () => this.#report());
  }

  #state(): LoadBalancerReport {
    const { total, perSecond, waiting, dropped, refused } = this.#introductions;
    const points = this.#service?.introductionPoints ?? [];
    const { start } = this.#keeper.state;
    return {
      nowMs: this.#parts.clock.now(),
      address: this.#service?.address ?? "",
      role: "primary",
      introductionPoints: points.map((point) => ({
        relay: point.relay.fingerprint,
        introductions: this.#counts.get(nameOf(point)) ?? 0,
      })),
      introductions: { total, perSecond, waiting, dropped, refused },
      scale: this.#replicas.scale,
      replicas: this.#replicas.reports,
      standby:
        start.standby && this.#standby ? { box: start.standby.box, isReady: this.#standby.isWaiting } : null,
    };
  }
}

function replicaStart({ start, siteDigest, epoch }: KeptState): ReplicaStart {
  const { serve, virtualPort } = start;
  return {
    version: 1,
    epoch,
    virtualPort,
    serve: serve.kind === "files" ? { kind: "files", siteBytes: serve.siteBytes, siteDigest } : serve,
  };
}

export function packageBytes(pack: Package): Uint8Array {
  return Uint8Array.from(Buffer.from(JSON.stringify(pack as unknown as Json)));
}

/** What a standby is sent first: the replica's package and the site. */
async function* standbyInput(storage: Storage, pack: Package, hasSite: boolean): AsyncGenerator<Uint8Array> {
  const bytes = packageBytes(pack);
  for (let at = 0; at < bytes.length; at += INPUT_BYTES) yield bytes.subarray(at, at + INPUT_BYTES);
  if (!hasSite) return;
  const site = await storage.get(KEYS.site);
  if (!site) throw new Error("Cannot copy site: it is not in the storage");
  yield* site.readable;
}

const INPUT_BYTES = 256 * 1024;
