// An onion service: introduction points kept up, descriptors kept published, introductions opened and handed on.
// What answers them is up to the owner: `meetClient` here, or a replica elsewhere that is given the material.
// Boundary: relays of the network, and clients who know the address; both may be hostile, neither can make it grow.
// Spec: rend-spec-v3 2.2 (publishing), 3.1, 3.3; C tor's numbers for rotation and republication.

import { type Clock, systemClock } from "../../base/clock.ts";
import { BentoError, messageOf } from "../../base/errors.ts";
import { type Log, silentLog } from "../../base/log.ts";
import type { Circuit } from "../circuit/circuit.ts";
import { vegasParameters } from "../circuit/vegas.ts";
import type { CircuitBuilder } from "../circuit-builder.ts";
import { blindKey, type ExpandedKey, type TimePeriod } from "../crypto/blinding.ts";
import { directoryPost } from "../directory/directory-client.ts";
import type { Network, Relay } from "../directory/network.ts";
import { INTRODUCTION_POINTS_MAX } from "../limits.ts";
import type { Paths } from "../paths.ts";
import { subcredentialOf } from "./credentials.ts";
import { encodeDescriptor } from "./descriptor.ts";
import type { RendezvousMaterial } from "./handover.ts";
import {
  generateIntroductionSecrets,
  type IntroductionSecrets,
  ReplayCache,
  readIntroduction,
} from "./introduction.ts";
import { claimIntroductionPoint } from "./introduction-circuit.ts";
import { onionAddress } from "./onion-address.ts";
import {
  currentPeriod,
  type DescriptorPlace,
  directoriesOf,
  type PeriodOptions,
  periodStartMs,
  servicePlaces,
} from "./time-period.ts";

export interface OnionServiceOptions extends PeriodOptions {
  readonly builder: CircuitBuilder;
  readonly paths: Paths;
  readonly identity: ExpandedKey;
  /** Called for each genuine introduction, replays left out. Must not throw. */
  readonly onIntroduction: (material: RendezvousMaterial, point: IntroductionPoint) => void;
  /** An introduction that was not answered, by the code of its error: it did not open, or was there before. */
  readonly onRefused?: (code: string) => void;
  /** Told of each introduction, 16 bytes: whoever keeps them for `KnownPoint.seen` keeps replays out of a next life, too. */
  readonly onSeen?: (point: IntroductionPoint, entry: Uint8Array) => void;
  readonly onPointClaimed?: (point: IntroductionPoint) => void;
  /**
   * A point's circuit is gone. `replace` (the default): claim another with new keys, and publish. `leave`: somebody else
   * may hold it now, such as a standby with the same keys, whom a replacement would work against.
   */
  readonly onPointLost?: (
    point: IntroductionPoint,
    loss: PointLoss,
  ) => PointLostAnswer | Promise<PointLostAnswer>;
  /** Awaited before points that are new are published: what is kept nowhere could not be claimed in a next life. */
  readonly onPoints?: (points: readonly IntroductionPoint[]) => Promise<void>;
  /** Both descriptors are out. */
  readonly onPublished?: (published: Published) => void;
  /** Default 3. */
  readonly introductionPoints?: number;
  /** X25519 public keys of the only clients that may come; none: everybody. */
  readonly clients?: readonly Uint8Array[];
  readonly clock?: Clock;
  readonly log?: Log;
}

/** A point that this service, or a standby with the same keys, can claim. */
export interface IntroductionPoint {
  readonly relay: Relay;
  readonly secrets: IntroductionSecrets;
}

/** A point of an earlier life, or of a primary whose standby this is. */
export interface KnownPoint extends IntroductionPoint {
  /** Open, and ends at the point's relay; the service's from then on. Otherwise one is built. */
  readonly circuit?: Circuit | undefined;
  /** What `onSeen` told of: not answered again. */
  readonly seen?: Iterable<Uint8Array>;
}

export interface PointLoss {
  readonly reason: BentoError;
  /**
   * A relay ended the circuit, not the link below it: so it is when somebody else has claimed the point, and also when a
   * relay on the way is gone. They do not say which: relays hand on no reasons.
   */
  readonly isByRelay: boolean;
}

/** When, in Unix milliseconds, and at which directories: what says when they must be published again. */
export interface Published {
  readonly atMs: number;
  readonly places: string;
}

export type PointLostAnswer = "replace" | "leave";

export interface StartOptions {
  /** They are claimed; nothing is published unless none can be. */
  readonly known?: readonly KnownPoint[];
  /** What `onPublished` told of the descriptors with these points. */
  readonly published?: Published | undefined;
  readonly signal?: AbortSignal | undefined;
}

