// Destinations in a manifest: `host:port` patterns (spec/policy 3.2). Read by the client's preview, by the box's
// grant and by its broker, so that all three mean the same.
//
//   *:443   example.org:80-90   *.example.org:*   192.0.2.1:22   [2001:db8::1]:443
//
// A name matches what the function asks for, not what it resolves to; `*.example.org` matches every name below
// example.org but not itself; an address matches that address asked for as such, in whatever spelling.

import { formatIp, type Host, parseHost } from "../base/ip-address.ts";

export interface Destination {
  readonly host:
    | { readonly kind: "any" }
    | { readonly kind: "below"; readonly suffix: string }
    | { readonly kind: "exactly"; readonly host: Exclude<Host, { kind: "refused" }> };
  readonly portMin: number;
  readonly portMax: number;
}

/** The form, for the manifest's JSON Schema; parseDestination also checks numbers and names. */
export const DESTINATION_PATTERN =
  /^(\*|\[[0-9a-fA-F:.]+\]|(?:\*\.)?[A-Za-z0-9_.-]+):(\*|\d{1,5}(?:-\d{1,5})?)$/;

/** undefined when `text` is no such pattern. */
export function parseDestination(text: string): Destination | undefined {
  const [, hostText, portText] = DESTINATION_PATTERN.exec(text) ?? [];
  if (hostText === undefined || portText === undefined) return undefined;
  const host = parsePatternHost(hostText);
  const [low = "", high = low] = portText === "*" ? ["1", "65535"] : portText.split("-");
  const [portMin, portMax] = [Number(low), Number(high)];
  if (!host || portMin < 1 || portMin > portMax || portMax > 65535) return undefined;
  return { host, portMin, portMax };
}

/** Whether one of the patterns covers what is asked for. */
export function covers(destinations: readonly Destination[], host: Host, port: number): boolean {
  return destinations.some(
    ({ host: pattern, portMin, portMax }) => port >= portMin && port <= portMax && coversHost(pattern, host),
  );
}

function coversHost(pattern: Destination["host"], host: Host): boolean {
  if (host.kind === "refused") return false;
  switch (pattern.kind) {
    case "any":
      return true;
    case "below":
      return host.kind === "name" && host.name.endsWith(pattern.suffix);
    case "exactly":
      return hostKey(pattern.host) === hostKey(host);
  }
}

function hostKey(host: Exclude<Host, { kind: "refused" }>): string {
  return host.kind === "name" ? host.name : formatIp(host.address);
}

function parsePatternHost(text: string): Destination["host"] | undefined {
  if (text === "*") return { kind: "any" };
  const isBelow = text.startsWith("*.");
  const host = parseHost(isBelow ? text.slice(2) : text);
  if (host.kind === "refused") return undefined;
  if (!isBelow) return { kind: "exactly", host };
  return host.kind === "name" ? { kind: "below", suffix: `.${host.name}` } : undefined;
}
