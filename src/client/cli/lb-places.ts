// A saved load balancer by its name, and the places where it may be found: its box, and those where a standby is or may be.

import { SELF } from "../../wire/policy.ts";
import { parseInstanceId, parseInvocationToken, parseShutdownToken } from "../../wire/token.ts";
import { formatAddress, tryParseAddress } from "../address.ts";
import { BoxClient } from "../client.ts";
import type { BalancerEntry, StandbyEntry } from "../context.ts";
import type { Place } from "../loadbalancer/follow.ts";
import { newestInstance } from "../loadbalancer/start.ts";
import { nearest } from "../nearest.ts";
import { boxLabel, type Cli, type ReachOptions, reachBox, usage } from "./cli.ts";
import { findOwned } from "./credentials.ts";

/** Disposing it closes its connections. */
export interface FoundBalancer extends Disposable {
  readonly name: string;
  readonly entry: BalancerEntry;
  /** The first one is the load balancer itself. */
  readonly places: readonly Place[];
}

/** Without a name the only one there is. Throws "usage". */
export async function findBalancer(
  cli: Cli,
  given: string | undefined,
  options: ReachOptions,
): Promise<FoundBalancer> {
  const { balancers, functions } = await cli.context.read();
  const names = Object.keys(balancers);
  const name = given ?? (names.length === 1 ? names[0] : undefined);
  const entry = name !== undefined && Object.hasOwn(balancers, name) ? balancers[name] : undefined;
  if (name === undefined || !entry) {
    const near = given === undefined ? undefined : nearest(given, names);
    throw usage(
      given === undefined
        ? "Cannot choose a load balancer: none is named"
        : `Cannot find load balancer "${given.slice(0, 80)}": no such name is saved`,
      near
        ? `Did you mean ${near}?`
        : names.length > 0
          ? `Saved: ${names.join(", ")}.`
          : "`bento lb start` starts one.",
    );
  }
  const stack = new DisposableStack();
  const found = await findOwned(cli, name, options);
  const clientOf = (reach: typeof found.reach, isolation: string) =>
    stack.use(new BoxClient({ address: reach.address, dial: reach.dial, isolation }));
  /** What is found is saved. */
  const newestAt =
    (client: BoxClient, invocationToken: string, save: (to: BalancerEntry, id: string) => void) =>
    async (signal: AbortSignal) => {
      const newest = await newestInstance(client, parseInvocationToken(invocationToken), { signal });
      const { instance } = newest;
      if (instance !== undefined)
        await cli.context.update((data) => {
          const kept = data.balancers[name];
          if (kept) save(kept, instance);
        });
      return newest;
    };
  const client = clientOf(found.reach, found.isolation);
  const { invocationToken, expiresAt } = functions[name] ?? {};
  const places: Place[] = [
    {
      kind: "primary",
      label: boxLabel(found.reach),
      client,
      instance: parseInstanceId(entry.instance),
      shutdownToken: found.value,
      expiresAt,
      ...(invocationToken === undefined
        ? {}
        : {
            findNewest: newestAt(client, invocationToken, (kept, instance) => {
              kept.instance = instance;
            }),
          }),
    },
  ];
  for (const standby of standbysOf(entry)) {
    const { box, direct, socks, relay, control, isolation, address } = standby;
    // Nothing of ours was ever there, as far as we were told.
    if (standby.shutdownToken === undefined || standby.invocationToken === undefined) continue;
    const reach = await reachBox(cli, box, { direct, socks, relay, torControl: control });
    const other = clientOf(reach, isolation);
    places.push({
      kind: "standby",
      label: boxLabel(reach),
      client: other,
      instance: standby.instance === undefined ? undefined : parseInstanceId(standby.instance),
      shutdownToken: parseShutdownToken(standby.shutdownToken),
      expiresAt: standby.expiresAt,
      findNewest: newestAt(other, standby.invocationToken, (kept, instance) => {
        const saved = standbysOf(kept).find((one) => one.address === address);
        if (saved) saved.instance = instance;
      }),
    });
  }
  return { name, entry, places, [Symbol.dispose]: () => stack.dispose() };
}

/** Where standbys are, or may be, in the owner's order. */
export function standbysOf({ standby, reserves = [] }: BalancerEntry): StandbyEntry[] {
  return standby ? [standby, ...reserves] : [];
}

/** For people: `box0, box1`. */
export function labelsOf(places: readonly Place[]): string {
  return places.map(({ label }) => label).join(", ");
}

/** What reports call the boxes that this user knows by name; "self" is the box that reports. */
export async function namesOfBoxes(cli: Cli, self: string): Promise<ReadonlyMap<string, string>> {
  const { boxes } = await cli.context.read();
  const names = new Map([[SELF, self]]);
  for (const [name, { address }] of Object.entries(boxes)) {
    const parsed = tryParseAddress(address);
    for (const known of [address, parsed && formatAddress(parsed), parsed?.host]) {
      if (known !== undefined) names.set(known, name);
    }
  }
  return names;
}
