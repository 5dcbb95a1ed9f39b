// A saved load balancer by its name, and the places where it may be found: its box, and its standby's.

import { parseInstanceId, parseShutdownToken } from "../../wire/token.ts";
import { BoxClient } from "../client.ts";
import type { BalancerEntry } from "../context.ts";
import type { Place } from "../loadbalancer/follow.ts";
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
  const { balancers } = await cli.context.read();
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
  const places: Place[] = [
    {
      kind: "primary",
      label: boxLabel(found.reach),
      client: clientOf(found.reach, found.isolation),
      instance: parseInstanceId(entry.instance),
      shutdownToken: found.value,
    },
  ];
  const { standby } = entry;
  if (standby?.instance !== undefined && standby.shutdownToken !== undefined) {
    const { box, direct, socks, relay, control, isolation } = standby;
    const reach = await reachBox(cli, box, { direct, socks, relay, torControl: control });
    places.push({
      kind: "standby",
      label: boxLabel(reach),
      client: clientOf(reach, isolation),
      instance: parseInstanceId(standby.instance),
      shutdownToken: parseShutdownToken(standby.shutdownToken),
    });
  }
  return { name, entry, places, [Symbol.dispose]: () => stack.dispose() };
}
