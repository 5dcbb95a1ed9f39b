// The parts of a digest as the page writer puts them into the page: looked up by URL, checked by their bytes, and
// stood for by short place holders until the page is final, so that megabytes are not parsed again and again.

import { randomUUID } from "node:crypto";
import { concat, utf8 } from "../../base/bytes.ts";
import type { ContentRecord } from "../../wire/digest.ts";
import { rewriteCss, scanCss } from "../../wire/page/css.ts";
import { parseDataUrl } from "../../wire/page/data-url.ts";
import { decodeCss, essenceOf, resolveUrl, sniffFont, sniffImage } from "../../wire/page/text.ts";

/** A URL that loads nothing and shows nothing. */
export const NOTHING = "data:,";
/** As in the function: `@import` within `@import`. */
const IMPORT_DEPTH_MAX = 8;
/** Text of style sheets put in, imports repeated: stops sheets that import each other many times. */
const STYLE_LENGTH_MAX = 32 * 1024 * 1024;
/** The written page. A digest's content is at most 96 MiB, a third more as base64. */
const PAGE_BYTES_MAX = 160 * 1024 * 1024;

export class Assets {
  readonly #resources: ReadonlyMap<string, ContentRecord>;
  readonly #marker = `bento-${randomUUID()}`;
  readonly #placed: { readonly type: string; readonly body: Uint8Array }[] = [];
  readonly #placeOf = new Map<ContentRecord, string | undefined>();
  #styleLength = 0;

  constructor(resources: ReadonlyMap<string, ContentRecord>) {
    this.#resources = resources;
  }

  find(reference: string, base: string): ContentRecord | undefined {
    const url = resolveUrl(reference, base);
    return url && this.#resources.get(url.href);
  }

  /** What to load instead of `reference` where an image belongs: a data: URL or undefined. Same answer when asked with its own. */
  image(reference: string, base: string): string | undefined {
    if (this.#isPlaced(reference)) return reference;
    if (/^\s*data:/i.test(reference)) return /^\s*data:image\//i.test(reference) ? reference : undefined;
    const record = this.find(reference, base);
    return record && this.#place(record, sniffImage(record.body));
  }

  font(reference: string, base: string): string | undefined {
    if (this.#isPlaced(reference)) return reference;
    if (/^data:/i.test(reference)) {
      return /^data:(font\/|application\/(x-)?(font|octet-stream|vnd\.ms-opentype))/i.test(reference)
        ? reference
        : undefined;
    }
    const record = this.find(reference, base);
    return record && this.#place(record, sniffFont(record.body));
  }

  /** Text of the style sheet that `reference` names, with everything put in; undefined when it is not there. */
  styleSheet(reference: string, base: string, charset: string): string | undefined {
    return this.#sheet(reference, base, charset, []);
  }

  /** `text` with every reference replaced by a data: URL. Text that went through this once is left as it is. */
  style(text: string, base: string, options: { inline: boolean }): string {
    return this.#style(text, base, options, []);
  }

  /** The final page: place holders filled in, as far as PAGE_BYTES_MAX. */
  fill(page: string): Uint8Array {
    const pieces: Uint8Array[] = [];
    const encoded = new Map<number, Uint8Array>();
    let left = PAGE_BYTES_MAX - page.length;
    let at = 0;
    for (const match of page.matchAll(new RegExp(`${NOTHING}${this.#marker}-(\\d{1,9})`, "g"))) {
      pieces.push(utf8(page.slice(at, match.index)));
      at = match.index + match[0].length;
      const number = Number(match[1]);
      const bytes = encoded.get(number) ?? this.#encode(number);
      encoded.set(number, bytes);
      left -= bytes.length;
      pieces.push(left >= 0 ? bytes : utf8(NOTHING));
    }
    pieces.push(utf8(page.slice(at)));
    return concat(pieces);
  }

  #encode(number: number): Uint8Array {
    const placed = this.#placed[number];
    if (!placed) return utf8(NOTHING);
    const { buffer, byteOffset, length } = placed.body;
    return utf8(`data:${placed.type};base64,${Buffer.from(buffer, byteOffset, length).toString("base64")}`);
  }

  #isPlaced(reference: string): boolean {
    return reference === NOTHING || reference.startsWith(`${NOTHING}${this.#marker}-`);
  }

