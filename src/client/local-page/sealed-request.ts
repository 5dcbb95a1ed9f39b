// What a click in a page may ask of the local server: a request that this server wrote into the page itself. Links and
// forms of pages become paths `…/<request>.<tag>`; the tag is an HMAC under a key of this run, so that no other page
// in the user's browser can make the box fetch anything, and a page only what it shows.

import { createHmac, timingSafeEqual } from "node:crypto";

/** Longest path that is read: a URL of the digest's bound in base64, and the rest. */
export const SEALED_LENGTH_MAX = 16 * 1024;

/** A click: where to, how, and from which page. */
export interface SealedRequest {
  readonly url: string;
  readonly method: "GET" | "POST";
  /** URL of the page that it stands in. */
  readonly referrer: string;
}

export class RequestSealer {
  readonly #key: Uint8Array;

  /** @param key 32 random bytes */
  constructor(key: Uint8Array) {
    this.#key = key;
  }

  seal(request: SealedRequest): string {
    const { url, method, referrer } = request;
    const text = Buffer.from(JSON.stringify([url, method, referrer])).toString("base64url");
    return `${text}.${this.#tag(text)}`;
  }

  /** undefined for whatever this server did not write. */
  open(sealed: string): SealedRequest | undefined {
    if (sealed.length > SEALED_LENGTH_MAX) return undefined;
    const [text = "", tag = "", more] = sealed.split(".");
    const wanted = Buffer.from(this.#tag(text));
    const found = Buffer.from(tag);
    if (more !== undefined || found.length !== wanted.length || !timingSafeEqual(found, wanted)) {
      return undefined;
    }
    // Signed by us, so it has the form that we wrote.
    const [url, method, referrer] = JSON.parse(Buffer.from(text, "base64url").toString()) as [
      string,
      "GET" | "POST",
      string,
    ];
    return { url, method, referrer };
  }

  /** Label of the site's own origin under localhost: the same for all pages of one site in this run. */
  siteLabel(url: string): string {
    const { protocol, host } = new URL(url);
    const hash = createHmac("sha256", this.#key).update(`site ${protocol}//${host}`).digest("hex");
    return `s${hash.slice(0, 24)}`;
  }

  #tag(text: string): string {
    return createHmac("sha256", this.#key).update(`request ${text}`).digest("base64url");
  }
}
