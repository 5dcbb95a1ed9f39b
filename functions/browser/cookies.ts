// The cookies of a session (RFC 6265 section 5, SameSite of its successor). They live in the instance and end with it.
// Parts of a page that come from another site get and set none: in a session of many pages they would only follow the
// reader about. Cookies for a whole suffix (`Domain=co.uk`) are refused, as far as site.ts knows suffixes.

import { BrowserLimits as Limits } from "./limits.ts";
import { isSuffix, siteOf } from "./site.ts";

interface Cookie {
  readonly name: string;
  readonly value: string;
  readonly domain: string;
  readonly isHostOnly: boolean;
  readonly path: string;
  readonly isSecure: boolean;
  readonly sameSite: "none" | "lax" | "strict";
  /** Unix milliseconds; infinite for as long as the session. */
  readonly expiresAtMs: number;
}

/** What a request is for. */
export interface CookieUse {
  /** The page itself, not a part of it. */
  readonly isNavigation: boolean;
  /** The page that the part belongs to, or that linked here; undefined where an address was typed. */
  readonly from: URL | undefined;
  readonly isPost: boolean;
}

export class CookieJar {
  /** By name, domain and path; the oldest goes first. */
  readonly #cookies = new Map<string, Cookie>();

  /** Takes the Set-Cookie headers of an answer from `url`. */
  store(url: URL, headers: readonly string[], use: CookieUse): void {
    if (!use.isNavigation && isCrossSite(url, use)) return;
    for (const header of headers.slice(0, Limits.cookiesPerAnswerMax)) {
      const parsed = header.length <= Limits.cookieBytesMax ? parseCookie(url, header) : undefined;
      if (!parsed) continue;
      const key = `${parsed.cookie.name}\n${parsed.cookie.domain}\n${parsed.cookie.path}`;
      this.#cookies.delete(key);
      if (!parsed.isExpired) this.#cookies.set(key, parsed.cookie);
      const oldest = this.#cookies.keys().next().value;
      if (this.#cookies.size > Limits.cookiesMax && oldest !== undefined) this.#cookies.delete(oldest);
    }
  }

  /** The Cookie header for a request to `url`; "" for none. */
  header(url: URL, use: CookieUse): string {
    const isForeign = isCrossSite(url, use);
    if (isForeign && !use.isNavigation) return "";
    const nowMs = Date.now();
    return [...this.#cookies.values()]
      .filter((cookie) => cookie.expiresAtMs > nowMs && matches(cookie, url))
      .filter(({ sameSite }) => !isForeign || sameSite === "none" || (sameSite === "lax" && !use.isPost))
      .sort((a, b) => b.path.length - a.path.length)
      .map((cookie) => `${cookie.name}=${cookie.value}`)
      .join("; ")
      .slice(0, 2 * Limits.cookieBytesMax);
  }
}

function isCrossSite(url: URL, { from }: CookieUse): boolean {
  return from !== undefined && siteOf(from.hostname) !== siteOf(url.hostname);
}

function matches(cookie: Cookie, url: URL): boolean {
  if (cookie.isSecure && url.protocol !== "https:") return false;
  if (cookie.isHostOnly ? url.hostname !== cookie.domain : !isWithin(url.hostname, cookie.domain))
    return false;
  const { path } = cookie;
  return url.pathname === path || url.pathname.startsWith(path.endsWith("/") ? path : `${path}/`);
}

function isWithin(host: string, domain: string): boolean {
  return host === domain || (host.endsWith(`.${domain}`) && !/^[\d.]+$|:/.test(host));
}

/** `sid=1; Path=/; Domain=a.test; Secure; Max-Age=0` */
function parseCookie(url: URL, header: string): { cookie: Cookie; isExpired: boolean } | undefined {
  const [pair = "", ...attributes] = header.split(";");
  const equals = pair.indexOf("=");
  const name = pair.slice(0, Math.max(equals, 0)).trim();
  const value = pair.slice(equals + 1).trim();
  if (name === "" || /[^\x21-\x7e]/.test(name) || /[^\x20-\x7e]/.test(value)) return undefined;
  let domain = url.hostname;
  let isHostOnly = true;
  let path = url.pathname.replace(/\/[^/]*$/, "") || "/";
  let isSecure = false;
  let sameSite: Cookie["sameSite"] = "lax";
  let maxAge: number | undefined;
  let expires: number | undefined;
  for (const attribute of attributes) {
    const [key = "", ...rest] = attribute.split("=");
    const text = rest.join("=").trim();
    switch (key.trim().toLowerCase()) {
      case "domain": {
        const wanted = text.replace(/^\./, "").toLowerCase();
        if (wanted === "") break;
        if (!isWithin(url.hostname, wanted) || (isSuffix(wanted) && wanted !== url.hostname))
          return undefined;
        domain = wanted;
        isHostOnly = isSuffix(wanted) || /^[\d.]+$|:/.test(wanted);
        break;
      }
      case "path":
        if (text.startsWith("/")) path = text;
        break;
      case "secure":
        isSecure = true;
        break;
      case "samesite":
        if (/^(none|strict)$/i.test(text)) sameSite = text.toLowerCase() as Cookie["sameSite"];
        break;
      case "max-age":
        if (/^-?\d{1,15}$/.test(text)) maxAge = Number(text);
        break;
      case "expires":
        expires = Date.parse(text);
        break;
      default:
    }
  }
  if (isSecure && url.protocol !== "https:") return undefined;
  if (/^__secure-/i.test(name) && !isSecure) return undefined;
  if (/^__host-/i.test(name) && !(isSecure && isHostOnly && path === "/")) return undefined;
  // What is not secure goes along with posts from other sites only if it says so over https.
  if (sameSite === "none" && !isSecure) sameSite = "lax";
  const nowMs = Date.now();
  const expiresAtMs =
    maxAge !== undefined
      ? nowMs + 1000 * maxAge
      : Number.isFinite(expires)
        ? (expires ?? 0)
        : Number.POSITIVE_INFINITY;
  const cookie = { name, value, domain, isHostOnly, path, isSecure, sameSite, expiresAtMs };
  return { cookie, isExpired: expiresAtMs <= nowMs };
}
