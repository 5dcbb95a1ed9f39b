// The arguments of an invocation with a URL, which come from whoever holds the token: `browse(url, 1000000)` as in the
// paper, or with an object. Sessions have settings of their own (src/wire/browse.ts).

import { type BrowseSettings, decodeSettings, isFetchable } from "../../src/wire/browse.ts";
import type { PageRequest } from "./engine.ts";

export interface BrowseOptions {
  readonly request: PageRequest;
  readonly settings: BrowseSettings;
}

/** Throws Error with a message for the caller. `options` may be a number: the padding, as in `browse(url, pad)`. */
export function parseOptions(url: unknown, options: unknown = {}): BrowseOptions {
  const given = typeof options === "number" ? { pad: options } : options;
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw refusal(`options of type ${typeof options}`, "an object or a number");
  }
  const { pad = 0, ...settings } = given as { pad?: unknown };
  return {
    request: { url: parseUrl(url), method: "GET", body: undefined, referrer: undefined },
    settings: decodeSettings({ shape: { kind: "none", pad }, ...settings }),
  };
}

function parseUrl(text: unknown): URL {
  const url = isFetchable(text) ? URL.parse(text) : null;
  if (!url) throw refusal("the URL", "an http: or https: URL without user and password");
  url.hash = "";
  return url;
}

function refusal(found: string, wanted: string): Error {
  return new Error(`Cannot browse: found ${found}, expected ${wanted}`);
}

/** What Tor Browser says of itself, so that the box looks like its neighbours behind the exit. */
export const USER_AGENT = "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0";
