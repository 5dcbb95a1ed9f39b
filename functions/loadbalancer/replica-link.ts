// One replica as its load balancer sees it: the session with it, what it was given, what it says of itself.
// Boundary: the replica's box, which may be anybody's. What it says is read strictly; a replica that breaks the rules is left.

import type { Bento, FarSession } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf, systemCode } from "../../src/base/errors.ts";
import type { ReplicaReport, ReplicaState } from "../../src/wire/loadbalancer.ts";
import { decodeMessage, encodeCommand, type ReplicaCommand, type ReplicaLoad } from "../replica/protocol.ts";
import type { Introduction } from "./introductions.ts";

/** Replicas report twice a second. */
export const SILENT_MS = 1500;
/** A replica that is not heard of for this long is forgotten; it ends by itself when its clients have gone. */
export const LOST_MS = 60_000;
/** Introductions given and not answered. */
export const PENDING_MAX = 512;
const REOPEN_MS = 1000;
const REOPEN_MS_MAX = 8000;

/** What the load balancer does for its replicas. */
export interface ReplicaHost {
  readonly bento: Bento;
  readonly clock: Clock;
  readonly epoch: number;
  /** Whether reports are to tell of each client. */
  readonly tellsClients: boolean;
  /** The site, for a replica that has it not. */
  site(): AsyncIterable<Uint8Array>;
  onServing(link: ReplicaLink): void;
  /** It has room again, or says how it is. */
  onReport(link: ReplicaLink): void;
  onFailed(link: ReplicaLink, introduction: Introduction, reason: string): void;
  /** Somebody else has attached to it, as a standby does that takes over. */
  onTakenOver(): void;
  /** Called once. What was given and not answered is in `pending`. */
  onOver(link: ReplicaLink, how: { readonly isDone: boolean; readonly reason: string }): void;
}

export interface ReplicaPlace {
  readonly id: number;
  readonly box: string;
  readonly instance: string;
  readonly startedAtMs: number;
}

/** Of a replica that has not reported yet. */
export const NO_LOAD: ReplicaLoad = {
  connections: 0,
  bytesPerSecond: 0,
  bytesTotal: 0,
  cpuPercent: 0,
  met: 0,
  failed: 0,
  answered: 0,
  clients: [],
};

export class ReplicaLink {
  readonly place: ReplicaPlace;
  readonly #host: ReplicaHost;
  readonly #pending = new Map<number, Introduction>();
  #far: FarSession;
  #interruptions = 0;
  #phase: "starting" | "serving" | "retiring" | "over" = "starting";
  #heardMs: number;
  #load = NO_LOAD;
  #given = 0;
  #isSiteSent = false;

  /** @param far attached already; ours from now on. */
  constructor(
    host: ReplicaHost,
    place: ReplicaPlace,
    far: FarSession,
    options: { readonly isRetiring?: boolean } = {},
  ) {
    this.#host = host;
    this.place = place;
    this.#far = far;
    this.#heardMs = host.clock.now();
    if (options.isRetiring === true) this.#phase = "retiring";
    void this.#listen();
    this.#sendSettings();
    if (options.isRetiring === true) this.#send({ kind: "retire", epoch: host.epoch });
  }

