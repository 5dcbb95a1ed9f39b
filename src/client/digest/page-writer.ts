// Turns the records of a digest into one HTML file that shows the page and asks the network for nothing when opened.
// The page comes from a stranger through another stranger: it is sanitized until reading what was written gives what
// was meant (a document may mean one thing to the first parser and another to the second), and a Content Security
// Policy stands in front as the second fence (spec/digest 5).

import { defaultTreeAdapter, html as htmlNames, serialize } from "parse5";
import { escapeHtml } from "../../web/escape-html.ts";
import type { ContentRecord, FailureRecord } from "../../wire/digest.ts";
import { parseHtml } from "../../wire/page/html.ts";
import { decodeHtml, essenceOf, isHtml, resolveUrl, sniffImage } from "../../wire/page/text.ts";
import { Assets } from "./assets.ts";
import { fillLinks, LinkPlaces, type PageLinks, type PlacedLink } from "./links.ts";
import { type Place, sanitize } from "./sanitize.ts";
import { embedSprites } from "./sprites.ts";
import { childrenOf, type Document, elementsOf, getAttribute, isText, NS, textOf } from "./tree.ts";

export interface PageContent {
  /** Undefined when the page could not be fetched; `failures` say why. */
  readonly page: ContentRecord | undefined;
  /** By URL as referred to. */
  readonly resources: ReadonlyMap<string, ContentRecord>;
  readonly failures: readonly FailureRecord[];
  /** Unix milliseconds, for the note in the page's head. */
  readonly receivedAtMs: number;
}

const POLICY =
  "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; media-src data:; " +
  "base-uri 'none'; form-action ";

/** Rounds of writing and reading again until nothing changes. Honest pages take one or two. */
const ROUNDS_MAX = 8;
/** Parsing of one page, all rounds. */
const PARSE_MS_MAX = 10_000;
/** Elements of one page: about a kilobyte of memory each while it is written. The longest pages have 100,000. */
const ELEMENTS_MAX = 250_000;
/** Text kept of a page that never settles. */
const FALLBACK_LENGTH_MAX = 4 * 1024 * 1024;
/** Missing parts named in the page's head. */
const NOTED_FAILURES_MAX = 50;

/** A document that was read, which takes nothing but itself. Good for one writing, which changes it. */
export interface ReadPage {
  readonly source: Source;
  readonly document: Document;
  readonly isWhole: boolean;
  /** Of PARSE_MS_MAX. */
  readonly leftMs: number;
}

/** What can be done of a page before its parts have come. */
export function readPage({ page, failures }: Pick<PageContent, "page" | "failures">): ReadPage {
  const source = sourceOf(page, failures);
  const parser = new TimedParser(PARSE_MS_MAX);
  const { document, isWhole } = parser.parse(source.html, ELEMENTS_MAX);
  return { source, document, isWhole, leftMs: parser.leftMs };
}

/** The whole file, UTF-8. Never throws for what a page holds. With `links`, as a page of the server that says where they lead. */
export function writePage(content: PageContent, links?: PageLinks, read = readPage(content)): Uint8Array {
  if (!links) return writeFile(content, read, undefined);
  const places = new LinkPlaces();
  const page = writeFile(content, read, { places, formSource: links.formSource });
  return fillLinks(page, places.marker, places.placed, links);
}

/** A page whose links are still place holders. */
export interface UnlinkedPage {
  readonly page: Uint8Array;
  readonly marker: string;
  readonly placed: readonly PlacedLink[];
}

/** writePage as far as it goes without knowing where links lead: for a thread that cannot be given functions. */
export function writeUnlinked(
  content: PageContent,
  formSource: string,
  read = readPage(content),
): UnlinkedPage {
  const places = new LinkPlaces();
  const page = writeFile(content, read, { places, formSource });
  return { page, marker: places.marker, placed: places.placed };
}

interface Linking {
  readonly places: LinkPlaces;
  readonly formSource: string;
}

/** Parses until its time is over. */
class TimedParser {
  readonly #endMs: number;

  constructor(ms: number) {
    this.#endMs = performance.now() + ms;
  }

  get leftMs(): number {
    return this.#endMs - performance.now();
  }

  readonly isOver = () => this.leftMs < 0;

  parse(text: string, elementsMax: number) {
    return parseHtml(text, defaultTreeAdapter, { elementsMax, isOver: this.isOver });
  }
}

function writeFile(content: PageContent, read: ReadPage, linking: Linking | undefined): Uint8Array {
  const { source } = read;
  let { document, isWhole } = read;
  const parser = new TimedParser(read.leftMs);
  const resources = new Map(content.resources);
  if (source.image) resources.set(source.documentUrl, source.image);
  const assets = new Assets(resources);
  const doctype = doctypeOf(document);
  const place: Place = {
    assets,
    documentUrl: source.documentUrl,
    base: baseOf(document, source.documentUrl),
    links: linking?.places,
  };
  embedSprites(document, place, parser.isOver);
  const head = headOf(content, isWhole, linking?.formSource ?? "'none'");
  let written = doctype + write(document, place);
  for (let round = 1; ; round++) {
    // What was cut to size must pass now.
    ({ document, isWhole } = parser.parse(written, 2 * ELEMENTS_MAX));
    // References have become absolute, and there is no base element any more.
    const again = doctype + write(document, { ...place, base: place.documentUrl });
    if (isWhole && again === written) break;
    written = again;
    if (round === ROUNDS_MAX || parser.isOver()) {
      const text = textOf(document, FALLBACK_LENGTH_MAX);
      written = `<!DOCTYPE html><html><head></head><body><pre>${escapeHtml(text)}</pre></body></html>`;
      break;
    }
  }
  return assets.fill(withHead(written, head));
}

