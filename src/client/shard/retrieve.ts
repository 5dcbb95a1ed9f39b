// Fetching stripes from any k of n shards, fastest first: more shards are asked than it takes, those that answer
// first go on, the others wait in reserve; whoever fails, lies or falls behind is replaced. Memory is bounded by how
// far ahead of the slowest needed block the others may read.

import { Changes } from "../../base/changes.ts";
import { systemClock } from "../../base/clock.ts";
import { BentoError } from "../../base/errors.ts";
import { ShardCodec } from "../../wire/shard/codec.ts";
import type { ShardLayout, Stripe } from "../../wire/shard/layout.ts";
import type { BoxClient } from "../client.ts";
import type { ShardKeys } from "./keys.ts";
import type { PlacedShard } from "./receipt.ts";
import { LIES, readShard, type ShardFailure, type ShardFault, type SourceOptions } from "./shard-source.ts";

/** Shards that go on beside the k that it takes, so that one that stalls is not waited for. */
const EXTRA = 1;
/** Shards that are asked in the beginning, beyond those that go on. */
const RACE_EXTRA = 2;
/** Stripes that a shard may be ahead. */
const AHEAD = 6;
/** A stripe that takes longer than this brings in one more shard: milliseconds. */
const HEDGE_MS = 4000;

export interface RetrieveOptions extends Pick<SourceOptions, "clock" | "stallMs" | "attemptsMax"> {
  readonly signal: AbortSignal;
  readonly clientOf: (shard: PlacedShard) => BoxClient;
  readonly hedgeMs?: number;
  /** First stripe wanted. */
  readonly from?: number;
  readonly onFault?: (shard: PlacedShard, fault: ShardFault, detail: string) => void;
}

/** What became of one shard. */
export interface ShardReport {
  readonly shard: PlacedShard;
  /** Verified blocks that came from it. */
  readonly blocks: number;
  readonly fault?: ShardFault;
  readonly detail?: string;
}

type State = "reserve" | "asked" | "running" | "finished" | "failed";

/** One shard and its reader, while there is one. */
class Lane {
  readonly shard: PlacedShard;
  state: State = "reserve";
  blocks = 0;
  fault: ShardFault | undefined;
  detail: string | undefined;
  /** How often it was set aside for being slow. */
  setAside = 0;
  stop: AbortController | undefined;

  constructor(shard: PlacedShard) {
    this.shard = shard;
  }
}

export class Retrieval implements AsyncDisposable {
  readonly #layout: ShardLayout;
  readonly #keys: ShardKeys;
  readonly #options: RetrieveOptions;
  readonly #codec: ShardCodec;
  readonly #lanes: Lane[];
  readonly #readers = new Set<Promise<void>>();
  /** Blocks by stripe, then shard. */
  readonly #blocks = new Map<number, Map<number, Uint8Array>>();
  #current: number;
  readonly #changes = new Changes();
  #over = false;

  constructor(
    shards: readonly PlacedShard[],
    layout: ShardLayout,
    keys: ShardKeys,
    options: RetrieveOptions,
  ) {
    this.#layout = layout;
    this.#keys = keys;
    this.#options = options;
    this.#codec = new ShardCodec(layout.k, layout.n);
    this.#current = options.from ?? 0;
    // Data blocks first: with all of them nothing has to be computed.
    this.#lanes = [...shards].sort((a, b) => a.index - b.index).map((shard) => new Lane(shard));
  }

