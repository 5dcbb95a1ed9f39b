// The boxes of a sharded file: which hold its shards, and how each is reached, over circuits of its own. Shards lie on
// different boxes unless sharing is asked for by name.

import { formatAddress } from "../address.ts";
import { BoxClient, newIsolation } from "../client.ts";
import type { Target } from "../shard/place.ts";
import type { PlacedShard } from "../shard/receipt.ts";
import { type Cli, type Reach, type ReachOptions, reachBox, usage } from "./cli.ts";
import type { ShardReachOptions } from "./shard.ts";

interface Known {
  /** As it stands in receipts. */
  readonly address: string;
  readonly reach: Reach;
  readonly client: BoxClient;
}

export class ShardBoxes implements AsyncDisposable {
  readonly #cli: Cli;
  readonly #options: Omit<ReachOptions, "box">;
  readonly #known = new Map<string, Known>();
  /** Boxes that shards may be put on, the preferred ones first. */
  #candidates: Known[] = [];
  #share = false;
  /** Candidates that were given a shard. */
  #used = 0;

  constructor(cli: Cli, options: Omit<ReachOptions, "box">) {
    this.#cli = cli;
    this.#options = options;
  }

  /** Boxes for `count` shards: those named, else all of the running network. Throws "usage" when they are too few. */
  static async choose(cli: Cli, options: ShardReachOptions, count: number): Promise<ShardBoxes> {
    const boxes = new ShardBoxes(cli, options);
    const named = (options.box ?? []).flatMap((text) => text.split(",")).filter((text) => text !== "");
    const names = named.length > 0 ? named : Object.keys((await cli.context.read()).boxes);
    for (const name of names) boxes.#candidates.push(await boxes.#reachOne(name));
    boxes.#candidates = [...new Set(boxes.#candidates)];
    boxes.#share = options.shareBoxes ?? false;
    const found = boxes.#candidates.length;
    if (found === 0)
      throw usage("Cannot choose boxes: none is named and no network is running", "Name them with --box.");
    if (found < count && !boxes.#share) {
      throw usage(
        `Cannot choose boxes: ${count} shards want as many boxes, ${found} are known`,
        "Name more with --box, or put several shards on one box with --share-boxes.",
      );
    }
    return boxes;
  }

  /** Makes these boxes, as receipts name them, known. */
  async reach(addresses: readonly string[]): Promise<void> {
    for (const address of addresses) await this.#reachOne(address);
  }

  /** The client of the box that holds a shard; the box must be known. */
  clientOf({ box }: PlacedShard): BoxClient {
    const known = this.#known.get(box);
    if (!known) throw usage(`Cannot reach box ${box}: it is not known`);
    return known.client;
  }

  /** A box for each shard. */
  targets(indices: readonly number[]): Target[] {
    return indices.map((index, at) => this.#target(index, at));
  }

  /** Other boxes for shards that could not be put, the same one again where there is no other. */
  otherTargets(failed: readonly Target[]): Target[] {
    const bad = new Set(failed.map(({ box }) => box));
    return failed.map((target, at) => {
      const spare = this.#candidates.filter(({ address }) => !bad.has(address));
      const unused = this.#share ? spare : spare.slice(this.#used);
      const next = unused[at % Math.max(1, unused.length)];
      return next ? { ...target, box: next.address, client: next.client } : target;
    });
  }

  /** Boxes for lost shards that hold none of `taken`, as many as there are. */
  freshTargets(indices: readonly number[], taken: readonly string[]): Omit<Target, "generation">[] {
    const free = this.#share
      ? this.#candidates
      : this.#candidates.filter(({ address }) => !taken.includes(address));
    return indices.slice(0, this.#share ? indices.length : free.length).flatMap((index, at) => {
      const box = free[at % Math.max(1, free.length)];
      return box ? [{ index, box: box.address, client: box.client }] : [];
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { client } of this.#known.values()) client[Symbol.dispose]();
  }

  #target(index: number, at: number): Target {
    const box = this.#candidates[at % this.#candidates.length];
    if (!box) throw usage("Cannot choose boxes: none is known");
    this.#used = Math.max(this.#used, Math.min(at + 1, this.#candidates.length));
    return { index, generation: 1, box: box.address, client: box.client };
  }

  async #reachOne(name: string): Promise<Known> {
    const reach = await reachBox(this.#cli, name, this.#options);
    const address = formatAddress(reach.address);
    const known = this.#known.get(address);
    if (known) return known;
    const client = new BoxClient({ address: reach.address, dial: reach.dial, isolation: newIsolation() });
    const made = { address, reach, client };
    this.#known.set(address, made);
    return made;
  }
}
