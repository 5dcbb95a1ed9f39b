// Where a box is: `host:port`, `[v6]:port`, or an onion address with or without a port. Typed by people, read from
// the context file, named by functions; resolved by Tor, never by the machine that reads it.

import { BentoError } from "../base/errors.ts";

export interface BoxAddress {
  /** Host name, IPv4 or IPv6 address without brackets, or `….onion`. */
  readonly host: string;
  readonly port: number;
}

/** The port an onion service of a box listens at when the address names none. */
export const ONION_PORT = 80;

const ONION = /^([a-z2-7]{56}\.onion)(?::(\d{1,5}))?$/i;
const BRACKETED = /^\[([0-9a-f:.]+)\]:(\d{1,5})$/i;
const PLAIN = /^([A-Za-z0-9._-]{1,255}):(\d{1,5})$/;

/** `"127.0.0.1:8000"`, `"[::1]:8000"`, `"….onion"`. undefined when the text has none of these forms. */
export function tryParseAddress(text: string): BoxAddress | undefined {
  const onion = ONION.exec(text);
  if (onion) return checked(onion[1], onion[2] ?? String(ONION_PORT));
  const match = BRACKETED.exec(text) ?? PLAIN.exec(text);
  return match ? checked(match[1], match[2]) : undefined;
}

/** As `tryParseAddress`; throws BentoError "usage" instead. */
export function parseAddress(text: string): BoxAddress {
  const address = tryParseAddress(text);
  if (address) return address;
  throw new BentoError(
    "usage",
    `Cannot use box address: found "${text.slice(0, 80)}", wanted host:port or ….onion`,
    {
      advice: "`bento net status` prints the boxes of the running network.",
    },
  );
}

/** The inverse of `parseAddress`; also the Host header. */
export function formatAddress(address: BoxAddress): string {
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `${host}:${address.port}`;
}

export function isOnion(address: BoxAddress): boolean {
  return address.host.endsWith(".onion");
}

function checked(host: string | undefined, portText: string | undefined): BoxAddress | undefined {
  const port = Number(portText);
  if (!host || port < 1 || port > 65_535) return undefined;
  return { host: host.toLowerCase(), port };
}
