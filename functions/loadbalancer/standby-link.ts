// One session of a primary with its standby: twice a second that the primary lives, and what changed; back comes that the
// standby waits, or that it has taken over.
// Boundary: the standby's box, which is trusted as the primary's is, and may be slow or dead.

import type { Bento, FarSession } from "bento/function";
import type { Clock } from "../../src/base/clock.ts";
import { systemCode } from "../../src/base/errors.ts";
import type { StandbyPlace } from "../../src/wire/loadbalancer.ts";
import { inTime } from "./in-time.ts";
import type { Seen } from "./seen.ts";
import { BEAT_MS, encodeSeen, type PrimaryMessage, standbyMessage } from "./standby-protocol.ts";
import type { KeptState } from "./state.ts";

export interface StandbyLinkParts {
  readonly state: () => KeptState;
  readonly seen: Seen;
  readonly clock: Clock;
  /** It has everything, and circuits. Called once. */
  readonly onReady: () => void;
  readonly onTookOver: () => void;
}

/** A standby whose word is older does not count as waiting. */
const FRESH_MS = 3 * BEAT_MS;
/** Entries of introductions in one message stay below what a message may have. */
const SEEN_TEXT_MAX = 512 * 1024;

export class StandbyLink implements AsyncDisposable {
  readonly #far: FarSession;
  readonly #parts: StandbyLinkParts;
  /** Rejects when the standby has ended, or its box is not reached any more. */
  readonly lost: Promise<never>;
  #heardMs = Number.NEGATIVE_INFINITY;
  #isStateDue = true;
  #isFirst = true;
  #isReady = false;
  #hasEnded = false;
  #beat = 0;

  /** @param far ours from now on. */
  constructor(far: FarSession, parts: StandbyLinkParts) {
    this.#far = far;
    this.#parts = parts;
    this.lost = this.#listen();
    this.lost.catch(() => undefined);
  }

  /** When it last said that it waits: Unix milliseconds. */
  get heardMs(): number {
    return this.#heardMs;
  }

  get isWaiting(): boolean {
    return this.#parts.clock.now() - this.#heardMs <= FRESH_MS;
  }

  /** It was heard at all. */
  get isReady(): boolean {
    return this.#isReady;
  }

  /** Its box said that the instance has ended. */
  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  stateChanged(): void {
    this.#isStateDue = true;
  }

  /** A sign of life, with the state where it changed, and introductions that were answered since the last one. */
  async beat(): Promise<void> {
    const { seen, state } = this.#parts;
    const batches = encodeSeen(this.#isFirst ? seen.all() : seen.takeBatches());
    if (this.#isFirst) seen.takeBatches();
    this.#isFirst = false;
    const withState = this.#isStateDue;
    this.#isStateDue = false;
    this.#beat++;
    await this.#send({ beat: this.#beat, ...(withState ? { state: state() } : {}) });
    // Each point's entries in pieces of whole base64 groups of whole entries.
    for (const [point, text] of batches)
      for (let at = 0; at < text.length; at += SEEN_TEXT_MAX)
        await this.#send({ beat: this.#beat, seen: [[point, text.slice(at, at + SEEN_TEXT_MAX)]] });
  }

  /** Leaves it as it is. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#far.detach().catch(() => undefined);
  }

  async #send(message: PrimaryMessage): Promise<void> {
    await this.#far.send(JSON.stringify(message));
  }

  async #listen(): Promise<never> {
    for await (const bytes of this.#far) {
      const message = standbyMessage(bytes);
      if (message && "tookOver" in message) {
        this.#heardMs = Number.NEGATIVE_INFINITY;
        this.#parts.onTookOver();
      }
      if (!message || !("waiting" in message)) continue;
      this.#heardMs = this.#parts.clock.now();
      if (this.#isReady) continue;
      this.#isReady = true;
      this.#parts.onReady();
    }
    const outcome = await this.#far.ended;
    this.#hasEnded = true;
    throw new Error(`the standby ended: ${outcome.kind === "failed" ? outcome.message : outcome.kind}`);
  }
}

/** What a standby says of itself to somebody who is not sure of it. */
export type StandbyWord = "waits" | "took-over" | "ended";

/** Asks the standby at this place. undefined: its box is not reached, or it says nothing in time. */
export async function askStandby(
  bento: Bento,
  place: Pick<StandbyPlace, "box" | "instance">,
  clock: Clock,
  limitMs: number,
): Promise<StandbyWord | undefined> {
  try {
    return await inTime(ask(bento, place), limitMs, clock);
  } catch (error) {
    return isUnknown(error) ? "ended" : undefined;
  }
}

async function ask(
  bento: Bento,
  { box, instance }: Pick<StandbyPlace, "box" | "instance">,
): Promise<StandbyWord> {
  await using far = await bento.open(box, instance);
  await far.send(JSON.stringify({ beat: 0 } satisfies PrimaryMessage));
  for await (const bytes of far) {
    const message = standbyMessage(bytes);
    if (message && "tookOver" in message) return "took-over";
    if (message && message.waiting.beat === 0) return "waits";
  }
  return "ended";
}

/** The box knows no such instance, or it has ended. */
function isUnknown(error: unknown): boolean {
  return ["already-ended", "bad-token", "not-found"].includes(systemCode(error) ?? "");
}
