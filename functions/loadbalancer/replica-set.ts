// All replicas: which of them gets the next client, when another one is started and when one is retired, and on which box.
// Boundary: boxes that refuse, die or are slow. Nothing here waits for one of them while clients do.

import type { Bento, Package } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf, systemCode } from "../../src/base/errors.ts";
import type { LoadBalancerEvent, ReplicaReport, ScaleSettings } from "../../src/wire/loadbalancer.ts";
import type { ReplicaStart } from "../replica/protocol.ts";
import { BoxBackoff } from "./box-backoff.ts";
import { chooseReplica } from "./choice.ts";
import { openInTime } from "./in-time.ts";
import type { Introduction } from "./introductions.ts";
import { rehearse } from "./rehearsal.ts";
import { ReplicaHomes } from "./replica-homes.ts";
import { type ReplicaHost, ReplicaLink } from "./replica-link.ts";
import { ReplicaRenewal } from "./replica-renewal.ts";
import { type Carried, carriedBy, Surplus, wantsMore } from "./scaling.ts";
import type { KeptHome, KeptReplica } from "./state.ts";

export interface ReplicaSetParts {
  readonly bento: Bento;
  readonly clock: Clock;
  readonly epoch: number;
  readonly boxes: readonly string[];
  readonly pack: Package;
  /** Argument of a new replica. */
  readonly start: ReplicaStart;
  readonly site: () => AsyncIterable<Uint8Array>;
  readonly nextId: () => number;
  readonly onEvent: (event: LoadBalancerEvent) => void;
  /** Some replica may take introductions again. */
  readonly onRoom: () => void;
  /** An introduction that was given in vain. */
  readonly onAgain: (introduction: Introduction) => void;
  /** To be kept. Resolves when it is. */
  readonly onChange: (kept: {
    readonly homes: KeptHome[];
    readonly replicas: KeptReplica[];
  }) => Promise<void>;
  readonly uniform?: () => number;
}

/** When this was not called for so long, we were held up ourselves: milliseconds. */
const STALL_MS = 1000;
/** After somebody else has attached to a replica, none is started for this long: milliseconds. */
export const TAKEN_OVER_MS = 10_000;
/** For attaching to a replica that an earlier instance, or the primary, had: nothing is started in its place meanwhile. */
export const ATTACH_MS = 20_000;
/** A replica that does not serve after this long is given up. */
export const START_MS = 120_000;

interface Starting {
  readonly id: number;
  readonly box: string;
  readonly atMs: number;
}

export class ReplicaSet {
  readonly #parts: ReplicaSetParts;
  readonly #links = new Map<number, ReplicaLink>();
  /** Asked for, not attached yet. */
  readonly #asking = new Map<number, Starting>();
  readonly #homes: ReplicaHomes;
  readonly #backoff: BoxBackoff;
  /** Attached to, and not heard of yet: they were started long ago. */
  readonly #known = new Set<number>();
  readonly #ended = new AbortController();
  #scale: ScaleSettings;
  #tellsClients = false;
  #takenOverMs: number | undefined;
  #tickedMs: number;
  #isRehearsing = false;
  readonly #renewal: ReplicaRenewal;
  readonly #surplus: Surplus;

  constructor(scale: ScaleSettings, parts: ReplicaSetParts) {
    this.#scale = scale;
    this.#parts = parts;
    this.#tickedMs = parts.clock.now();
    const { bento, clock, pack } = parts;
    const { signal } = this.#ended;
    this.#backoff = new BoxBackoff(clock);
    this.#surplus = new Surplus(clock);
    this.#renewal = new ReplicaRenewal(clock, (box) => this.#homes.runtimeMs(box));
    this.#homes = new ReplicaHomes({ bento, clock, pack, signal, onChange: async () => this.#changed() });
  }

