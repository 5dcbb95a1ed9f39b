// The standby as its primary sees it: started on its box, given everything that a takeover needs, told twice a second that
// the primary lives and what changed. One that is lost is started again.

import type { Bento, FarSession, Package } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import type { LoadBalancerEvent, StandbyPlace } from "../../src/wire/loadbalancer.ts";
import { renewMarginMs } from "./renewal.ts";
import { runtimeOf } from "./replica-set.ts";
import type { Seen } from "./seen.ts";
import {
  BEAT_MS,
  encodeSeen,
  type PrimaryMessage,
  type StandbyStart,
  standbyMessage,
} from "./standby-protocol.ts";
import type { KeptState } from "./state.ts";

export interface StandbyLinkParts {
  readonly box: string;
  /** Where an earlier instance of the primary had it. */
  readonly place: StandbyPlace | null;
  readonly pack: Package;
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
  readonly onTookOver: () => void;
}

const SILENT_MS_DEFAULT = 5000;
const RETRY_MS = 5000;
const RETRY_MS_MAX = 300_000;
/** A standby whose word is older does not count as waiting. */
const FRESH_MS = 3 * BEAT_MS;
/** Entries of introductions in one message stay below what a message may have. */
const SEEN_TEXT_MAX = 512 * 1024;

export class StandbyLink {
  readonly #parts: StandbyLinkParts;
  readonly #ended = new AbortController();
  #far: FarSession | undefined;
  #place: StandbyPlace | null;
  #heardMs = Number.NEGATIVE_INFINITY;
  #isStateDue = true;
  #isReady = false;
  #beat = 0;
  readonly #running: Promise<void>;

  constructor(parts: StandbyLinkParts) {
    this.#parts = parts;
    this.#place = parts.place;
    this.#running = this.#run();
  }

  /** It has said of late that it waits for us to be silent. */
  get isWaiting(): boolean {
    return this.#parts.clock.now() - this.#heardMs <= FRESH_MS;
  }

  /** When it last said so: Unix milliseconds. */
  get heardMs(): number {
    return this.#heardMs;
  }

  /** After how much silence it takes over: milliseconds. */
  get silentMs(): number {
    return this.#parts.state().start.standby?.silentMs ?? SILENT_MS_DEFAULT;
  }

  stateChanged(): void {
    this.#isStateDue = true;
  }

  /** Leaves it as it is: it will take over. */
  async leave(): Promise<void> {
    this.#ended.abort(new Error("the load balancer ends"));
    await this.#far?.detach().catch(() => undefined);
    await this.#running;
  }

  /** Removes its function. */
  async end(): Promise<void> {
    this.#ended.abort(new Error("the load balancer was stopped"));
    const place = this.#place;
    if (place) await this.#parts.bento.shutdown(place.box, place.shutdownToken).catch(() => undefined);
    await this.#far?.detach().catch(() => undefined);
  }

  async #run(): Promise<void> {
    const { clock, onEvent, box, log } = this.#parts;
    const { signal } = this.#ended;
    let next: FarSession | undefined;
    for (let waitMs = RETRY_MS; !signal.aborted; waitMs = Math.min(2 * waitMs, RETRY_MS_MAX)) {
      try {
        await using far = next ?? (await this.#openEarlier()) ?? (await this.#start());
        next = undefined;
        this.#far = far;
        next = await this.#keepUp(far);
        continue;
      } catch (error) {
        if (signal.aborted) return;
        log.info("standby lost", { error: messageOf(error) });
        onEvent({ kind: "standby-lost", box, reason: messageOf(error) });
        if (this.#isReady) waitMs = RETRY_MS;
      }
      this.#isReady = false;
      this.#heardMs = Number.NEGATIVE_INFINITY;
      await clock.sleep(waitMs, signal).catch(() => undefined);
    }
  }

  /** The one that was there before; undefined when it is gone, and then its function is, too. */
  async #openEarlier(): Promise<FarSession | undefined> {
    const place = this.#place;
    if (!place) return undefined;
    const { bento, onPlace, log } = this.#parts;
    try {
      return await bento.open(place.box, place.instance);
    } catch (error) {
      log.info("standby not found", { error: messageOf(error) });
    }
    try {
      await bento.shutdown(place.box, place.shutdownToken);
    } catch (error) {
      // Where it still runs it hears nothing of us, takes over, and we are fenced off.
      log.info("standby not ended", { error: messageOf(error) });
    }
    this.#place = null;
    await onPlace(null);
    return undefined;
  }

