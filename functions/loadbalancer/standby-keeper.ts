// Sees to it that the service has a standby: on the first box of the owner's list that takes one, started again elsewhere when
// it is lost, replaced before its box ends it. Whoever is in charge keeps one, so also a standby that took over.
// Boundary: boxes that refuse, die, or are not reached, while what runs there goes on and may have taken the service over.

import type { Bento, FarSession, Json, Package } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import type { LoadBalancerEvent, StandbyPlace } from "../../src/wire/loadbalancer.ts";
import { BoxBackoff, REFUSED_MS_MAX } from "./box-backoff.ts";
import { END_MS, inTime, openInTime } from "./in-time.ts";
import { ASK_MS, LostStandbys } from "./lost-standbys.ts";
import { renewMarginMs } from "./renewal.ts";
import type { Seen } from "./seen.ts";
import { StandbyHomes, type StartedStandby } from "./standby-homes.ts";
import { StandbyLink } from "./standby-link.ts";
import { BEAT_MS, type StandbyStart } from "./standby-protocol.ts";
import type { KeptStandbyHome, KeptState } from "./state.ts";

export interface StandbyKeeperParts {
  /** Where it may be, in order of preference: one at least, none of them our own. */
  readonly boxes: readonly string[];
  /** What is installed there; undefined: it can be started only where it is installed already. */
  readonly pack: Package | undefined;
  readonly replicaBytes: number;
  readonly state: () => KeptState;
  /** The replica's package and the site. */
  readonly input: () => AsyncIterable<Uint8Array>;
  readonly seen: Seen;
  readonly bento: Bento;
  readonly clock: Clock;
  readonly log: Log;
  readonly onEvent: (event: LoadBalancerEvent) => void;
  /** Resolves when it is kept. */
  readonly onPlace: (place: StandbyPlace | null) => Promise<void>;
  readonly onHomes: (homes: readonly KeptStandbyHome[]) => Promise<void>;
  /** The function is at one more box, where a standby may be started. */
  readonly onReserve: (home: KeptStandbyHome) => void;
  readonly onTookOver: () => void;
  /** Resolves when no successor of this instance is on its way. */
  readonly settled: () => Promise<void>;
}

export const SILENT_MS_DEFAULT = 5000;
/** Between two tries to replace a standby whose time ends: milliseconds. */
const RENEW_RETRY_MS_MAX = 300_000;
/** For a box to start one: milliseconds. */
export const RUN_MS = 60_000;
/** After a standby was lost, or could not be placed: milliseconds. */
const PAUSE_MS = 1000;

export class StandbyKeeper {
  readonly #parts: StandbyKeeperParts;
  readonly #ended = new AbortController();
  readonly #backoff: BoxBackoff;
  readonly #homes: StandbyHomes;
  readonly #lost: LostStandbys;
  readonly #running: Promise<void>;
  #link: StandbyLink | undefined;
  #place: StandbyPlace | null;
  /** One has waited, and was not lost since. */
  #hasOne = false;
  #isInstalling = false;
  #isEnding = false;
  #renewNotBeforeMs = Number.NEGATIVE_INFINITY;

  constructor(parts: StandbyKeeperParts) {
    this.#parts = parts;
    const { pack, bento, clock, onHomes, onReserve, onTookOver } = parts;
    const { standby, standbyHomes: homes = [] } = parts.state();
    this.#place = standby;
    this.#backoff = new BoxBackoff(clock);
    this.#homes = new StandbyHomes({ bento, clock, pack, homes, onChange: onHomes, onInstalled: onReserve });
    this.#lost = new LostStandbys({ bento, clock, signal: this.#ended.signal, onTookOver });
    this.#running = this.#run();
  }

  /** Where it is, or is wanted. */
  get box(): string {
    return this.#place?.box ?? this.#parts.boxes[0] ?? "";
  }

  /** It has said of late that it waits for us to be silent. */
  get isWaiting(): boolean {
    return this.#link?.isWaiting ?? false;
  }

  /** When it last said so: Unix milliseconds. */
  get heardMs(): number {
    return this.#link?.heardMs ?? Number.NEGATIVE_INFINITY;
  }

  /** Whether there was another one, that may have taken over although this one waits. */
  get isUncertain(): boolean {
    return this.#lost.size > 0;
  }

  /** After how much silence it takes over: milliseconds. */
  get silentMs(): number {
    return this.#parts.state().start.standby?.silentMs ?? SILENT_MS_DEFAULT;
  }

