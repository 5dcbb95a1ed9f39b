// A saved load balancer by its name, and the places where it may be found: its box, and its standby's.

import { SELF } from "../../wire/policy.ts";
import { parseInstanceId, parseInvocationToken, parseShutdownToken } from "../../wire/token.ts";
import { formatAddress, tryParseAddress } from "../address.ts";
import { BoxClient } from "../client.ts";
import type { BalancerEntry } from "../context.ts";
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
  /** Asked when the saved instance has ended; what is found is saved. */
  const newestAt =
    (client: BoxClient, invocationToken: string | undefined, save: (to: BalancerEntry, id: string) => void) =>
    async (signal: AbortSignal) => {
      if (invocationToken === undefined) return undefined;
      const instance = await newestInstance(client, parseInvocationToken(invocationToken), { signal });
      if (instance !== undefined)
        await cli.context.update((data) => {
          const kept = data.balancers[name];
          if (kept) save(kept, instance);
        });
      return instance;
    };
  const client = clientOf(found.reach, found.isolation);
  const places: Place[] = [
    {
      kind: "primary",
      label: boxLabel(found.reach),
      client,
      instance: parseInstanceId(entry.instance),
      shutdownToken: found.value,
      findNewest: newestAt(client, functions[name]?.invocationToken, (kept, instance) => {
        kept.instance = instance;
      }),
    },
  ];
  const { standby } = entry;
  if (standby?.instance !== undefined && standby.shutdownToken !== undefined) {
    const { box, direct, socks, relay, control, isolation } = standby;
    const reach = await reachBox(cli, box, { direct, socks, relay, torControl: control });
    const other = clientOf(reach, isolation);
    places.push({
      kind: "standby",
      label: boxLabel(reach),
      client: other,
      instance: parseInstanceId(standby.instance),
      shutdownToken: parseShutdownToken(standby.shutdownToken),
      findNewest: newestAt(other, standby.invocationToken, (kept, instance) => {
        if (kept.standby) kept.standby.instance = instance;
      }),
    });
  }
  return { name, entry, places, [Symbol.dispose]: () => stack.dispose() };
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
