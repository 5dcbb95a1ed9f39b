// Two owners at one firewall who do whatever comes to their minds: any call, with handles that are theirs, the other's or
// nobody's. After each call the other must have what it had, and nothing that one is told may come from the other.
// Runs on the fake tor and on a real one; `leaky` is the same firewall with its ownership check taken out.

import assert from "node:assert/strict";
import * as fc from "fast-check";
import { BentoError } from "../../src/base/errors.ts";
import type { Hop } from "../../src/tor/firewall/choose-path.ts";
import type { TorUse } from "../../src/tor/firewall/owner.ts";

export const CALLS = [
  "launch",
  "built",
  "extend",
  "close",
  "connect",
  "connectAnywhere",
  "resolve",
  "openOnion",
  "published",
  "accept",
  "closeOnion",
  "closeStream",
  "relays",
] as const;

export interface Move {
  /** 0 or 1. */
  readonly who: number;
  readonly call: (typeof CALLS)[number];
  /** A guess at something's handle. */
  readonly handle: number;
}

export const moves = (max: number): fc.Arbitrary<Move[]> =>
  fc.array(
    fc.record({ who: fc.nat(1), call: fc.constantFrom(...CALLS), handle: fc.integer({ min: 1, max: 8 }) }),
    {
      minLength: 5,
      maxLength: max,
    },
  );

export interface Rival {
  readonly use: TorUse;
  /** What nobody else names: its circuits' hops, the host it connects to. */
  readonly hops: readonly Hop[];
  readonly host: string;
  readonly port: number;
  /** What must never be told to the other. */
  readonly secrets: string[];
}

export interface World {
  readonly rivals: readonly [Rival, Rival];
  /** What they watch. */
  readonly kinds: Parameters<TorUse["watch"]>[0];
  /** What neither may learn. */
  readonly secrets: readonly string[];
  /** Looks at tor itself, after each move. Throws when something went to tor that may not. */
  readonly check: (move: Move) => Promise<void>;
}

/** Plays the moves one by one. Throws as soon as one owner has an effect on the other, or hears of it. */
export async function play(world: World, played: readonly Move[]): Promise<void> {
  const told: string[][] = [[], []];
  const watches = world.rivals.map(({ use }, who) => {
    const watch = use.watch(world.kinds);
    const done = (async () => {
      for await (const event of watch) told[who]?.push(JSON.stringify(event));
    })();
    done.catch(() => {
      // Awaited below, unless the game ends before.
    });
    return { watch, done };
  });
  const opened: { destroy(): void }[] = [];
  for (const move of played) {
    const mine = world.rivals[move.who];
    const other = world.rivals[1 - move.who];
    assert.ok(mine && other);
    const before = handlesOf(other.use);
    const answer = await makeMove(mine, move, opened);
    told[move.who]?.push(answer, JSON.stringify(handlesOf(mine.use)));
    assert.deepEqual(handlesOf(other.use), before, `${move.call} of one changed what the other has`);
    await world.check(move);
  }
  for (const stream of opened) stream.destroy();
  for (const { watch, done } of watches) {
    watch.close();
    await done;
  }
  for (const [who, heard] of told.entries()) {
    const text = heard.join("\n");
    for (const secret of [...world.secrets, ...(world.rivals[1 - who]?.secrets ?? [])])
      assert.ok(!text.includes(secret), `one was told ${secret}, which is not its own`);
  }
}

function handlesOf(use: TorUse) {
  return {
    circuits: use.circuits().map(({ circuit }) => circuit),
    streams: use.streams().map(({ stream }) => stream),
    onions: use.onions().map(({ address }) => address),
  };
}

/** What the one who makes it is told. */
async function makeMove(rival: Rival, move: Move, opened: { destroy(): void }[]): Promise<string> {
  try {
    // The directory is everybody's.
    if (move.call === "relays") return `${(await rival.use.relays()).length}`;
    return JSON.stringify((await called(rival, move, opened)) ?? null);
  } catch (error) {
    if (!(error instanceof BentoError) && !(error instanceof DOMException)) throw error;
    return `${error.name} ${String(Reflect.get(error, "code"))} ${error.message}`;
  }
}

async function called(
  { use, hops, host, port, secrets }: Rival,
  { call, handle }: Move,
  opened: { destroy(): void }[],
): Promise<unknown> {
  const soon = AbortSignal.timeout(30_000);
  // What waits for others is not waited for.
  const now = AbortSignal.timeout(5);
  switch (call) {
    case "launch": {
      const { circuit } = await use.launchCircuit(hops);
      return use.built(circuit, soon);
    }
    case "built":
      return use.built(handle, now);
    case "extend":
      return use.extendCircuit(handle, hops.slice(1, 2));
    case "close":
      return use.closeCircuit(handle);
    case "connect":
    case "connectAnywhere": {
      const place = call === "connect" ? { circuit: handle } : {};
      const { stream, duplex } = await use.connect({ host, port, ...place }, soon);
      opened.push(duplex);
      duplex.resume();
      return { stream };
    }
    case "resolve":
      return use.resolve({ host, circuit: handle }, soon);
    case "openOnion": {
      const onion = await use.openOnion({ ports: [80], keepsKey: false });
      secrets.push(onion.address, onion.address.replace(".onion", ""));
      return onion;
    }
    case "published":
      return use.onionPublished(handle, now);
    case "accept":
      return use.acceptOnion(handle, now);
    case "closeOnion":
      return use.closeOnion(handle);
    case "closeStream":
      return use.closeStream(handle);
    case "relays":
      return undefined;
  }
}

/** `use` as it would be without its ownership check: what it does not have, it takes from the other. */
export function leaky(use: TorUse, other: TorUse): TorUse {
  return new Proxy(use, {
    get(target, name) {
      const own: unknown = Reflect.get(target, name);
      const theirs: unknown = Reflect.get(other, name);
      if (typeof own !== "function" || typeof theirs !== "function") return own;
      return (...args: unknown[]) => {
        const instead = (error: unknown) => {
          if (!(error instanceof BentoError) || error.code !== "tor-unknown") throw error;
          return Reflect.apply(theirs, other, args) as unknown;
        };
        try {
          const result = Reflect.apply(own, target, args) as unknown;
          return result instanceof Promise ? result.catch(instead) : result;
        } catch (error) {
          return instead(error);
        }
      };
    },
  });
}

/** `use` as it would be if events were not told apart by owner. */
export function overhearing(use: TorUse, other: TorUse): TorUse {
  return new Proxy(use, {
    get(target, name) {
      if (name !== "watch") {
        const own: unknown = Reflect.get(target, name);
        return typeof own === "function" ? (own.bind(target) as unknown) : own;
      }
      return (kinds: Parameters<TorUse["watch"]>[0]) => other.watch(kinds);
    },
  });
}