  stateChanged(): void {
    this.#link?.stateChanged();
  }

  /** Leaves it as it is: it will take over. */
  async leave(): Promise<void> {
    this.#ended.abort(new Error("the load balancer ends"));
    await this.#link?.[Symbol.asyncDispose]();
    await this.#running;
  }

  /** Somebody else has the service: one that still waits for our silence must not take it from them. */
  async dismiss(): Promise<void> {
    const place = this.isWaiting ? this.#place : null;
    this.#ended.abort(new Error("the load balancer was fenced off"));
    const { bento, clock } = this.#parts;
    if (place) await inTime(bento.close(place.box, place.instance), END_MS, clock).catch(() => undefined);
    await this.leave();
  }

  /** Removes its function everywhere. */
  async end(): Promise<void> {
    this.#isEnding = true;
    // It hears of us until it is gone: else it would take over.
    await this.#homes.end();
    this.#ended.abort(new Error("the load balancer was stopped"));
    await this.leave();
  }

  async #run(): Promise<void> {
    const { onEvent, log } = this.#parts;
    const { signal } = this.#ended;
    let next = await this.#openEarlier();
    while (!signal.aborted) {
      let box = this.box;
      try {
        if (!next) box = await this.#freeBox();
        await using link = this.#linkTo(next ?? (await this.#start(box)), box);
        next = undefined;
        next = await this.#keepUp(link);
      } catch (error) {
        if (signal.aborted || this.#isEnding) return;
        log.info("standby lost", { error: messageOf(error) });
        onEvent({ kind: "standby-lost", box, reason: messageOf(error) });
        this.#hasOne = false;
        this.#backoff.failed(box);
        await this.#forget().catch(() => undefined);
      }
    }
  }