function write(document: Document, place: Place): string {
  sanitize(document, place);
  keepFirstNewlines(document);
  return serialize(document, { scriptingEnabled: false });
}

/** HTML drops a newline right after these tags: one that is part of the text needs another in front. */
function keepFirstNewlines(document: Document): void {
  for (const element of elementsOf(document)) {
    const first = childrenOf(element)[0];
    const dropsNewline = ["pre", "textarea", "listing"].includes(element.tagName);
    if (
      dropsNewline &&
      element.namespaceURI === NS.HTML &&
      first &&
      isText(first) &&
      first.value.startsWith("\n")
    ) {
      first.value = `\n${first.value}`;
    }
  }
}

/** Attributes of `html` may hold anything but a quote: the first "<head" outside quotes is the tag. */
function withHead(written: string, head: string): string {
  const match = /^(?:<!DOCTYPE[^>]*>)?<html(?:\s+[^\s"=]+="[^"]*")*><head>/.exec(written);
  if (!match) return `<!DOCTYPE html><html><head>${head}</head><body></body></html>`;
  return written.slice(0, match[0].length) + head + written.slice(match[0].length);
}

function headOf(content: PageContent, isWhole: boolean, formSource: string): string {
  const { page, failures } = content;
  const lines = [
    `Fetched by Bento: ${page?.finalUrl ?? "nothing"}`,
    new Date(content.receivedAtMs).toISOString(),
    ...(isWhole ? [] : ["cut: the document is too large or too entangled to be shown whole"]),
    ...failures
      .slice(0, NOTED_FAILURES_MAX)
      .map((one) => `missing: ${one.url} (${one.reason} ${one.detail})`),
    ...(failures.length > NOTED_FAILURES_MAX ? [`and ${failures.length - NOTED_FAILURES_MAX} more`] : []),
  ];
  // Inside a comment "--" and ">" would end it.
  const note = lines
    .map((line) => line.replace(/[-<>\p{Cc}]+/gu, (found) => (found === "-" ? "-" : " ")))
    .join("\n");
  return (
    `<meta http-equiv="Content-Security-Policy" content="${POLICY}${formSource}"><meta charset="utf-8">` +
    `<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">\n<!--\n${note}\n-->\n`
  );
}

/** The document type that makes browsers lay out the page in the mode of the original. */
function doctypeOf(document: Document): string {
  switch (defaultTreeAdapter.getDocumentMode(document)) {
    case htmlNames.DOCUMENT_MODE.QUIRKS:
      return "";
    case htmlNames.DOCUMENT_MODE.LIMITED_QUIRKS:
      return '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">';
    default:
      return "<!DOCTYPE html>";
  }
}

function baseOf(document: Document, documentUrl: string): string {
  for (const element of elementsOf(document)) {
    const href =
      element.tagName === "base" && element.namespaceURI === NS.HTML && getAttribute(element, "href");
    if (href === false || href === undefined) continue;
    const url = resolveUrl(href, documentUrl);
    return url?.protocol === "http:" || url?.protocol === "https:" ? url.href : documentUrl;
  }
  return documentUrl;
}

interface Source {
  readonly html: string;
  readonly documentUrl: string;
  readonly image?: ContentRecord;
}

/** The page as HTML, whatever it was: documents as they are, pictures and texts in a frame, failures in words. */
function sourceOf(page: ContentRecord | undefined, failures: readonly FailureRecord[]): Source {
  if (!page) {
    const failure = failures[0];
    const why = failure ? `${failure.url}: ${failure.reason}: ${failure.detail}` : "the box sent no page";
    return { html: message("The page could not be fetched", why), documentUrl: "about:blank" };
  }
  const documentUrl = page.finalUrl;
  if (isHtml(page.type, page.body)) return { html: decodeHtml(page.body, page.type), documentUrl };
  if (sniffImage(page.body)) {
    const src = escapeHtml(documentUrl);
    return { html: `<!DOCTYPE html><title>${src}</title><img src="${src}">`, documentUrl, image: page };
  }
  const essence = essenceOf(page.type);
  if (/^text\/|[/+](json|xml)$|javascript$/.test(essence)) {
    const text = escapeHtml(decodeHtml(page.body, page.type));
    return {
      html: `<!DOCTYPE html><title>${escapeHtml(documentUrl)}</title><pre>\n${text}</pre>`,
      documentUrl,
    };
  }
  const what = `${documentUrl} is a file of type ${essence || "unknown"} with ${page.body.length} bytes`;
  return { html: message("This is not a page", what), documentUrl };
}

function message(title: string, detail: string): string {
  return `<!DOCTYPE html><title>${title}</title><h1>${title}</h1><p>${escapeHtml(detail)}</p>`;
}
