// The boxes of a sharded file: which hold its shards, and how each is reached, over circuits of its own. Shards lie on
// different boxes unless sharing is asked for by name, and by wish beside different relays, families, in some regions.

import { DISTINCT } from "../../wire/choose-boxes.ts";
import { formatAddress } from "../address.ts";
import { chooseAmong } from "../choose-boxes.ts";
import { BoxClient, newIsolation } from "../client.ts";
import type { Target } from "../shard/place.ts";
import type { PlacedShard } from "../shard/receipt.ts";
import { type Cli, type Reach, type ReachOptions, reachBox, usage } from "./cli.ts";

export interface ShardReachOptions extends Omit<ReachOptions, "box"> {
  readonly box?: readonly string[] | undefined;
  /** Several shards on one box. */
  readonly shareBoxes?: boolean | undefined;
  readonly distinct?: readonly string[] | undefined;
  readonly region?: readonly string[] | undefined;
  readonly avoidRegion?: readonly string[] | undefined;
}

interface Known {
  /** As it stands in receipts. */
  readonly address: string;
  readonly reach: Reach;
  readonly client: BoxClient;
  /** Fingerprint of its relay, as it says, where it was asked. */
  relay?: string | undefined;
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

  /**
   * Boxes for `count` shards: those named, else all of the running network, of these the ones that meet the wishes.
   * `taken` are not to be chosen: boxes and relays that hold other shards. Throws "usage" when they are too few.
   */
  static async choose(
    cli: Cli,
    options: ShardReachOptions,
    { count, taken = [] }: { readonly count: number; readonly taken?: readonly string[] },
  ): Promise<ShardBoxes> {
    const boxes = new ShardBoxes(cli, options);
    const named = (options.box ?? []).flatMap((text) => text.split(",")).filter((text) => text !== "");
    const names = named.length > 0 ? named : Object.keys((await cli.context.read()).boxes);
    const candidates: Known[] = [];
    for (const name of names) candidates.push(await boxes.#reachOne(name));
    boxes.#candidates = [...new Set(candidates)];
    boxes.#share = options.shareBoxes ?? false;
    const reasons = await boxes.#narrow(options, count, taken);
    const found = boxes.#candidates.length;
    if (names.length === 0 && count > 0)
      throw usage("Cannot choose boxes: none is named and no network is running", "Name them with --box.");
    if (found < count && (found === 0 || !boxes.#share)) {
      throw usage(
        `Cannot choose boxes: ${count} shards want as many boxes, ${found} ${reasons === "" ? "are known" : `suit (${reasons})`}`,
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

  /** The box that takes a file once and hands its shards on. */
  async through(name: string): Promise<{ readonly client: BoxClient; readonly box: string }> {
    const { client, address } = await this.#reachOne(name);
    return { client, box: address };
  }

  /** A box for each shard. */
  targets(indices: readonly number[]): Target[] {
    this.#used = Math.min(indices.length, this.#candidates.length);
    return indices.flatMap((index, at) => {
      const box = this.#candidates[at % this.#candidates.length];
      return box ? [{ ...targetAt(box, index), generation: 1 }] : [];
    });
  }

  /** Other boxes for shards that could not be put, the same one again where there is no other. */
  otherTargets(failed: readonly Target[]): Target[] {
    const bad = new Set(failed.map(({ box }) => box));
    const unused = this.#share ? this.#candidates : this.#candidates.slice(this.#used);
    const spare = unused.filter(({ address }) => !bad.has(address));
    return failed.map((target, at) => {
      const next = this.#share ? spare[at % Math.max(1, spare.length)] : spare[at];
      if (!next) return target;
      if (!this.#share) this.#used = Math.max(this.#used, this.#candidates.indexOf(next) + 1);
      return { ...target, ...targetAt(next, target.index) };
    });
  }

  /** Boxes for lost shards that hold none of `taken`, as many as there are. */
  freshTargets(indices: readonly number[], taken: readonly string[]): Omit<Target, "generation">[] {
    const free = this.#share
      ? this.#candidates
      : this.#candidates.filter(({ address }) => !taken.includes(address));
    return indices.slice(0, this.#share ? indices.length : free.length).flatMap((index, at) => {
      const box = free[at % Math.max(1, free.length)];
      return box ? [targetAt(box, index)] : [];
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { client } of this.#known.values()) client[Symbol.dispose]();
  }

  /** Asks the candidates where there is something to choose; returns why the others do not suit. */
  async #narrow(options: ShardReachOptions, count: number, taken: readonly string[]): Promise<string> {
    const distinct = (options.distinct ?? []).map((kind) => {
      const known = DISTINCT.find((one) => one === kind);
      if (!known) throw usage(`Cannot tell boxes apart by "${kind}": wanted ${DISTINCT.join(" or ")}`);
      return known;
    });
    const { region: regions, avoidRegion: avoidRegions } = options;
    const hasWishes = distinct.length > 0 || regions !== undefined || avoidRegions !== undefined;
    if (!hasWishes && this.#candidates.length <= count) return "";
    const { chosen, left } = await chooseAmong(
      this.#candidates.map(({ address, reach }) => ({
        name: address,
        address: reach.address,
        dial: reach.dial,
      })),
      {
        constraints: {
          count: this.#candidates.length,
          distinct,
          regions,
          avoidRegions,
          not: hasWishes ? taken : [],
        },
        all: true,
        signal: this.#cli.signal,
      },
    );
    this.#candidates = chosen.flatMap(({ box, relay }) => {
      const known = this.#known.get(box);
      if (known) known.relay = relay ?? undefined;
      return known ? [known] : [];
    });
    return left.map(({ box, reason }) => `${box}: ${reason}`).join("; ");
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

function targetAt(box: Known, index: number): Omit<Target, "generation"> {
  const { address, relay, client } = box;
  return { index, box: address, relay, client };
}
