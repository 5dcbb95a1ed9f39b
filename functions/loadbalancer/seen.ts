// Introductions that were answered, so that copies of them are not answered by the next instance or a standby either: the
// introduction keys are the same there. 16 bytes each, in the storage by introduction point, in values of a size that is
// written again as it fills; and in batches for a standby.

import type { Storage } from "bento/function";
import { concat } from "../../src/base/bytes.ts";
import type { Clock } from "../../src/base/clock.ts";
import { messageOf } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import { REPLAY_CACHE_ENTRIES_MAX } from "../../src/onion/limits.ts";
import { REPLAY_ENTRY_BYTES } from "../../src/onion/service/introduction.ts";

const PREFIX = "seen/";
/** Entries of one stored value. */
const CHUNK_ENTRIES = 1024;
/** A crash loses the entries of this long: milliseconds. */
const WRITE_MS = 1000;

/** New entries of one point, as bytes. */
export interface SeenBatch {
  readonly point: string;
  readonly entries: Uint8Array;
}

export class Seen {
  readonly #storage: Storage;
  readonly #clock: Clock;
  readonly #log: Log;
  /** By the name of a point: which says nothing but which of ours it is. */
  readonly #points = new Map<string, Uint8Array[]>();
  readonly #changed = new Set<string>();
  #batches: { point: string; entry: Uint8Array }[] = [];
  #stopTimer: (() => void) | undefined;
  #writing: Promise<void> = Promise.resolve();

  constructor(storage: Storage, clock: Clock, log: Log) {
    this.#storage = storage;
    this.#clock = clock;
    this.#log = log;
  }

  /** What an earlier instance kept. */
  async load(): Promise<void> {
    for await (const { key } of this.#storage.list({ prefix: PREFIX })) {
      const [, point, chunk] = /^seen\/([0-9a-f]{1,64})\/([0-9]{1,4})$/u.exec(key) ?? [];
      const value = point !== undefined && chunk !== undefined ? await this.#storage.get(key) : undefined;
      if (!value || point === undefined) continue;
      const bytes = await value.bytes();
      this.#take(point, bytes);
    }
  }

  entries(point: string): readonly Uint8Array[] {
    return this.#points.get(point) ?? [];
  }

  add(point: string, entry: Uint8Array): void {
    this.#take(point, entry);
    // A standby that does not take them loses the oldest.
    if (this.#batches.length >= REPLAY_CACHE_ENTRIES_MAX) this.#batches.shift();
    this.#batches.push({ point, entry });
    this.#changed.add(point);
    this.#stopTimer ??= this.#clock.after(WRITE_MS, () => {
      this.#stopTimer = undefined;
      this.#write();
    });
  }

  /** What a primary's `takeBatches` told. */
  addBatch({ point, entries }: SeenBatch): void {
    this.#take(point, entries);
    this.#changed.add(point);
  }

  /** What is new since the last call. */
  takeBatches(): SeenBatch[] {
    const byPoint = Map.groupBy(this.#batches, ({ point }) => point);
    this.#batches = [];
    return [...byPoint].map(([point, list]) => ({ point, entries: concat(list.map(({ entry }) => entry)) }));
  }

  /** Everything, for a standby that is new. */
  all(): SeenBatch[] {
    return [...this.#points].map(([point, list]) => ({ point, entries: concat(list) }));
  }

  /** Points that are no more ours are forgotten. */
  keepOnly(points: readonly string[]): void {
    const kept = new Set(points);
    for (const [point, list] of this.#points) {
      if (kept.has(point)) continue;
      this.#points.delete(point);
      this.#changed.delete(point);
      for (let chunk = 0; chunk * CHUNK_ENTRIES < list.length; chunk++)
        this.#storage.delete(keyOf(point, chunk)).catch(() => undefined);
    }
  }

  /** Keeps now what is not kept yet. */
  async flush(): Promise<void> {
    this.#stopTimer?.();
    this.#stopTimer = undefined;
    this.#write();
    await this.#writing;
  }

  #take(point: string, bytes: Uint8Array): void {
    const list = this.#points.get(point) ?? [];
    this.#points.set(point, list);
    for (let at = 0; at + REPLAY_ENTRY_BYTES <= bytes.length && list.length < REPLAY_CACHE_ENTRIES_MAX; )
      list.push(bytes.slice(at, (at += REPLAY_ENTRY_BYTES)));
  }

  #write(): void {
    const points = [...this.#changed];
    this.#changed.clear();
    this.#writing = (async () => {
      await this.#writing;
      for (const point of points) {
        const list = this.entries(point);
        const written = this.#written.get(point) ?? 0;
        for (let chunk = Math.floor(written / CHUNK_ENTRIES); chunk * CHUNK_ENTRIES < list.length; chunk++) {
          const entries = list.slice(chunk * CHUNK_ENTRIES, (chunk + 1) * CHUNK_ENTRIES);
          await this.#storage.put(keyOf(point, chunk), concat(entries));
        }
        this.#written.set(point, list.length);
      }
    })().catch((error: unknown) => {
      this.#log.warn("introductions not kept", { error: messageOf(error) });
    });
  }

  readonly #written = new Map<string, number>();
}

function keyOf(point: string, chunk: number): string {
  // In the order of their bytes.
  return `${PREFIX}${point}/${String(chunk).padStart(4, "0")}`;
}
