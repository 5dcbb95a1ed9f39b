// The load balancer of an onion service, from the moment that it is in charge: keeps the service's introduction points and
// descriptors, hands each introduction to a replica, keeps replicas and a standby, tells its owner how it goes.
// Boundary: relays, clients, boxes of replicas, the owner's messages. What has to outlive this instance is in `StateKeeper`.

import type { Bento, Package, Storage } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import type { Circuit } from "../../src/onion/circuit/circuit.ts";
import type {
  IntroductionPoint,
  OnionService,
  PointLoss,
  PointLostAnswer,
} from "../../src/onion/service/onion-service.ts";
import {
  LoadBalancerLimits,
  type LoadBalancerReport,
  type OwnerMessage,
  type ScaleSettings,
} from "../../src/wire/loadbalancer.ts";
import type { TorNode } from "../replica/tor-node.ts";
import { Claims } from "./claims.ts";
import { replicaStart, storedSite } from "./copies.ts";
import { hasSuccessor, isFencedOff } from "./fencing.ts";
import { Introductions } from "./introductions.ts";
import type { Outbox } from "./outbox.ts";
import { keepStandby } from "./own-standby.ts";
import { knownPoints, nameOf } from "./points.ts";
import { Renewal } from "./renewal.ts";
import { ReplicaSet } from "./replica-set.ts";
import { Reports } from "./report.ts";
import type { Seen } from "./seen.ts";
import { type ServiceParts, startService, wantedPoints } from "./service.ts";
import type { StandbyKeeper } from "./standby-keeper.ts";
import { askStandby } from "./standby-link.ts";
import type { StateKeeper } from "./state.ts";

export interface LoadBalancerParts {
  readonly bento: Bento;
  readonly storage: Storage;
  /** This one's from now on. */
  readonly node: TorNode;
  readonly seen: Seen;
  readonly replicaPackage: Package;
  readonly standbyPackage: Package | undefined;
  readonly clock: Clock;
  /** When this instance began, in whatever role: Unix milliseconds. */
  readonly sinceMs: number;
  readonly log: Log;
  readonly outbox: Outbox;
  /** Whether somebody reads what we say. */
  readonly isAttached: () => boolean;
  readonly uniform?: () => number;
  /** The instance before this one lives, and waits until we have the introduction points. */
  readonly isRenewal?: boolean;
  /** For a standby: when it noticed that the primary is silent. Unix milliseconds. */
  readonly takeover?: { readonly noticedMs: number };
}

/** How it ended. Fenced off: somebody else has the service. Answered: it was only asked something. */
export type LoadBalancerEnd = "stopped" | "fenced-off" | "answered";

const TICK_MS = 200;
/** A renewed instance waits so long for the standby: milliseconds. */
const STANDBY_MS = 10_000;
/** One that goes on where another one ended does not wait longer than this for the standby's word. */
const ASK_MS = 3000;
/** A descriptor has no room for more (rend-spec-v3 2.5.2.2). */
const POINTS_MAX = LoadBalancerLimits.introductionPointsMax;

export class LoadBalancer implements AsyncDisposable {
  readonly #parts: LoadBalancerParts;
  readonly #keeper: StateKeeper;
  readonly #introductions: Introductions;
  readonly #replicas: ReplicaSet;
  readonly #ended = Promise.withResolvers<LoadBalancerEnd>();
  readonly #counts = new Map<string, number>();
  readonly #stops: (() => void)[] = [];
  readonly #renewal: Renewal;
  #standby: StandbyKeeper | undefined;
  #service: OnionService | undefined;
  readonly #reports: Reports;
  #isOver = false;
  #dismissesStandby = false;
  /** Of the points that an earlier instance or the primary had. */
  readonly #claims = new Claims();
  #hasStarted = false;

