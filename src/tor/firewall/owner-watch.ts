// What happens to one owner's things, as that owner hears of it: its own handles in place of tor's numbers, nothing
// of anybody else. Each watcher has a bounded queue; one that does not keep up learns how many events it missed.
// Spec: docs/spec/tor-firewall.md 5.

import { Channel } from "../../base/channel.ts";
import { BentoError } from "../../base/errors.ts";
import type { OwnerAccount } from "./owner-account.ts";

export const EVENT_KINDS = ["circuit", "stream", "onion", "bandwidth"] as const;
export type EventKind = (typeof EVENT_KINDS)[number];

export type OwnerEvent =
  | {
      readonly kind: "circuit";
      readonly circuit: number;
      readonly status: "launched" | "extended" | "built" | "failed" | "closed";
      /** Fingerprints so far; null for a hop that the owner did not choose and is not told. */
      readonly path: readonly (string | null)[];
      /** Tor's word for it, as TIMEOUT or DESTROYED. */
      readonly reason?: string;
    }
  | {
      readonly kind: "stream";
      readonly stream: number;
      readonly status: "new" | "sent" | "succeeded" | "failed" | "closed";
      /** null where tor chose the circuit. */
      readonly circuit: number | null;
      readonly reason?: string;
    }
  | {
      readonly kind: "onion";
      readonly onion: number;
      readonly status: "upload" | "uploaded" | "failed" | "closed";
      /** The directory's fingerprint. */
      readonly directory: string | null;
      readonly reason?: string;
    }
  /** Bytes of all streams of the owner within the last second. */
  | { readonly kind: "bandwidth"; readonly read: number; readonly written: number }
  /** Events that were dropped here. */
  | { readonly kind: "lost"; readonly count: number };

/** Watchers of one owner at once. */
export const WATCHERS_MAX = 8;
/** Events that wait for one watcher. */
export const EVENTS_WAITING_MAX = 256;
const SECOND_MS = 1000;

export interface Watch extends AsyncIterable<OwnerEvent> {
  /** Ends the iteration. */
  close(): void;
}

interface Watcher {
  readonly kinds: ReadonlySet<string>;
  readonly queue: Channel<OwnerEvent>;
  lost: number;
}

export class OwnerWatch {
  readonly #account: OwnerAccount;
  readonly #watchers = new Set<Watcher>();
  #stopTicking: (() => void) | undefined;

  constructor(account: OwnerAccount) {
    this.#account = account;
  }

  /** From now on, in order. Throws BentoError `tor-limit`. */
  watch(kinds: readonly EventKind[]): Watch {
    if (this.#watchers.size >= WATCHERS_MAX)
      throw new BentoError(
        "tor-limit",
        `Cannot watch events: ${String(WATCHERS_MAX)} watchers are there already`,
      );
    const watcher = {
      kinds: new Set<string>(kinds),
      queue: new Channel<OwnerEvent>(EVENTS_WAITING_MAX),
      lost: 0,
    };
    this.#watchers.add(watcher);
    if (kinds.includes("bandwidth")) this.#startTicking();
    const close = () => {
      this.#watchers.delete(watcher);
      watcher.queue.close();
      if (![...this.#watchers].some((other) => other.kinds.has("bandwidth"))) this.#stopTicks();
    };
    return { close, [Symbol.asyncIterator]: () => watcher.queue[Symbol.asyncIterator]() };
  }

  tell(event: OwnerEvent): void {
    for (const watcher of this.#watchers) {
      if (!watcher.kinds.has(event.kind)) continue;
      if (watcher.queue.cost >= EVENTS_WAITING_MAX) {
        watcher.lost++;
        continue;
      }
      if (watcher.lost > 0) watcher.queue.push({ kind: "lost", count: watcher.lost });
      watcher.lost = 0;
      watcher.queue.push(event);
    }
  }

  /** Watchers get what waits, then the error. */
  fail(error: BentoError): void {
    this.#stopTicks();
    for (const { queue } of this.#watchers) queue.fail(error);
    this.#watchers.clear();
  }

  #startTicking(): void {
    if (this.#stopTicking) return;
    const account = this.#account;
    let before = { read: account.readBytes, written: account.writtenBytes };
    const tick = () => {
      const now = { read: account.readBytes, written: account.writtenBytes };
      this.tell({ kind: "bandwidth", read: now.read - before.read, written: now.written - before.written });
      before = now;
      this.#stopTicking = account.clock.after(SECOND_MS, tick);
    };
    this.#stopTicking = account.clock.after(SECOND_MS, tick);
  }

  #stopTicks(): void {
    this.#stopTicking?.();
    this.#stopTicking = undefined;
  }
}