  async #start(): Promise<FarSession> {
    const { bento, box, pack, onPlace } = this.#parts;
    const far = await bento.run(box, pack, { args: [this.#argument()] });
    try {
      const { deployment, instance } = far;
      if (!deployment) throw new Error("the box gave no tokens");
      const { invocationToken, shutdownToken } = deployment;
      for await (const bytes of this.#parts.input()) {
        this.#ended.signal.throwIfAborted();
        await far.send(bytes);
      }
      const runtimeMs = runtimeOf(deployment);
      const known = runtimeMs === undefined ? {} : { runtimeMs };
      const startedAtMs = this.#parts.clock.now();
      this.#place = { box, instance, invocationToken, shutdownToken, startedAtMs, ...known };
      await onPlace(this.#place);
      return far;
    } catch (error) {
      await far.close().catch(() => undefined);
      throw error;
    }
  }

  /** Until it is lost, or the next one is in its place. */
  async #keepUp(far: FarSession): Promise<FarSession> {
    const { signal } = this.#ended;
    this.#isStateDue = true;
    let seen = encodeSeen(this.#parts.seen.all());
    const lost = new AbortController();
    this.#listen(far).catch((error: unknown) => {
      lost.abort(error);
    });
    let next: FarSession | undefined;
    let isRenewing = false;
    const renew = async () => {
      isRenewing = true;
      next = await this.#renew();
      isRenewing = false;
    };
    for (;;) {
      // The one before ends when the next one is there: that is no loss.
      if (next) return next;
      if (!isRenewing) lost.signal.throwIfAborted();
      await this.#sendBeat(far, seen).catch((error: unknown) => {
        if (!isRenewing && !next) throw error;
      });
      if (!isRenewing && this.#isDue) void renew();
      await this.#parts.clock.sleep(BEAT_MS, signal);
      seen = encodeSeen(this.#parts.seen.takeBatches());
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
    const { bento, clock, box, log, onPlace } = this.#parts;
    const place = this.#place;
    this.#renewNotBeforeMs = clock.now() + Math.min(RETRY_MS_MAX, renewMarginMs(place?.runtimeMs ?? 0) / 5);
    if (!place) return undefined;
    let far: FarSession | undefined;
    try {
      const { standby } = this.#argument();
      const startedAtMs = clock.now();
      const args = [{ standby: { ...standby, isAgain: true } } satisfies StandbyStart];
      far = await bento.run(box, { token: place.invocationToken }, { args });
      this.#ended.signal.throwIfAborted();
      // It hears of us until it is gone: else it would take over.
      await bento.close(box, place.instance);
      this.#place = { ...place, instance: far.instance, startedAtMs };
      await onPlace(this.#place);
      return far;
    } catch (error) {
      log.info("standby not renewed", { error: messageOf(error) });
      await far?.close().catch(() => undefined);
      return undefined;
    }
  }

  #renewNotBeforeMs = Number.NEGATIVE_INFINITY;

  #argument(): StandbyStart {
    const { start } = this.#parts.state();
    const siteBytes = start.serve.kind === "files" ? start.serve.siteBytes : 0;
    const { replicaBytes } = this.#parts;
    return { standby: { version: 1, replicaBytes, siteBytes, silentMs: this.silentMs } };
  }

  async #sendBeat(far: FarSession, seen: NonNullable<PrimaryMessage["seen"]>): Promise<void> {
    const withState = this.#isStateDue;
    this.#isStateDue = false;
    this.#beat++;
    await far.send(
      JSON.stringify({
        beat: this.#beat,
        ...(withState ? { state: this.#parts.state() } : {}),
      } satisfies PrimaryMessage),
    );
    // Each point's entries in pieces of whole base64 groups of whole entries.
    for (const [point, text] of seen)
      for (let at = 0; at < text.length; at += SEEN_TEXT_MAX)
        await far.send(
          JSON.stringify({
            beat: this.#beat,
            seen: [[point, text.slice(at, at + SEEN_TEXT_MAX)]],
          } satisfies PrimaryMessage),
        );
  }

  async #listen(far: FarSession): Promise<never> {
    for await (const bytes of far) {
      const message = standbyMessage(bytes);
      if (message && "tookOver" in message) this.#parts.onTookOver();
      if (!message || !("waiting" in message)) continue;
      this.#heardMs = this.#parts.clock.now();
      if (this.#isReady) continue;
      this.#isReady = true;
      this.#parts.onEvent({ kind: "standby-ready", box: this.#parts.box });
    }
    const outcome = await far.ended;
    throw new Error(`the standby ended: ${outcome.kind === "failed" ? outcome.message : outcome.kind}`);
  }
}

/** Whether the standby at this place says that it has taken over. undefined: it says nothing, or cannot be reached. */
export async function hasTakenOver(
  bento: Bento,
  place: StandbyPlace,
  clock: Clock,
): Promise<boolean | undefined> {
  const late = Promise.withResolvers<undefined>();
  const stop = clock.after(ASK_MS, () => late.resolve(undefined));
  try {
    return await Promise.race([askWhetherOver(bento, place), late.promise]);
  } catch {
    return undefined;
  } finally {
    stop();
  }
}

/** A primary that goes on does not wait longer than this for its standby's word. */
const ASK_MS = 3000;

async function askWhetherOver(bento: Bento, { box, instance }: StandbyPlace): Promise<boolean | undefined> {
  await using far = await bento.open(box, instance);
  await far.send(JSON.stringify({ beat: 0 } satisfies PrimaryMessage));
  for await (const bytes of far) {
    const message = standbyMessage(bytes);
    if (message && "tookOver" in message) return true;
    if (message && message.waiting.beat === 0) return false;
  }
  return undefined;
}
