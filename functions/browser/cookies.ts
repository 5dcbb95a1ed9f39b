// Cookies of one visit (RFC 6265 section 5): sites that set one and redirect to themselves would never arrive
// without. The jar ends with the visit. No public suffix list: nothing outlives the page that a wide cookie could harm.

import { BrowserLimits as Limits } from "./limits.ts";

interface Cookie {
  readonly name: string;
  readonly value: string;
  readonly domain: string;
  readonly isHostOnly: boolean;
  readonly path: string;
  readonly isSecure: boolean;
}

export class CookieJar {
  /** By name, domain and path; the oldest goes first. */
  readonly #cookies = new Map<string, Cookie>();

  /** Takes the Set-Cookie headers of an answer from `url`. */
  store(url: URL, headers: readonly string[]): void {
    for (const header of headers.slice(0, Limits.cookiesMax)) {
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
  header(url: URL): string {
    return [...this.#cookies.values()]
      .filter((cookie) => matches(cookie, url))
      .sort((a, b) => b.path.length - a.path.length)
      .map((cookie) => `${cookie.name}=${cookie.value}`)
      .join("; ")
      .slice(0, 2 * Limits.cookieBytesMax);
  }
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
  let maxAge: number | undefined;
  let expires: number | undefined;
  for (const attribute of attributes) {
    const [key = "", ...rest] = attribute.split("=");
    const text = rest.join("=").trim();
    switch (key.trim().toLowerCase()) {
      case "domain": {
        const wanted = text.replace(/^\./, "").toLowerCase();
        if (wanted === "") break;
        if (!isWithin(url.hostname, wanted) || (!wanted.includes(".") && wanted !== url.hostname))
          return undefined;
        domain = wanted;
        isHostOnly = wanted === url.hostname && /^[\d.]+$|:/.test(wanted);
        break;
      }
      case "path":
        if (text.startsWith("/")) path = text;
        break;
      case "secure":
        isSecure = true;
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
  const isExpired = maxAge === undefined ? expires !== undefined && expires < Date.now() : maxAge <= 0;
  return { cookie: { name, value, domain, isHostOnly, path, isSecure }, isExpired };
}