  get state(): ReplicaState {
    if (this.#phase === "starting" || this.#phase === "over") return "starting";
    if (this.isSilent) return "silent";
    return this.#phase;
  }

  get isSilent(): boolean {
    return this.silentMs > SILENT_MS;
  }

  /** Since when nothing was heard: milliseconds. */
  get silentMs(): number {
    return this.#host.clock.now() - this.#heardMs;
  }

  /** We were not there ourselves for so long: that is not the replica's silence. */
  excuse(ms: number): void {
    this.#heardMs = Math.min(this.#host.clock.now(), this.#heardMs + ms);
  }

  get isRetiring(): boolean {
    return this.#phase === "retiring";
  }

  get isOver(): boolean {
    return this.#phase === "over";
  }

  /** Whether it may get another introduction now. */
  get takes(): boolean {
    return this.#phase === "serving" && !this.isSilent && this.#pending.size < PENDING_MAX;
  }

  /** Clients that it has, and those that were sent to it since it said so. */
  get connections(): number {
    return this.#load.connections + Math.max(0, this.#given - this.#load.answered);
  }

  get load(): ReplicaLoad {
    return this.#load;
  }

  get report(): ReplicaReport {
    const { id, box, startedAtMs } = this.place;
    const { connections, bytesPerSecond, bytesTotal, cpuPercent, met, failed, clients } = this.#load;
    const shown = clients.length > 0 ? { clients } : {};
    const counts = { connections, bytesPerSecond, bytesTotal, cpuPercent, met, failed };
    return { id, box, state: this.state, startedAtMs, given: this.#given, ...counts, ...shown };
  }

  give(introduction: Introduction): void {
    introduction.tries++;
    introduction.replica = this.place.id;
    this.#given++;
    this.#pending.set(introduction.number, introduction);
    this.#meet(introduction);
  }

  /** What was given and not answered; the link forgets it. */
  takePending(): Introduction[] {
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    return pending;
  }

  get hasPending(): boolean {
    return this.#pending.size > 0;
  }

  /** No new clients; it ends when the last one has gone. */
  retire(): void {
    if (this.#phase !== "serving") return;
    this.#phase = "retiring";
    this.#send({ kind: "retire", epoch: this.#host.epoch });
  }

  /** Tells it anew who balances, and whether it tells of clients. */
  sendSettings(): void {
    this.#sendSettings();
  }

  /** Ends it and its clients' circuits. */
  end(): void {
    this.#send({ kind: "end", epoch: this.#host.epoch });
  }

  /** Leaves the session; the replica goes on. Idempotent. */
  async leave(reason: string): Promise<void> {
    this.#over(false, reason);
    await this.#far.detach().catch(() => undefined);
  }

  /** To be called every now and then. */
  tick(): void {
    if (this.#phase === "over") return;
    if (this.#far.interruptions !== this.#interruptions) {
      // What was on its way when the connection broke may not have arrived; numbers keep it from counting twice.
      this.#interruptions = this.#far.interruptions;
      this.#sendSettings();
      if (this.#phase === "retiring") this.#send({ kind: "retire", epoch: this.#host.epoch });
      for (const introduction of this.#pending.values()) this.#meet(introduction);
    }
    if (this.#phase !== "starting" && this.silentMs > LOST_MS) void this.leave("not heard of for a minute");
  }

  #meet({ number, material }: Introduction): void {
    this.#send({ kind: "meet", epoch: this.#host.epoch, number, material });
  }

  #sendSettings(): void {
    const { epoch, tellsClients } = this.#host;
    this.#send({ kind: "settings", epoch, tellsClients });
  }

  #send(command: ReplicaCommand): void {
    this.#far.send(encodeCommand(command)).catch(() => {
      // The session's other half says what is wrong; what may be lost is sent again after an interruption.
    });
  }

  async #listen(): Promise<void> {
    for (let waitMs = REOPEN_MS; ; waitMs = Math.min(2 * waitMs, REOPEN_MS_MAX)) {
      const failure = await this.#readSession();
      if (this.#phase === "over" || failure === undefined) return;
      try {
        await this.#host.clock.sleep(waitMs);
        if (this.isOver) return;
        const far = await this.#host.bento.open(this.place.box, this.place.instance);
        if (this.isOver) {
          await far.detach();
          return;
        }
        this.#far = far;
        this.#interruptions = -1;
        this.tick();
      } catch (error) {
        if (isPassing(error)) continue;
        this.#over(false, messageOf(error));
        return;
      }
    }
  }

  /** Until the session ends; undefined when there is nothing more to expect of it. */
  async #readSession(): Promise<unknown> {
    const far = this.#far;
    try {
      for await (const bytes of far) this.#take(bytes);
      const outcome = await far.ended;
      const detail =
        outcome.kind === "failed" ? outcome.message : outcome.kind === "killed" ? outcome.reason : "";
      const isDone = outcome.kind === "returned";
      this.#over(isDone, isDone ? "it ended" : `it ${outcome.kind}: ${detail}`);
      return undefined;
    } catch (error) {
      if (isPassing(error) && this.#phase !== "starting") return error;
      if (systemCode(error) === "taken-over") this.#host.onTakenOver();
      this.#over(false, messageOf(error));
      void far.detach().catch(() => undefined);
      return undefined;
    }
  }

  #take(bytes: Uint8Array): void {
    const message = decodeMessage(bytes);
    this.#heardMs = this.#host.clock.now();
    // Of an earlier load balancer's time, or a replica that obeys a later one: then we are fenced off and learn it elsewhere.
    const isOurs = message.epoch === this.#host.epoch;
    switch (message.kind) {
      case "hello":
        if (message.needsSite && !this.#isSiteSent) void this.#sendSite();
        return;
      case "serving":
        if (this.#phase !== "starting") return;
        this.#phase = "serving";
        this.#host.onServing(this);
        return;
      case "load":
        if (!isOurs) return;
        this.#load = message.load;
        this.#host.onReport(this);
        return;
      case "met":
        if (isOurs) this.#pending.delete(message.number);
        return;
      case "failed": {
        const introduction = isOurs ? this.#pending.get(message.number) : undefined;
        this.#pending.delete(message.number);
        if (introduction) this.#host.onFailed(this, introduction, message.reason);
        return;
      }
      case "done":
        // Its instance ends now, and so does the session.
        return;
    }
  }

  async #sendSite(): Promise<void> {
    this.#isSiteSent = true;
    try {
      for await (const bytes of this.#host.site()) {
        if (this.isOver) return;
        await this.#far.send(encodeCommand({ kind: "site", bytes }));
        // A part that may have been lost cannot be asked for again.
        if (this.#far.interruptions > 0) throw new Error("the connection broke while the site was copied");
      }
    } catch (error) {
      await this.leave(messageOf(error));
    }
  }

  #over(isDone: boolean, reason: string): void {
    if (this.#phase === "over") return;
    const wasRetiring = this.#phase === "retiring";
    this.#phase = "over";
    this.#host.onOver(this, { isDone: isDone && wasRetiring, reason });
  }
}

/** What may be better in a moment: the box or Tor did not answer. */
function isPassing(error: unknown): boolean {
  const code = systemCode(error);
  return code === "box-unreachable" || code === "box-timeout" || code === "bento-limit";
}