  /** `type` is what the bytes are: what a server calls them is not asked, so that nothing but images and fonts gets in. */
  #place(record: ContentRecord, type: string | undefined): string | undefined {
    if (type === undefined) return undefined;
    const known = this.#placeOf.get(record);
    if (known !== undefined) return known;
    const place = `${NOTHING}${this.#marker}-${this.#placed.length}`;
    this.#placed.push({ type, body: record.body });
    this.#placeOf.set(record, place);
    return place;
  }

  #sheet(reference: string, base: string, charset: string, trail: readonly string[]): string | undefined {
    if (trail.length > IMPORT_DEPTH_MAX) return undefined;
    if (/^\s*data:/i.test(reference)) {
      const data = parseDataUrl(reference.trim());
      if (!data) return undefined;
      return this.#style(decodeCss(data.body, data.type, charset), base, { inline: false }, [
        ...trail,
        "data:",
      ]);
    }
    const record = this.find(reference, base);
    if (
      !record ||
      trail.includes(record.finalUrl) ||
      !["", "text/css", "text/plain"].includes(essenceOf(record.type))
    ) {
      return undefined;
    }
    const text = decodeCss(record.body, record.type, charset);
    return this.#style(text, record.finalUrl, { inline: false }, [...trail, record.finalUrl]);
  }

  #style(text: string, base: string, options: { inline: boolean }, trail: readonly string[]): string {
    this.#styleLength += text.length;
    if (this.#styleLength > STYLE_LENGTH_MAX) return "";
    const scan = scanCss(text, options);
    const rewritten = rewriteCss(text, scan, (reference) => {
      if (reference.kind === "import") return this.#import(reference, base, trail);
      const data =
        reference.kind === "font" ? this.font(reference.url, base) : this.image(reference.url, base);
      if (data === reference.url) {
        const written = text.slice(reference.start, reference.end);
        // Strings that stand for a URL stay strings; what was written by us stays as it is.
        if (/^(url\("[^"\\]*"\)|"[^"\\]*")$/.test(written)) return written;
      }
      return `url("${cssString(data ?? NOTHING)}")`;
    });
    return withoutMarkup(rewritten);
  }

  /** The imported sheet in place of the rule (CSS Cascade 5 section 2). */
  #import(
    rule: { url: string; layer: string | undefined; supports: string | undefined; media: string },
    base: string,
    trail: readonly string[],
  ): string {
    const conditions = [rule.layer ?? "", rule.supports ?? "", rule.media];
    const text = conditions.every(isPlain) ? this.#sheet(rule.url, base, "utf-8", trail) : undefined;
    if (text === undefined) return " ";
    // ";{}" ends a rule that the text may leave without its block.
    let wrapped = `${text};{}\n`;
    if (rule.layer !== undefined) wrapped = `@layer ${rule.layer} {\n${wrapped}}\n`;
    if (rule.supports !== undefined) wrapped = `@supports (${rule.supports}) {\n${wrapped}}\n`;
    if (rule.media !== "") wrapped = `@media ${rule.media} {\n${wrapped}}\n`;
    return wrapped;
  }
}

/** Conditions that cannot end or open anything around them. */
function isPlain(condition: string): boolean {
  if (/[{}[\];\\"'<@]|\/\*/.test(condition) || /url\(/i.test(condition)) return false;
  let depth = 0;
  for (const character of condition) {
    if (character === "(") depth++;
    if (character === ")" && --depth < 0) return false;
  }
  return depth === 0;
}

/** What would be a tag in a document becomes an escape with the same meaning in strings and names. */
function withoutMarkup(css: string): string {
  return css.replace(/<(?=[a-z/!?])/gi, "\\3c ");
}

function cssString(text: string): string {
  return text.replace(/["\\\n\r\f]/g, (character) => `\\${character.charCodeAt(0).toString(16)} `);
}
