// The arguments of an invocation, which come from whoever holds the token: checked here, once.

import { DigestLimits } from "../../src/wire/digest.ts";
import { BrowserLimits as Limits } from "./limits.ts";

export interface BrowseOptions {
  readonly url: URL;
  /** The stream's length is a multiple of this many bytes; 0 = no padding. */
  readonly pad: number;
  /** When fetching stops, whatever has come: milliseconds. */
  readonly deadlineMs: number;
  /** All bodies of the page together: bytes. */
  readonly bytesMax: number;
  /** Whether scripts are fetched. The client's page never holds them; an archive may. */
  readonly scripts: boolean;
  readonly userAgent: string;
}

/** What Tor Browser says of itself, so that the box looks like its neighbours behind the exit. */
const USER_AGENT = "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0";

/** Throws Error with a message for the caller. `options` may be a number: the padding, as in `browse(url, pad)`. */
export function parseOptions(url: unknown, options: unknown = {}): BrowseOptions {
  const given = typeof options === "number" ? { pad: options } : options;
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw refusal(`options of type ${typeof options}`, "an object or a number");
  }
  const known = new Set(["pad", "deadlineMs", "bytesMax", "scripts", "userAgent"]);
  for (const name of Object.keys(given)) {
    if (!known.has(name)) throw refusal(`option ${JSON.stringify(name.slice(0, 40))}`, [...known].join(", "));
  }
  const get = (name: string): unknown => Reflect.get(given, name);
  const scripts = get("scripts") ?? true;
  if (typeof scripts !== "boolean") throw refusal(`scripts ${typeof scripts}`, "true or false");
  const userAgent = get("userAgent") ?? USER_AGENT;
  if (typeof userAgent !== "string" || !/^[\x20-\x7e]{1,256}$/.test(userAgent)) {
    throw refusal("a user agent", "1 to 256 printable ASCII characters");
  }
  return {
    url: parseUrl(url),
    pad: integer("pad", get("pad") ?? 0, 0, DigestLimits.paddingBytesMax),
    deadlineMs: integer(
      "deadlineMs",
      get("deadlineMs") ?? 30_000,
      Limits.deadlineMsMin,
      Limits.deadlineMsMax,
    ),
    bytesMax: integer(
      "bytesMax",
      get("bytesMax") ?? 32 * 1024 * 1024,
      Limits.bytesMaxMin,
      Limits.bytesMaxMax,
    ),
    scripts,
    userAgent,
  };
}

function parseUrl(text: unknown): URL {
  const url = typeof text === "string" && text.length <= DigestLimits.urlBytesMax ? URL.parse(text) : null;
  if (!url || !isFetchable(url)) throw refusal("the URL", "an http: or https: URL without user and password");
  url.hash = "";
  return url;
}

/** http or https, without credentials, not longer than the digest can name. */
export function isFetchable(url: URL): boolean {
  return (
    (url.protocol === "http:" || url.protocol === "https:") &&
    url.username === "" &&
    url.password === "" &&
    url.href.length <= DigestLimits.urlBytesMax
  );
}

function integer(name: string, value: unknown, min: number, max: number): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= min && value <= max) return value;
  throw refusal(`${name} ${String(value).slice(0, 40)}`, `a whole number from ${min} to ${max}`);
}

function refusal(found: string, wanted: string): Error {
  return new Error(`Cannot browse: found ${found}, expected ${wanted}`);
}
