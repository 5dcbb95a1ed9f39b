// What is saved of a load balancer while it runs: where its standby is or may be; and that nothing is saved of it any more.
// Boundary: what is said about standbys comes from a box.

import { ProtocolError } from "../../base/errors.ts";
import type { StandbyPlace, StandbyReserve } from "../../wire/loadbalancer.ts";
import { parseInstanceId, parseInvocationToken, parseShutdownToken } from "../../wire/token.ts";
import { formatAddress, parseAddress, tryParseAddress } from "../address.ts";
import type { StandbyEntry } from "../context.ts";
import type { Cli } from "./cli.ts";
import { standbysOf } from "./lb-places.ts";

/**
 * Keeps where the standby is, or may be. The load balancer's box says so, and could name any machine: it has to be one of
 * those that were asked for.
 */
export async function saveStandby(
  cli: Cli,
  name: string,
  place: StandbyReserve & Partial<StandbyPlace>,
): Promise<void> {
  const said = tryParseAddress(place.box);
  const isSaid = (address: string) =>
    said !== undefined && formatAddress(said) === formatAddress(parseAddress(address));
  const known: Partial<StandbyEntry> = {
    invocationToken: parseInvocationToken(place.invocationToken),
    shutdownToken: parseShutdownToken(place.shutdownToken),
    ...(place.instance === undefined ? {} : { instance: parseInstanceId(place.instance) }),
    ...(place.expiresAt === undefined ? {} : { expiresAt: place.expiresAt }),
  };
  await cli.context.update((data) => {
    const entry = data.balancers[name];
    if (!entry?.standby) return;
    const wanted = standbysOf(entry).find(({ address }) => isSaid(address));
    if (wanted) Object.assign(wanted, known);
    // Where the load balancer itself was at first: the function there is the owner's own.
    else if (entry.own === undefined || !isSaid(entry.own))
      throw new ProtocolError("integrity", "Cannot trust box: it says that the standby is at another box");
  });
}

export async function forgetBalancer(cli: Cli, name: string): Promise<void> {
  await cli.context.update((data) => {
    delete data.functions[name];
    delete data.balancers[name];
  });
}