  /** What is known of each shard so far. */
  get reports(): readonly ShardReport[] {
    return this.#lanes.map(({ shard, blocks, fault, detail }) => ({
      shard,
      blocks,
      ...(fault === undefined ? {} : { fault }),
      ...(detail === undefined ? {} : { detail }),
    }));
  }

  /** The stripes in order. Throws BentoError "too-few-shards" when fewer than k are left. */
  async *stripes(): AsyncGenerator<Stripe> {
    const { k, stripes } = this.#layout;
    this.#ask(k + EXTRA + RACE_EXTRA);
    const data = Array.from({ length: k }, (_, index) => index);
    while (this.#current < stripes) {
      const index = this.#current;
      const have = await this.#awaitStripe(index);
      this.#current++;
      this.#blocks.delete(index);
      this.#changes.notify();
      yield { index, data: this.#codec.rebuild(have, data) };
    }
  }

  /** Ends every reader. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#over = true;
    for (const { stop } of this.#lanes) stop?.abort(new BentoError("closed", "The retrieval is over"));
    this.#changes.notify();
    await Promise.allSettled(this.#readers);
  }

  async #awaitStripe(stripe: number): Promise<ReadonlyMap<number, Uint8Array>> {
    const { clock = systemClock, hedgeMs = HEDGE_MS, signal } = this.#options;
    let hedge = false;
    let cancel = () => {};
    const schedule = () => {
      cancel = clock.after(hedgeMs, () => {
        hedge = true;
        this.#changes.notify();
      });
    };
    const onAbort = () => this.#changes.notify();
    signal.addEventListener("abort", onAbort, { once: true });
    schedule();
    try {
      for (;;) {
        signal.throwIfAborted();
        const have = this.#blocks.get(stripe);
        if (have && have.size >= this.#layout.k) return have;
        const promise = this.#changes.next;
        this.#keepEnough(hedge);
        if (hedge) {
          hedge = false;
          schedule();
        }
        await promise;
      }
    } finally {
      cancel();
      signal.removeEventListener("abort", onAbort);
    }
  }

  /** Sees to it that enough shards are being read. Throws when there are not enough left. */
  #keepEnough(isLate: boolean): void {
    const { k } = this.#layout;
    const usable = this.#lanes.filter(({ state }) => state !== "failed").length;
    if (usable < k) throw this.#tooFew(usable);
    const active = this.#lanes.filter(({ state }) => state === "asked" || state === "running").length;
    const finished = this.#lanes.filter(({ state }) => state === "finished").length;
    const wanted = Math.min(usable, k + EXTRA) - finished;
    if (active < wanted) this.#ask(wanted - active);
    else if (isLate) this.#ask(1);
  }

  #ask(count: number): void {
    const reserve = this.#lanes
      .filter(({ state }) => state === "reserve")
      .sort((a, b) => a.setAside - b.setAside);
    for (const lane of reserve.slice(0, count)) {
      const reader = this.#read(lane);
      this.#readers.add(reader);
      void reader.finally(() => this.#readers.delete(reader));
    }
  }

  /** Reads one shard until it ends, fails or is set aside. Never rejects. */
  async #read(lane: Lane): Promise<void> {
    const { clientOf, clock, stallMs, attemptsMax, signal } = this.#options;
    const stop = new AbortController();
    lane.stop = stop;
    lane.state = "asked";
    const source = readShard(lane.shard, clientOf(lane.shard), this.#layout, this.#keys, {
      from: this.#current,
      signal: AbortSignal.any([signal, stop.signal]),
      ...(clock ? { clock } : {}),
      ...(stallMs === undefined ? {} : { stallMs }),
      ...(attemptsMax === undefined ? {} : { attemptsMax }),
    });
    try {
      for await (const { stripe, block } of source) {
        if (this.#over || stop.signal.aborted) return;
        if (lane.state === "asked") {
          lane.state = "running";
          this.#raceWon();
        }
        this.#deliver(lane, stripe, block);
        while (!this.#over && !stop.signal.aborted && stripe >= this.#current + AHEAD)
          await this.#changes.next;
        if (this.#over || stop.signal.aborted) return;
      }
      lane.state = "finished";
    } catch (error) {
      if (this.#over || stop.signal.aborted || signal.aborted) return;
      lane.state = "failed";
      const { fault, message } = error as ShardFailure;
      lane.fault = fault;
      lane.detail = message;
      this.#options.onFault?.(lane.shard, fault, message);
    } finally {
      this.#changes.notify();
    }
  }

  #deliver(lane: Lane, stripe: number, block: Uint8Array): void {
    if (stripe >= this.#current) {
      let have = this.#blocks.get(stripe);
      if (!have) {
        have = new Map();
        this.#blocks.set(stripe, have);
      }
      have.set(lane.shard.index, block);
      lane.blocks++;
      this.#changes.notify();
    } else if (stripe < this.#current - AHEAD && this.#running() > this.#layout.k) {
      // What it sends is of no use any more: others have been faster all along.
      this.#putAside(lane, "slow");
    }
  }

  /** Once enough shards have answered, those that have not are set aside. */
  #raceWon(): void {
    if (this.#running() < this.#layout.k + EXTRA) return;
    for (const lane of this.#lanes) if (lane.state === "asked") this.#putAside(lane);
  }

  #putAside(lane: Lane, fault?: ShardFault): void {
    lane.stop?.abort(new BentoError("closed", "Other shards were faster"));
    lane.state = "reserve";
    lane.setAside++;
    if (fault !== undefined) {
      lane.fault = fault;
      lane.detail = "others were faster";
    }
    this.#changes.notify();
  }

  #running(): number {
    return this.#lanes.filter(({ state }) => state === "running" || state === "finished").length;
  }

  #tooFew(usable: number): BentoError {
    const { k } = this.#layout;
    const failed = this.#lanes.filter(({ state }) => state === "failed");
    const lying = failed.filter(({ fault }) => fault !== undefined && LIES.has(fault)).length;
    return new BentoError(
      "too-few-shards",
      `Cannot put the file together: ${usable} shards can be had, it takes ${k} (${failed.length} failed, ${lying} of them by lying)`,
      { advice: "Try again when more of the boxes answer." },
    );
  }
}
