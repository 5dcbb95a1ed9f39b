// Content into a Dropbox at another box: sent once, and after a lost connection again from where the Dropbox says it is.
// What is not acknowledged yet is kept here, two parts at most. Protocol: docs/spec/dropbox.md 2.1.

import type { Bento, FarSession } from "bento/function";
import { ByteQueue } from "../../src/base/byte-queue.ts";
import { Changes } from "../../src/base/changes.ts";
import type { DropboxAnswer, PutRequest } from "../../src/wire/dropbox.ts";
import { LaterLimits } from "../../src/wire/later.ts";
import { within } from "../within.ts";

/** A Dropbox that takes or says nothing for this long is asked anew: milliseconds. */
const STALL_MS = 120_000;
/** Pauses between attempts: the first, doubling up to the second. */
const PAUSE_MS = 1_000;
const PAUSE_MS_MAX = 60_000;
/** Content in one message. */
const MESSAGE_BYTES = 64 * 1024;

/** What asking again does not change. */
class Refused extends Error {}

export class DropboxWriter {
  readonly #bento: Bento;
  readonly #target: { readonly box: string; readonly token: string; readonly put: PutRequest };
  /** What the Dropbox does not keep yet: content from byte `#kept` on. */
  readonly #held = new ByteQueue();
  #kept = 0;
  #isEnded = false;
  #failure: Error | undefined;
  readonly #open = Promise.withResolvers<void>();
  readonly #changes = new Changes();
  readonly #sealed: Promise<void>;

  constructor(
    bento: Bento,
    target: { readonly box: string; readonly token: string; readonly put: PutRequest },
  ) {
    this.#bento = bento;
    this.#target = target;
    this.#open.promise.catch(() => undefined);
    this.#sealed = this.#run();
    this.#sealed.catch((error: Error) => {
      this.#failure = error;
      this.#open.reject(error);
      this.#changes.notify();
    });
  }

  /** Resolves when the Dropbox has answered: it is there, and ours. */
  get opened(): Promise<void> {
    return this.#open.promise;
  }

  /** Resolves when there is room for more. Throws when the Dropbox cannot be reached or takes no more. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += MESSAGE_BYTES) {
      const piece = bytes.slice(at, at + MESSAGE_BYTES);
      while (!this.#failure && this.#held.length >= 2 * this.#target.put.partBytes) await this.#changes.next;
      if (this.#failure) throw this.#failure;
      this.#held.push(piece);
      this.#changes.notify();
    }
  }

  /** No more content. Resolves when the Dropbox has all of it. */
  async seal(): Promise<void> {
    this.#isEnded = true;
    this.#changes.notify();
    await this.#sealed;
  }

  async #run(): Promise<void> {
    for (let failures = 0; ; ) {
      const keptBefore = this.#kept;
      try {
        await this.#attempt();
        return;
      } catch (error) {
        failures = this.#kept > keptBefore ? 1 : failures + 1;
        if (error instanceof Refused || isFinal(error) || failures >= LaterLimits.attemptsMax) throw error;
        await new Promise((resolve) =>
          setTimeout(resolve, Math.min(PAUSE_MS_MAX, PAUSE_MS * 2 ** (failures - 1))),
        );
      }
    }
  }

  async #attempt(): Promise<void> {
    const { box, token, put } = this.#target;
    const session = await this.#bento.run(box, { token }, { args: ["put", put], linked: true });
    const begun = Promise.withResolvers<number>();
    begun.promise.catch(() => undefined);
    const attempt = { isOver: false };
    try {
      const sealed = this.#readAnswers(session, begun);
      const sending = this.#sendAll(session, begun.promise, attempt).then(() =>
        within(STALL_MS, sealed, stalled),
      );
      sending.catch(() => undefined);
      await Promise.race([sealed, sending]);
    } catch (error) {
      // It waits for input that will not come, and the next attempt wants its place.
      await within(STALL_MS, session.close(), stalled).catch(() => undefined);
      throw error;
    } finally {
      attempt.isOver = true;
      this.#changes.notify();
      await session.detach().catch(() => undefined);
    }
  }

  /** Resolves when the Dropbox has sealed; resolves `begun` with where content goes on. */
  async #readAnswers(session: FarSession, begun: PromiseWithResolvers<number>): Promise<void> {
    try {
      for await (const message of session) {
        const answer = JSON.parse(new TextDecoder().decode(message)) as DropboxAnswer;
        if ("refused" in answer) throw new Refused(`the Dropbox refuses: ${answer.refused}`);
        if ("sealed" in answer) return;
        if (!("at" in answer)) throw new Refused("this is not how a Dropbox answers");
        this.#keep(answer.at);
        begun.resolve(answer.at);
        this.#open.resolve();
      }
      throw new Error("the Dropbox ended early");
    } catch (error) {
      begun.reject(error);
      throw error;
    }
  }

  /** The Dropbox has everything before byte `at`. */
  #keep(at: number): void {
    if (!Number.isSafeInteger(at) || at < this.#kept || at > this.#kept + this.#held.length)
      throw new Refused("the Dropbox does not have what was put");
    this.#held.drop(at - this.#kept);
    this.#kept = at;
    this.#changes.notify();
  }

  async #sendAll(
    session: FarSession,
    begun: Promise<number>,
    attempt: { readonly isOver: boolean },
  ): Promise<void> {
    let at = await begun;
    while (!attempt.isOver) {
      // A message on its way when a connection broke may be lost: only asking anew tells where to go on.
      if (session.interruptions > 0) throw new Error("the connection to the Dropbox broke");
      if (at < this.#kept) throw new Refused("the Dropbox claims what was not sent");
      const piece = this.#held.viewFrom(at - this.#kept);
      if (piece) {
        await within(STALL_MS, session.send(piece), stalled);
        at += piece.length;
      } else if (this.#isEnded) {
        await session.send(new Uint8Array());
        return;
      } else {
        await this.#changes.next;
      }
    }
  }
}

function stalled(): never {
  throw new Error("the Dropbox does not go on");
}

/** What a box says does not change by asking again; that it was not reached may. */
function isFinal(error: unknown): boolean {
  const code: unknown = error instanceof Error ? Reflect.get(error, "code") : undefined;
  if (typeof code !== "string") return false;
  return ![
    "box-unreachable",
    "box-timeout",
    "input-lost",
    "bento-limit",
    "too-many-instances",
    "box-full",
  ].includes(code);
}