  constructor(keeper: StateKeeper, parts: LoadBalancerParts) {
    this.#keeper = keeper;
    this.#parts = parts;
    const { clock, bento, outbox, storage, uniform } = parts;
    const { start, scale, epoch } = keeper.state;
    this.#introductions = new Introductions(clock, (introduction) => this.#replicas.give(introduction));
    this.#replicas = new ReplicaSet(scale, {
      bento,
      clock,
      epoch,
      boxes: start.boxes,
      pack: parts.replicaPackage,
      start: replicaStart(keeper.state),
      site: () => storedSite(storage),
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
    this.#reports = new Reports({
      clock,
      outbox,
      isAttached: parts.isAttached,
      state: () => this.#state(),
      setTellsClients: (tells) => this.#replicas.setTellsClients(tells),
    });
    this.#renewal = new Renewal({
      bento,
      storage,
      keeper,
      clock,
      sinceMs: parts.sinceMs,
      onEvent: (event) => outbox.event(event),
      flush: async () => parts.seen.flush(),
      onRenewed: () => this.#leave(),
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
    const { node, seen, clock, log, takeover, isRenewal = false } = this.#parts;
    const keeper = this.#keeper;
    const { state } = keeper;
    // To ask it would take it from the one before us, which does not wait for it to take over.
    if (
      !isRenewal &&
      state.standby &&
      (await askStandby(this.#parts.bento, state.standby, clock, ASK_MS)) === "took-over"
    ) {
      this.#fence();
      return;
    }
    // Of those that earlier instances added, the newest.
    const known = knownPoints(state.points, node.network, seen, circuits).slice(-2 * wantedPoints(keeper));
    this.#claims.expect(known.map(nameOf));
    if (takeover) this.#sayTookOver(takeover.noticedMs, signal).catch(() => undefined);

    const attach = async () => {
      const attaching = this.#replicas.attach(state.homes, state.replicas);
      this.#tick();
      await attaching;
    };
    // The one before us keeps its replicas until no client comes to it any more: clients that come to us wait so long.
    const replicas = isRenewal ? undefined : attach();
    this.#service = await startService({ keeper, node, clock, log, ...this.#handlers() }, known, signal);
    if (isRenewal) await this.#claims.all(clock, signal);
    else this.#addPoint(signal);
    const attaching = replicas ?? attach();
    attaching.catch(() => undefined);
    if (isRenewal) await this.#takeCharge(signal);
    // Before replicas are attached to: the box of one of them may be dead, and take long to say nothing.
    else this.#beginStandby();
    await attaching;
    this.#sayStarted();
    this.#reports.now();
  }

  /** What happens to the service's points. */
  #handlers(): Omit<ServiceParts, "keeper" | "node" | "clock" | "log"> {
    return {
      onIntroduction: (material, point) => {
        const name = nameOf(point);
        this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
        this.#introductions.take(material);
      },
      onRefused: () => {
        this.#introductions.refused++;
      },
      onSeen: (point, entry) => this.#parts.seen.add(nameOf(point), entry),
      onPointClaimed: (point) => this.#pointClaimed(point),
      onPointLost: async (point, loss) => this.#pointLost(point, loss),
      onPublished: (published) => this.#published(published),
    };
  }

  /** Lets the one before us go, when the standby hears from us: else it would hear of nobody, and take over. */
  async #takeCharge(signal: AbortSignal): Promise<void> {
    const { clock } = this.#parts;
    this.#beginStandby();
    for (let waitedMs = 0; this.#standby?.isWaiting === false && waitedMs < STANDBY_MS; waitedMs += TICK_MS)
      await clock.sleep(TICK_MS, signal);
    await this.#keeper.change({ inCharge: this.#keeper.state.epoch });
  }

  /** For clients that came while nobody was there. Not awaited: everybody else comes in by the points that there were. */
  #addPoint(signal: AbortSignal): void {
    if (this.#claims.wanted === 0 || this.#claims.wanted >= POINTS_MAX) return;
    this.#service?.addPoint(signal).catch((error: unknown) => {
      this.#parts.log.info("no further introduction point", { error: messageOf(error) });
    });
  }

  /** What an owner says. */
  async obey(message: OwnerMessage): Promise<void> {
    if ("watch" in message) {
      this.#reports.watch(message.watch);
      return;
    }
    // Whoever says it to one that leaves says it again to the one that comes.
    await this.#renewal.settled();
    if (this.#isOver) return;
    if ("renew" in message) {
      await this.#keeper.change({ renew: message.renew });
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
    this.#renewal.leave();
    this.#reports.leave();
    for (const stop of this.#stops.splice(0)) stop();
    this.#service?.[Symbol.dispose]();
    this.#parts.node[Symbol.dispose]();
    const standby = this.#dismissesStandby ? this.#standby?.dismiss() : this.#standby?.leave();
    await Promise.all([this.#replicas.leave(), standby, this.#parts.seen.flush()]);
  }

  #tick(): void {
    if (this.#isOver) return;
    this.#replicas.tick();
    this.#introductions.retry();
    this.#renewal.tick();
    const stop = this.#parts.clock.after(TICK_MS, () => this.#tick());
    this.#stops.splice(0, this.#stops.length, stop);
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

  #pointClaimed(point: IntroductionPoint): void {
    this.#parts.outbox.event({ kind: "point-claimed", relay: point.relay.fingerprint });
    this.#claims.add(nameOf(point));
  }

  /** Says so when clients come to us by all the points that there were. */
  async #sayTookOver(noticedMs: number, signal: AbortSignal): Promise<void> {
    const { clock, outbox } = this.#parts;
    await this.#claims.all(clock, signal);
    if (!this.#isOver) outbox.event({ kind: "took-over", afterMs: clock.now() - noticedMs });
  }

  #beginStandby(): void {
    if (this.#isOver) return;
    this.#standby = keepStandby({
      ...this.#parts,
      keeper: this.#keeper,
      onTookOver: () => this.#fence(),
      settled: async () => this.#renewal.settled(),
    });
  }

  /** Whether a lost point is replaced: not when somebody else has the service now. */
  async #pointLost(point: IntroductionPoint, { isByRelay, reason }: PointLoss): Promise<PointLostAnswer> {
    const { outbox, log, storage, clock } = this.#parts;
    this.#counts.delete(nameOf(point));
    await this.#renewal.settled();
    if (this.#isOver) return "leave";
    outbox.event({ kind: "point-lost", relay: point.relay.fingerprint });
    log.info("introduction point lost", { reason: reason.message });
    if (!isByRelay) return "replace";
    // That one takes the standby as well.
    if (await hasSuccessor(storage, this.#keeper.state.epoch)) return this.#fence({ leavesStandby: true });
    const standby = this.#standby;
    if (!standby) return "replace";
    const isEvident = () => this.#replicas.wasTakenOver || this.#service?.introductionPoints.length === 0;
    const facts = { clock, standby, isEvident, isOver: () => this.#isOver };
    return (await isFencedOff(facts)) ? this.#fence() : "replace";
  }

  /** Somebody else has the service, and the standby is not ours any more: it must not take it from them. */
  #fence({ leavesStandby = false }: { readonly leavesStandby?: boolean } = {}): "leave" {
    if (!this.#isOver) {
      this.#parts.outbox.event({ kind: "fenced-off" });
      this.#dismissesStandby = !leavesStandby;
      this.#leave();
    }
    return "leave";
  }

  #leave(): void {
    this.#isOver = true;
    this.#ended.resolve("fenced-off");
  }

  async #stop(): Promise<void> {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#service?.[Symbol.dispose]();
    const [ended] = await Promise.all([this.#replicas.end(), this.#standby?.end()]);
    this.#parts.outbox.say({ stopped: ended });
    this.#ended.resolve("stopped");
  }

  /** undefined: it has not begun, or is over. */
  #state(): LoadBalancerReport | undefined {
    if (this.#isOver || !this.#service) return undefined;
    const { total, perSecond, waiting, dropped, refused } = this.#introductions;
    const points = this.#service.introductionPoints;
    return {
      nowMs: this.#parts.clock.now(),
      address: this.#service.address,
      role: "primary",
      introductionPoints: points.map((point) => ({
        relay: point.relay.fingerprint,
        introductions: this.#counts.get(nameOf(point)) ?? 0,
      })),
      introductions: { total, perSecond, waiting, dropped, refused },
      scale: this.#replicas.scale,
      replicas: this.#replicas.reports,
      standby: this.#standby ? { box: this.#standby.box, isReady: this.#standby.isWaiting } : null,
    };
  }
}
