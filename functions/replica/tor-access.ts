// What a box grants, in the forms that this code takes: links to relays, and a log. For the functions replica and
// loadbalancer; tests put other things in their places.

import type { Env, FunctionLog } from "bento/function";
import type { Log, LogFields } from "../../src/base/log.ts";
import { openGrantedLink } from "../../src/onion/link/stream-link.ts";
import type { TorAccess } from "./tor-node.ts";

/** Throws Error when the box granted no links to relays. */
export function torAccessOf({ relays }: Pick<Env, "relays">): TorAccess {
  if (!relays) throw new Error("Cannot reach Tor: no links to relays were granted");
  return {
    network: async () => relays.network(),
    openLink: async (relay, { signal }) => openGrantedLink(relays, relay, signal),
  };
}

/** Lines for the owner. Debug lines are left out: a box keeps few. */
export function functionLog(log: FunctionLog): Log {
  const line = (text: string, fields: LogFields = {}) => {
    const pairs = Object.entries(fields).filter(([, value]) => value !== undefined);
    return [text, ...pairs.map(([key, value]) => `${key}=${JSON.stringify(value)}`)].join(" ");
  };
  return {
    debug: () => undefined,
    info: (text, fields) => log.info(line(text, fields)),
    warn: (text, fields) => log.warn(line(text, fields)),
    error: (text, fields) => log.error(line(text, fields)),
  };
}