interface Claimed extends IntroductionPoint {
  readonly circuit: Circuit;
}

const MINUTE_MS = 60_000;
/** C tor publishes again after 60 to 120 minutes; directories keep a descriptor for three hours. */
const REPUBLISH_MS = [60 * MINUTE_MS, 120 * MINUTE_MS] as const;
/** C tor gives a point up after 16,384 to 32,768 introductions. */
const INTRODUCTIONS_MAX = [16_384, 32_768] as const;
/** Between attempts to replace a lost introduction point. */
const RETRY_MS = 1000;
const RETRY_MS_MAX = 60_000;
const UPLOADS_AT_ONCE = 4;
/** Relays tried for one introduction point before the service gives up starting. */
const CLAIM_TRIES = 3;

export class OnionService implements Disposable {
  readonly address: string;
  readonly #options: OnionServiceOptions;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #ended = new AbortController();
  readonly #points = new Map<IntroductionPoint, Claimed>();
  /** Those of an earlier life, claimed or not yet. */
  #known: readonly IntroductionPoint[] = [];
  /** By number of the period. */
  readonly #periods = new Map<
    number,
    { readonly blinded: ExpandedKey; readonly subcredential: Uint8Array }
  >();
  #publishing: Promise<void> = Promise.resolve();
  #published = "";
  #revision = 0;
  #stopTimer: () => void = () => undefined;

  private constructor(options: OnionServiceOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#log = options.log ?? silentLog;
    this.address = onionAddress(options.identity.publicKey);
  }

  /**
   * Claims introduction points and publishes; resolves when both descriptors are at a directory each at least. With points
   * that are known, claims those and resolves when the first is claimed; those that cannot be are replaced.
   * Throws BentoError `onion-service`.
   */
  static async start(options: OnionServiceOptions, start: StartOptions = {}): Promise<OnionService> {
    const service = new OnionService(options);
    try {
      if (await service.#claimKnown(start)) {
        service.#published = start.published?.places ?? "";
        service.#scheduleRepublication(start.published?.atMs);
      } else {
        await service.#claimFirst(start.signal);
        await service.publish(start.signal);
      }
      return service;
    } catch (error) {
      service[Symbol.dispose]();
      throw error;
    }
  }