  /** Takes up with what an earlier instance, or the primary, had. Resolves when each was tried. */
  async attach(homes: readonly KeptHome[], replicas: readonly KeptReplica[]): Promise<void> {
    this.#homes.add(homes);
    await Promise.all(replicas.map(async (replica) => this.#attach(replica)));
    await this.#changed();
  }

  get scale(): ScaleSettings {
    return this.#scale;
  }

  /** Somebody else has attached to one of them. */
  get wasTakenOver(): boolean {
    return this.#takenOverMs !== undefined;
  }

  /** Replicas that a client could be sent to now. */
  get serving(): number {
    return this.#all().filter(({ state }) => state === "serving").length;
  }

  get reports(): ReplicaReport[] {
    const asking = [...this.#asking.values()].map(({ id, box, atMs }) => unstarted(id, box, atMs));
    return [...this.#all().map(({ report }) => report), ...asking].toSorted((a, b) => a.id - b.id);
  }

  setScale(scale: ScaleSettings): void {
    this.#scale = scale;
    this.#surplus.reset();
    this.tick();
  }

  /** Whether replicas are to tell of each client: that costs bytes of the grant. */
  setTellsClients(tells: boolean): void {
    if (this.#tellsClients === tells) return;
    this.#tellsClients = tells;
    for (const link of this.#links.values()) link.sendSettings();
  }

  /** False: no replica can take it now. */
  give(introduction: Introduction): boolean {
    const { choice } = this.#scale;
    const link = chooseReplica(this.#all(), choice, introduction.replica, this.#parts.uniform);
    link?.give(introduction);
    return link !== undefined;
  }

  /** To be called several times a second. */
  tick(): void {
    if (this.#ended.signal.aborted) return;
    const sinceMs = this.#parts.clock.now() - this.#tickedMs;
    this.#tickedMs += sinceMs;
    for (const link of this.#links.values()) {
      // What came meanwhile has not been read yet.
      if (sinceMs > STALL_MS) link.excuse(sinceMs);
      link.tick();
      if (link.isSilent && link.hasPending) this.#giveAgain(link);
      const { startedAtMs } = link.place;
      if (link.report.state === "starting" && this.#parts.clock.now() - startedAtMs > START_MS)
        void link.leave("it did not begin to serve in time");
    }
    this.#renew();
    this.#grow();
    this.#shrink();
    this.#rehearse();
  }

  /** Ends every replica and removes their functions. */
  async end(): Promise<{ readonly replicasEnded: number; readonly left: string[] }> {
    this.#ended.abort(new Error("the load balancer was stopped"));
    const count = this.#links.size;
    for (const link of this.#links.values()) link.end();
    const left = await this.#homes.end();
    await this.leave();
    return { replicasEnded: count, left };
  }

  /** Leaves the replicas as they are. */
  async leave(): Promise<void> {
    this.#ended.abort(new Error("the load balancer ends"));
    await Promise.all([...this.#links.values()].map(async (link) => link.leave("left")));
  }

  #all(): ReplicaLink[] {
    return [...this.#links.values()];
  }

  #giveAgain(link: ReplicaLink): void {
    for (const introduction of link.takePending()) this.#parts.onAgain(introduction);
  }

  #carried(): Carried {
    return carriedBy(this.#all(), this.#asking.size);
  }

  #renew(): void {
    if (this.#isTakenOver) return;
    const links = this.#all();
    const done = this.#renewal.settle(this.#links, (id) => this.#asking.has(id));
    if (done === "waits") return;
    if (done) {
      done.retire();
      void this.#changed();
    }
    const due = this.#carried().starting === 0 ? this.#renewal.due(links) : undefined;
    const box = due ? this.#freeBox() : undefined;
    if (!due || box === undefined) return;
    const id = this.#parts.nextId();
    this.#renewal.begin(due, id);
    void this.#start(box, id);
  }

  /** Whoever attached to a replica may have the whole service: then nothing is to be started any more. */
  get #isTakenOver(): boolean {
    return this.#parts.clock.now() - (this.#takenOverMs ?? Number.NEGATIVE_INFINITY) < TAKEN_OVER_MS;
  }

  #grow(): void {
    if (this.#isTakenOver) return;
    while (wantsMore(this.#carried(), this.#scale)) {
      const box = this.#freeBox();
      if (box === undefined) return;
      void this.#start(box, this.#parts.nextId());
    }
  }

  #shrink(): void {
    if (this.#surplus.isOneTooMany(this.#carried(), this.#scale)) this.#retireOne();
  }

  /** One that has not long to go, or the one with the fewest clients; of several the youngest. */
  #retireOne(): void {
    const rank = (link: ReplicaLink) => (this.#renewal.isDue(link) ? 0 : 1);
    const [link] = this.#all()
      .filter(({ state }) => state === "serving")
      .toSorted((a, b) => rank(a) - rank(b) || a.connections - b.connections || b.place.id - a.place.id);
    link?.retire();
    void this.#changed();
  }

  /** The box with the fewest replicas; of several the first in the owner's order. */
  #freeBox(isFitting: (box: string) => boolean = () => true): string | undefined {
    const counts = new Map<string, number>();
    const count = (box: string) => counts.set(box, (counts.get(box) ?? 0) + 1);
    for (const { place } of this.#links.values()) count(place.box);
    for (const { box } of this.#asking.values()) count(box);
    return this.#parts.boxes
      .filter((box) => isFitting(box) && this.#backoff.isFree(box))
      .toSorted((a, b) => (counts.get(a) ?? 0) - (counts.get(b) ?? 0))[0];
  }

  async #start(box: string, id: number): Promise<void> {
    const { clock, start } = this.#parts;
    const starting = { id, box, atMs: clock.now() };
    this.#asking.set(starting.id, starting);
    try {
      const far = await this.#homes.run(box, start);
      if (this.#ended.signal.aborted) {
        await far.close();
        return;
      }
      const place = { id: starting.id, box, instance: far.instance, startedAtMs: starting.atMs };
      this.#links.set(place.id, new ReplicaLink(this.#host(), place, far));
    } catch (error) {
      if (!this.#ended.signal.aborted) this.#refused(box, error);
    } finally {
      this.#asking.delete(starting.id);
    }
  }

  /**
   * Brings package and site to the boxes that will be needed next, one after the other, while nothing else is to be done:
   * a replica that is started there later serves within a second or two.
   */
  #rehearse(): void {
    const { replicasMin, replicasMax } = this.#scale;
    const { count, starting } = this.#carried();
    if (this.#isRehearsing || starting > 0 || count < Math.max(1, replicasMin)) return;
    if (this.#homes.size >= replicasMax) return;
    const box = this.#freeBox((one) => !this.#homes.has(one));
    if (box === undefined) return;
    this.#isRehearsing = true;
    void this.#rehearseAt(box);
  }

  async #rehearseAt(box: string): Promise<void> {
    try {
      const { start, site } = this.#parts;
      await using far = await this.#homes.run(box, { ...start, isRehearsal: true });
      await rehearse(far, site, this.#ended.signal);
    } catch (error) {
      if (this.#ended.signal.aborted) return;
      this.#refused(box, error);
    } finally {
      this.#isRehearsing = false;
    }
  }

  async #attach(replica: KeptReplica): Promise<void> {
    const { id, box, instance, startedAtMs, isRetiring } = replica;
    // It counts as starting meanwhile: nothing is started in its place.
    this.#asking.set(id, { id, box, atMs: startedAtMs });
    try {
      const { bento, clock } = this.#parts;
      const far = await openInTime(bento, { box, instance }, { clock, limitMs: ATTACH_MS });
      this.#known.add(id);
      this.#links.set(
        id,
        new ReplicaLink(this.#host(), { id, box, instance, startedAtMs }, far, { isRetiring }),
      );
    } catch (error) {
      this.#parts.onEvent({ kind: "replica-lost", id, box, reason: messageOf(error) });
    } finally {
      this.#asking.delete(id);
    }
  }

  #host(): ReplicaHost {
    const { bento, clock, epoch, site, onRoom, onAgain } = this.#parts;
    const tells = () => this.#tellsClients;
    return {
      bento,
      clock,
      epoch,
      get tellsClients() {
        return tells();
      },
      site,
      onServing: (link) => void this.#serving(link),
      onReport: onRoom,
      onFailed: (_link, introduction) => onAgain(introduction),
      onTakenOver: () => {
        this.#takenOverMs = clock.now();
      },
      onOver: (link, how) => this.#over(link, how),
    };
  }

  async #serving(link: ReplicaLink): Promise<void> {
    const { id, box, startedAtMs } = link.place;
    const { clock, onEvent, onRoom } = this.#parts;
    this.#backoff.succeeded(box);
    if (!this.#known.delete(id))
      onEvent({ kind: "replica-started", id, box, afterMs: clock.now() - startedAtMs });
    onRoom();
    await this.#changed();
  }

  #over(link: ReplicaLink, { isDone, reason }: { readonly isDone: boolean; readonly reason: string }): void {
    const { id, box } = link.place;
    this.#links.delete(id);
    this.#known.delete(id);
    if (this.#ended.signal.aborted) return;
    this.#giveAgain(link);
    if (isDone) {
      this.#parts.onEvent({ kind: "replica-retired", id, box });
    } else {
      this.#backoff.failed(box);
      this.#parts.onEvent({ kind: "replica-lost", id, box, reason });
    }
    void this.#changed();
    this.tick();
  }

  #refused(box: string, error: unknown): void {
    this.#backoff.failed(box);
    const code = systemCode(error) ?? "failed";
    this.#parts.onEvent({ kind: "replica-refused", box, code, message: messageOf(error) });
  }

  /** Those that do not serve yet are not kept: the next instance could not know how far they came. */
  async #changed(): Promise<void> {
    const replicas = this.#all()
      .filter(({ report }) => report.state !== "starting")
      .map(({ place, isRetiring }) => ({ ...place, isRetiring }));
    await this.#parts.onChange({ homes: this.#homes.kept, replicas });
  }
}

function unstarted(id: number, box: string, startedAtMs: number): ReplicaReport {
  const counts = {
    connections: 0,
    bytesPerSecond: 0,
    bytesTotal: 0,
    cpuPercent: 0,
    given: 0,
    met: 0,
    failed: 0,
  };
  return { id, box, state: "starting", startedAtMs, ...counts };
}