  /** The first that may be asked; waits for it. */
  async #freeBox(): Promise<string> {
    const { boxes, clock } = this.#parts;
    for (;;) {
      const able = boxes.filter((one) => this.#homes.canInstall || this.#homes.has(one));
      const box = able.find((one) => this.#backoff.isFree(one));
      if (box !== undefined) return box;
      const waitMs = Math.min(REFUSED_MS_MAX, ...able.map((one) => this.#backoff.waitMs(one)));
      await clock.sleep(waitMs, this.#ended.signal);
    }
  }

  /** The one that was there before. */
  async #openEarlier(): Promise<FarSession | undefined> {
    const { bento, log, clock } = this.#parts;
    const place = this.#place;
    if (!place) return undefined;
    try {
      const { signal } = this.#ended;
      return await openInTime(bento, place, { clock, limitMs: ASK_MS, signal });
    } catch (error) {
      if (this.#ended.signal.aborted) return undefined;
      log.info("standby not found", { error: messageOf(error) });
      this.#backoff.failed(place.box);
      await this.#forget().catch(() => undefined);
      return undefined;
    }
  }

  async #start(box: string): Promise<FarSession> {
    const startedAtMs = this.#parts.clock.now();
    const { far, home } = await this.#runInTime(box);
    try {
      this.#ended.signal.throwIfAborted();
      for await (const bytes of home.isFilled ? [] : this.#parts.input()) {
        this.#ended.signal.throwIfAborted();
        await far.send(bytes);
      }
      const { invocationToken, shutdownToken, runtimeMs, expiresAt } = home;
      await this.#placed({
        box,
        instance: far.instance,
        invocationToken,
        shutdownToken,
        startedAtMs,
        ...(runtimeMs === undefined ? {} : { runtimeMs }),
        ...(expiresAt === undefined ? {} : { expiresAt }),
      });
      return far;
    } catch (error) {
      await far.close().catch(() => undefined);
      throw error;
    }
  }

  /** Tor tries for minutes to reach a box that is dead: the next one is asked before. */
  async #runInTime(box: string): Promise<StartedStandby> {
    const running = this.#homes.run(box, (isFilled) => this.#argument(isFilled));
    try {
      return await inTime(running, RUN_MS, this.#parts.clock);
    } catch (error) {
      // One that comes after all is not wanted any more.
      running.then(
        async ({ far }) => far.close(),
        () => undefined,
      );
      throw error;
    }
  }

  #linkTo(far: FarSession, box: string): StandbyLink {
    const { state, seen, clock, onEvent, onTookOver } = this.#parts;
    const onReady = () => {
      this.#backoff.succeeded(box);
      void this.#homes.filled(box);
      // The next instance of one that waits is no news.
      if (!this.#hasOne) onEvent({ kind: "standby-ready", box });
      this.#hasOne = true;
    };
    this.#link = new StandbyLink(far, { state, seen, clock, onReady, onTookOver });
    return this.#link;
  }

  /** Until it is lost, or the next one is in its place. */
  async #keepUp(link: StandbyLink): Promise<FarSession> {
    const { clock } = this.#parts;
    let next: FarSession | undefined;
    let isRenewing = false;
    let failure: Error | undefined;
    link.lost.catch((error: unknown) => {
      failure = error instanceof Error ? error : new Error(String(error));
    });
    const renew = async () => {
      isRenewing = true;
      next = await this.#renew();
      isRenewing = false;
    };
    for (;;) {
      // The one before ends when the next one is there: that is no loss.
      if (next) return next;
      if (failure !== undefined && !isRenewing) throw failure;
      await link.beat().catch((error: unknown) => {
        if (!isRenewing && !next) throw error;
      });
      if (!isRenewing && this.#isDue) void renew();
      if (link.isReady) this.#installNext();
      await clock.sleep(BEAT_MS, this.#ended.signal);
    }
  }

  /** Its box ends it soon. */
  get #isDue(): boolean {
    const nowMs = this.#parts.clock.now();
    const { startedAtMs, runtimeMs } = this.#place ?? {};
    if (startedAtMs === undefined || runtimeMs === undefined || nowMs < this.#renewNotBeforeMs) return false;
    return nowMs >= startedAtMs + runtimeMs - renewMarginMs(runtimeMs);
  }

  /** Another instance of its function, which has what it needs but for our state; then the one before is ended. */
  async #renew(): Promise<FarSession | undefined> {
    const { bento, clock, log } = this.#parts;
    const place = this.#place;
    const marginMs = renewMarginMs(place?.runtimeMs ?? 0);
    this.#renewNotBeforeMs = clock.now() + Math.min(RENEW_RETRY_MS_MAX, marginMs / 5);
    if (!place) return undefined;
    let far: FarSession | undefined;
    try {
      const startedAtMs = clock.now();
      const args = [this.#argument(true)];
      far = await bento.run(place.box, { token: place.invocationToken }, { args });
      this.#ended.signal.throwIfAborted();
      // It hears of us until it is gone: else it would take over.
      await bento.close(place.box, place.instance);
      await this.#placed({ ...place, instance: far.instance, startedAtMs });
      return far;
    } catch (error) {
      log.info("standby not renewed", { error: messageOf(error) });
      await far?.close().catch(() => undefined);
      return undefined;
    }
  }

  /** Brings the function to the boxes whose turn may come, one after the other, while all is well. */
  #installNext(): void {
    const box = this.#parts.boxes.find((one) => !this.#homes.has(one) && this.#backoff.isFree(one));
    const mayInstall = this.#homes.canInstall && !this.#isInstalling && !this.#isEnding;
    if (box === undefined || !mayInstall) return;
    this.#isInstalling = true;
    this.#homes
      .install(box)
      .catch((error: unknown) => {
        this.#backoff.failed(box);
        this.#parts.log.info("no reserve for the standby there", { error: messageOf(error) });
      })
      .finally(() => {
        this.#isInstalling = false;
      });
  }

  async #placed(place: StandbyPlace): Promise<void> {
    this.#place = place;
    await this.#parts.onPlace(place);
  }

  /** What was at the place is not ours any more. Unless its box said that it has ended, it may have taken over. */
  async #forget(): Promise<void> {
    const place = this.#place;
    const hasEnded = this.#link?.hasEnded === true;
    this.#link = undefined;
    // A successor of ours takes the session, before it lets us go: then it is all right.
    await this.#parts.clock.sleep(PAUSE_MS, this.#ended.signal);
    await this.#parts.settled();
    this.#ended.signal.throwIfAborted();
    this.#place = null;
    if (!place) return;
    if (!hasEnded) this.#lost.add(place);
    await this.#parts.onPlace(null).catch(() => undefined);
  }

  #argument(isAgain: boolean): Json {
    const { start } = this.#parts.state();
    const siteBytes = start.serve.kind === "files" ? start.serve.siteBytes : 0;
    const { replicaBytes } = this.#parts;
    const standby = { version: 1, replicaBytes, siteBytes, silentMs: this.silentMs } as const;
    return { standby: isAgain ? { ...standby, isAgain } : standby } satisfies StandbyStart;
  }
}
