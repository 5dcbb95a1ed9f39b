// Where links and forms of a written page lead. In a single file links stay what they are and forms lead nowhere; a page
// for the local page's server has them pointed at that server. Which is decided after writing, by whoever serves the
// page: the writer puts short place holders, so that it can work in a thread of its own.

import { randomUUID } from "node:crypto";
import { utf8 } from "../../base/bytes.ts";
import { escapeHtml } from "../../web/escape-html.ts";

export interface FormTarget {
  /** Absolute. */
  readonly url: string;
  readonly method: "get" | "post";
}

export interface PageLinks {
  /** What a link to `url` (absolute, http or https, perhaps with a fragment) has as its href. */
  linkTo(url: string): string;
  /** What a form that sends to `form` has as its action. */
  formAction(form: FormTarget): string;
  /** CSP source that the page's forms may send to, such as `'self'`. */
  readonly formSource: string;
}

/** What was placed, in the order of its numbers. */
export type PlacedLink =
  | { readonly kind: "link"; readonly url: string }
  | ({ readonly kind: "form" } & FormTarget);

/** Place holders of one page. Nobody outside can know the marker, so no page can hold one of its own. */
export class LinkPlaces {
  readonly marker: string;
  readonly placed: PlacedLink[] = [];
  readonly #placeOf = new Map<string, string>();

  constructor(marker = `bento-link-${randomUUID()}`) {
    this.marker = marker;
  }

  isPlaced(reference: string): boolean {
    return reference.startsWith(`${this.marker}-`);
  }

  place(link: PlacedLink): string {
    const key = `${link.kind === "form" ? link.method : ""} ${link.url}`;
    const known = this.#placeOf.get(key);
    if (known !== undefined) return known;
    const place = `${this.marker}-${this.placed.length}.`;
    this.placed.push(link);
    this.#placeOf.set(key, place);
    return place;
  }
}

/** The page with its place holders filled in. They stand in attributes, between double quotes. */
export function fillLinks(
  page: Uint8Array,
  marker: string,
  placed: readonly PlacedLink[],
  links: PageLinks,
): Uint8Array {
  const bytes = Buffer.from(page.buffer, page.byteOffset, page.length);
  const start = utf8(`${marker}-`);
  const parts: Uint8Array[] = [];
  let from = 0;
  for (let at = bytes.indexOf(start); at >= 0; at = bytes.indexOf(start, from)) {
    const end = bytes.indexOf(".", at + start.length);
    const link = placed[Number(bytes.toString("latin1", at + start.length, end))];
    const target = link && (link.kind === "form" ? links.formAction(link) : links.linkTo(link.url));
    parts.push(bytes.subarray(from, at), utf8(escapeHtml(target ?? "#")));
    from = end + 1;
  }
  parts.push(bytes.subarray(from));
  return Buffer.concat(parts);
}
