// `<use href="icons.svg#name">`: a self-contained page cannot refer into another file, and browsers take no data: URL
// there. The file's drawing is put into the page once, unseen, with names of its own, and referred to there.

import { defaultTreeAdapter } from "parse5";
import { parseHtml } from "../../wire/page/html.ts";
import { sniffImage } from "../../wire/page/text.ts";
import type { Place } from "./sanitize.ts";
import {
  append,
  childNamed,
  type Document,
  type Element,
  elementsOf,
  getAttribute,
  NS,
  setAttribute,
} from "./tree.ts";

/** Files of symbols per page, and their size: pages have one or two. */
const SPRITES_MAX = 32;
const SPRITE_BYTES_MAX = 1024 * 1024;
const SPRITE_ELEMENTS_MAX = 20_000;

export function embedSprites(document: Document, place: Place, isOver: () => boolean): void {
  const html = childNamed(document, "html");
  const body = html && childNamed(html, "body");
  if (!body) return;
  const prefixes = new Map<string, string | undefined>();
  for (const use of [...elementsOf(body)].filter(
    (one) => one.tagName === "use" && one.namespaceURI === NS.SVG,
  )) {
    const href = use.attrs.find((one) => one.name === "href");
    const url = href && !href.value.trim().startsWith("#") ? URL.parse(href.value.trim(), place.base) : null;
    if (!href || !url) continue;
    const name = url.hash.slice(1);
    url.hash = "";
    if (!prefixes.has(url.href) && prefixes.size < SPRITES_MAX) {
      prefixes.set(url.href, embed(body, url.href, `bento-sprite-${prefixes.size}-`, place, isOver));
    }
    const prefix = prefixes.get(url.href);
    if (prefix !== undefined) href.value = `#${prefix}${name}`;
  }
}

/** Appends the drawing to `body`; the prefix of its names, or undefined when it is not there. */
function embed(
  body: Element,
  url: string,
  prefix: string,
  place: Place,
  isOver: () => boolean,
): string | undefined {
  const record = place.assets.find(url, place.base);
  if (!record || record.body.length > SPRITE_BYTES_MAX || sniffImage(record.body) !== "image/svg+xml") {
    return undefined;
  }
  const text = new TextDecoder().decode(record.body);
  const { document } = parseHtml(text, defaultTreeAdapter, { elementsMax: SPRITE_ELEMENTS_MAX, isOver });
  const svg = [...elementsOf(document)].find((one) => one.tagName === "svg" && one.namespaceURI === NS.SVG);
  if (!svg) return undefined;
  for (const element of [svg, ...elementsOf(svg)]) {
    for (const one of element.attrs) {
      if (one.name === "id") one.value = `${prefix}${one.value}`;
      else if (one.name === "href" && one.value.startsWith("#"))
        one.value = `#${prefix}${one.value.slice(1)}`;
      else one.value = one.value.replace(/url\((["']?)#/g, `url($1#${prefix}`);
    }
  }
  if (getAttribute(svg, "id") === undefined) setAttribute(svg, "id", prefix);
  setAttribute(svg, "style", "position:absolute;width:0;height:0;overflow:hidden");
  setAttribute(svg, "aria-hidden", "true");
  append(body, svg);
  return prefix;
}