  /** Where clients can introduce themselves now: for a standby, or to keep over a restart. */
  get introductionPoints(): readonly IntroductionPoint[] {
    return [...this.#points.keys()];
  }

  /** Publishes both descriptors, whether or not anything changed. Throws BentoError `onion-service` when one is nowhere. */
  async publish(signal?: AbortSignal): Promise<void> {
    const previous = this.#publishing;
    const publishing = (async () => {
      await previous.catch(() => undefined);
      await this.#publishNow(signal);
    })();
    this.#publishing = publishing;
    return publishing;
  }

  /** Takes a newer consensus; publishes when descriptors belong elsewhere than before. */
  async update(network: Network, signal?: AbortSignal): Promise<void> {
    this.#options.paths.network = network;
    if (this.#placesText() !== this.#published) await this.publish(signal);
  }

  /**
   * One point more, and publishes: clients whose introductions failed at all others hold that against those for minutes
   * (C tor does for two), and find this one. Throws BentoError.
   */
  async addPoint(signal?: AbortSignal): Promise<void> {
    const others = [...this.#points.keys(), ...this.#known].map(({ relay }) => relay);
    const relay = this.#options.paths.meetingPoint(others);
    await this.#claim({ relay, secrets: generateIntroductionSecrets() }, signal);
    await this.publish(signal);
  }

  /** Leaves the introduction points. Circuits with clients are not this object's. Idempotent. */
  [Symbol.dispose](): void {
    this.#ended.abort(new BentoError("onion-service", "Onion service: it was stopped"));
    this.#stopTimer();
    for (const { circuit } of this.#points.values()) circuit.destroy();
    this.#points.clear();
  }

  get #wanted(): number {
    return Math.min(this.#options.introductionPoints ?? 3, INTRODUCTION_POINTS_MAX);
  }

  /** Whether any was claimed. */
  async #claimKnown({ known = [], signal }: StartOptions): Promise<boolean> {
    this.#known = known;
    const claims = known.map(async (point) => this.#claim(point, signal, point));
    try {
      await Promise.any(claims);
    } catch {
      signal?.throwIfAborted();
      return false;
    }
    for (const [index, claim] of claims.entries()) {
      const point = known[index];
      claim.catch(async () => {
        if (point) await this.#replace(point);
      });
    }
    return true;
  }

  /** Relays fail: each point has some tries, at a relay that no other point has. */
  async #claimFirst(signal: AbortSignal | undefined): Promise<void> {
    const taken: Relay[] = [];
    const claimOne = async (tries: number): Promise<void> => {
      const relay = this.#options.paths.meetingPoint(taken);
      taken.push(relay);
      try {
        await this.#claim({ relay, secrets: generateIntroductionSecrets() }, signal);
      } catch (error) {
        signal?.throwIfAborted();
        if (tries <= 1) throw error;
        await claimOne(tries - 1);
      }
    };
    await Promise.all(Array.from({ length: this.#wanted }, async () => claimOne(CLAIM_TRIES)));
  }

  async #claim(
    { relay, secrets }: IntroductionPoint,
    signal?: AbortSignal,
    { circuit: ready, seen = [] }: Partial<KnownPoint> = {},
  ): Promise<void> {
    const both = signal ? AbortSignal.any([signal, this.#ended.signal]) : this.#ended.signal;
    const { onSeen, onPointClaimed } = this.#options;
    const point = { relay, secrets };
    const circuit = ready?.isOpen === true ? ready : await this.#circuitTo(relay, both);
    const replays = new ReplayCache({ seen, onAdded: (entry) => onSeen?.(point, entry) });
    let left = between(INTRODUCTIONS_MAX);
    const onIntroduce = (body: Uint8Array) => {
      this.#introduced(body, point, replays);
      // Worn out: its loss brings a new one.
      if (--left === 0 || replays.isFull) circuit.destroy();
    };
    try {
      await claimIntroductionPoint(circuit, secrets, { onIntroduce, signal: both });
    } catch (error) {
      circuit.destroy();
      throw error;
    }
    this.#points.set(point, { ...point, circuit });
    onPointClaimed?.(point);
    void circuit.closed.then(async (reason) =>
      this.#lost(point, { reason, isByRelay: circuit.destroyReason !== undefined }),
    );
  }

  async #circuitTo(relay: Relay, signal: AbortSignal): Promise<Circuit> {
    const path = this.#options.paths.to(relay);
    return this.#built(this.#options.builder.build(path, { signal }), path);
  }

  async #built(building: Promise<Circuit>, path: ReturnType<Paths["to"]>): Promise<Circuit> {
    try {
      const circuit = await building;
      this.#options.paths.report(path, true);
      return circuit;
    } catch (error) {
      if (error instanceof BentoError && error.code === "onion-unreachable")
        this.#options.paths.report(path, false);
      throw error;
    }
  }

  #introduced(body: Uint8Array, point: IntroductionPoint, replays: ReplayCache): void {
    let material: RendezvousMaterial;
    try {
      material = readIntroduction(body, point.secrets, this.#subcredentials(), replays).finish();
    } catch (error) {
      // rend-spec-v3 3.3.2: what does not open is dropped; so is what came before. Neither is the point's fault.
      if (!(error instanceof BentoError)) throw error;
      this.#log.debug("introduction dropped", { code: error.code });
      this.#options.onRefused?.(error.code);
      return;
    }
    this.#options.onIntroduction(material, point);
  }

  async #lost(point: IntroductionPoint, loss: PointLoss): Promise<void> {
    if (!this.#points.delete(point)) return;
    const answer = (await this.#options.onPointLost?.(point, loss)) ?? "replace";
    if (answer === "replace") await this.#replace(point);
  }

  /** Another point takes a lost one's place, however long that takes. */
  async #replace(point: IntroductionPoint): Promise<void> {
    for (let waitMs = RETRY_MS; !this.#ended.signal.aborted; waitMs = Math.min(2 * waitMs, RETRY_MS_MAX)) {
      try {
        if (this.#points.size >= this.#wanted) {
          // There were more than were asked for: it is enough that nobody is sent to this one any more.
          await this.publish();
          return;
        }
        const others = [...this.#points.keys()].map(({ relay }) => relay);
        const relay = this.#options.paths.meetingPoint([...others, point.relay]);
        await this.#claim({ relay, secrets: generateIntroductionSecrets() });
        await this.publish();
        return;
      } catch (error) {
        this.#log.info("introduction point not replaced yet", { error: messageOf(error) });
        await this.#clock.sleep(waitMs, this.#ended.signal).catch(() => undefined);
      }
    }
  }

  async #publishNow(signal: AbortSignal | undefined): Promise<void> {
    const both = signal ? AbortSignal.any([signal, this.#ended.signal]) : this.#ended.signal;
    both.throwIfAborted();
    const places = servicePlaces(this.#options.paths.network.consensus, this.#options);
    const published = this.#placesText();
    await this.#options.onPoints?.(this.introductionPoints);
    await Promise.all(places.map(async (place) => this.#publishAt(place, both)));
    this.#published = published;
    this.#options.onPublished?.({ atMs: this.#clock.now(), places: published });
    this.#scheduleRepublication();
  }

  async #publishAt(place: DescriptorPlace, signal: AbortSignal): Promise<void> {
    const { builder, paths } = this.#options;
    const { blinded } = this.#keysOf(place.period);
    const document = this.#document(place.period);
    const directories = directoriesOf(paths.network, blinded.publicKey, place, "store");
    const failures: string[] = [];
    const queue = [...directories];
    const upload = async () => {
      for (let directory = queue.shift(); directory; directory = queue.shift()) {
        try {
          using circuit = await builder.build(paths.to(directory), { signal });
          await directoryPost(circuit, "/tor/hs/3/publish", document, { signal });
        } catch (error) {
          signal.throwIfAborted();
          failures.push(messageOf(error));
        }
      }
    };
    await Promise.all(Array.from({ length: UPLOADS_AT_ONCE }, upload));
    if (failures.length === directories.length)
      throw new BentoError(
        "onion-service",
        `Cannot publish: none of ${String(directories.length)} directories took it: ${failures[0] ?? ""}`,
      );
  }

  #document(period: TimePeriod): Uint8Array {
    const { paths, clients } = this.#options;
    const { consensus } = paths.network;
    const { blinded, subcredential } = this.#keysOf(period);
    const nowMs = this.#clock.now();
    // Rises with time, also over restarts and on a standby. Periods begin at different moments for different keys.
    // Directories refuse what is no newer: tenths of seconds, and never twice the same.
    const tenths = Math.floor((nowMs - periodStartMs(consensus, period)) / 100) + period.minutes * 1200;
    const revision = Math.max(1, tenths, this.#revision + 1);
    this.#revision = revision;
    return encodeDescriptor({
      blinded,
      subcredential,
      revision,
      nowMs,
      content: {
        introductionPoints: this.introductionPoints.map(({ relay, secrets }) => ({
          relay,
          authKey: secrets.auth.publicKey,
          encryptionKey: secrets.encryption.publicKey,
        })),
        sendmeIncrement: paths.network.usesCongestionControl
          ? vegasParameters(consensus.parameters, "onion").sendmeIncrement
          : undefined,
        isSingle: false,
      },
      ...(clients ? { clients } : {}),
    });
  }

  /** @param publishedAtMs in an earlier life: directories forget the descriptor when its time is over, not ours. */
  #scheduleRepublication(publishedAtMs?: number): void {
    this.#stopTimer();
    if (this.#ended.signal.aborted) return;
    const nowMs = this.#clock.now();
    const ageMs = Math.max(0, nowMs - (publishedAtMs ?? nowMs));
    this.#stopTimer = this.#clock.after(Math.max(0, between(REPUBLISH_MS) - ageMs), () => {
      this.publish().catch((error: unknown) => {
        this.#log.warn("onion service not published", { error: messageOf(error) });
        this.#scheduleRepublication();
      });
    });
  }

  /** Those of the period before, of this one and of the next: clients' consensuses may be older or newer than ours. */
  #subcredentials(): Uint8Array[] {
    const period = currentPeriod(this.#options.paths.network.consensus, this.#options);
    for (const number of this.#periods.keys())
      if (Math.abs(number - period.number) > 2) this.#periods.delete(number);
    return [0, 1, -1].map((by) => this.#keysOf({ ...period, number: period.number + by }).subcredential);
  }

  #keysOf(period: TimePeriod): { readonly blinded: ExpandedKey; readonly subcredential: Uint8Array } {
    let keys = this.#periods.get(period.number);
    if (!keys) {
      const { identity } = this.#options;
      const blinded = blindKey(identity, period);
      keys = { blinded, subcredential: subcredentialOf(identity.publicKey, blinded.publicKey) };
      this.#periods.set(period.number, keys);
    }
    return keys;
  }

  /** Says which directories the descriptors belong to: when it changes, they must be published again. */
  #placesText(): string {
    const { network } = this.#options.paths;
    return servicePlaces(network.consensus, this.#options)
      .flatMap((place) => {
        const { blinded } = this.#keysOf(place.period);
        const directories = directoriesOf(network, blinded.publicKey, place, "store");
        return [String(place.period.number), ...directories.map(({ fingerprint }) => fingerprint)];
      })
      .join(" ");
  }
}

function between([from, to]: readonly [number, number]): number {
  return from + Math.floor(Math.random() * (to - from));
}
