// Finds what an HTML document refers to. parse5 drives it through the tree adapter interface, but no tree is kept:
// an element lives only while it is open, so memory follows the depth of the document and not its length.

import type { TreeAdapter, TreeAdapterTypeMap } from "parse5";
import { isStyleSheetLink, pictureAttribute, SVG_PICTURES } from "../../src/wire/page/references.ts";
import { chooseCandidate, matchesMedia, parseSrcset } from "../../src/wire/page/srcset.ts";
import { resolveUrl } from "../../src/wire/page/text.ts";
import { BrowserLimits as Limits } from "./limits.ts";

export interface DocumentReference {
  /** "css": text of a style element or attribute that has references of its own. "skipped": never fetched. */
  readonly kind: "style" | "image" | "script" | "skipped";
  readonly reference: string;
  /** Of a style sheet: the encoding that its link names. */
  readonly charset?: string;
}

export interface InlineStyle {
  readonly kind: "css";
  readonly text: string;
  /** A style attribute. */
  readonly inline: boolean;
}

/** `<meta http-equiv=refresh>` with a URL. */
export interface Refresh {
  readonly seconds: number;
  readonly reference: string;
}

interface Attribute {
  name: string;
  value: string;
  namespace?: string;
  prefix?: string;
}

interface Node {
  readonly type: "element" | "text" | "comment" | "document" | "fragment" | "doctype";
  readonly tag: string;
  readonly namespace: string;
  readonly attributes: Attribute[];
  parent: Node | undefined;
  /** In a template that is only for scripts: nothing below is shown. */
  inert: boolean;
  seen: boolean;
  /** style: its text. */
  text: string[];
  /** picture: a source was chosen. template: its content. */
  chosen: boolean;
  content: Node | undefined;
}

export interface Types
  extends TreeAdapterTypeMap<Node, Node, Node, Node, Node, Node, Node, Node, Node, Node> {}

export class Scanner {
  readonly references: (DocumentReference | InlineStyle)[] = [];
  readonly codePoints = new Uint32Array(0x110000 / 32);
  base: string;
  refresh: Refresh | undefined;
  isInBody = false;
  #hasBase = false;

  constructor(documentUrl: string) {
    this.base = documentUrl;
  }

  /** An element has got its place. Moved ones come again. */
  attached(node: Node): void {
    if (node.type !== "element" || node.inert || node.seen) return;
    node.seen = true;
    const style = attribute(node, "style");
    if (style) this.#add({ kind: "css", text: style, inline: true });
    if (node.namespace !== HTML) this.#svg(node);
    else this.#html(node);
  }

  /** A style element is complete. */
  closed(node: Node): void {
    if (node.tag !== "style" || node.inert || node.text.length === 0) return;
    if (!matchesMedia(attribute(node, "media") ?? "")) return;
    this.#add({ kind: "css", text: node.text.join(""), inline: false });
    node.text = [];
  }

  text(parent: Node, text: string): void {
    if (parent.tag === "style") parent.text.push(text);
    else if (!parent.inert && parent.tag !== "script") {
      for (let at = 0; at < text.length; at++) {
        const code = text.codePointAt(at) ?? 0;
        if (code > 0xffff) at++;
        this.codePoints[code >> 5] = (this.codePoints[code >> 5] ?? 0) | (1 << (code & 31));
      }
    }
  }

  #html(node: Node): void {
    const get = (name: string) => attribute(node, name);
    switch (node.tag) {
      case "body":
      case "frameset":
        this.isInBody = true;
        break;
      case "base":
        this.#setBase(get("href"));
        break;
      case "meta":
        if (get("http-equiv")?.toLowerCase() === "refresh")
          this.refresh ??= parseRefresh(get("content") ?? "");
        break;
      case "link":
        this.#link(node);
        break;
      case "script":
        this.#script(node);
        break;
      case "source":
        this.#source(node);
        break;
      case "img":
        this.#img(node);
        break;
      case "video":
      case "audio":
      case "iframe":
      case "frame":
      case "embed":
        this.#addUrl("skipped", get("src"));
        break;
      case "object":
        this.#addUrl(isImageObject(get("type"), get("data")) ? "image" : "skipped", get("data"));
        break;
      default:
    }
    const picture = pictureAttribute(node.tag, get);
    if (picture !== undefined) this.#addUrl("image", get(picture));
  }

  #svg(node: Node): void {
    const href = attribute(node, "href");
    if (SVG_PICTURES.has(node.tag) || node.tag === "use") {
      if (href !== undefined && !href.trim().startsWith("#")) this.#addUrl("image", href);
    }
    if (node.tag === "script") this.#addUrl("script", href);
  }

  #link(node: Node): void {
    if (!isStyleSheetLink((name) => attribute(node, name))) return;
    if (!matchesMedia(attribute(node, "media") ?? "")) return;
    const charset = attribute(node, "charset");
    this.#addUrl("style", attribute(node, "href"), charset);
  }

  #script(node: Node): void {
    const type = (attribute(node, "type") ?? "").trim().toLowerCase();
    const isCode =
      type === "" || type === "module" || /^(text|application)\/(x-)?(java|ecma|j)script/.test(type);
    if (isCode) this.#addUrl("script", attribute(node, "src"));
  }

  /** HTML "update the source set": the first source that fits counts. */
  #source(node: Node): void {
    const picture = node.parent;
    if (picture?.tag !== "picture") {
      if (picture?.tag === "video" || picture?.tag === "audio")
        this.#addUrl("skipped", attribute(node, "src"));
      return;
    }
    const type = (attribute(node, "type") ?? "image/png").toLowerCase();
    const isShown = /^\s*image\/(png|apng|jpeg|jpg|gif|webp|avif|svg\+xml|bmp|x-icon)\b/.test(type);
    if (picture.chosen || !isShown || !matchesMedia(attribute(node, "media") ?? "")) return;
    const candidates = parseSrcset(attribute(node, "srcset") ?? "");
    const choice = chooseCandidate(candidates, attribute(node, "sizes") ?? "");
    if (!choice) return;
    picture.chosen = true;
    this.#addUrl("image", choice.url);
  }

  #img(node: Node): void {
    if (node.parent?.tag === "picture" && node.parent.chosen) return;
    const candidates = parseSrcset(attribute(node, "srcset") ?? "");
    const src = attribute(node, "src");
    if (src && !candidates.some((one) => one.width !== undefined || one.density === 1)) {
      candidates.push({ url: src, descriptor: "", width: undefined, density: undefined });
    }
    this.#addUrl("image", chooseCandidate(candidates, attribute(node, "sizes") ?? "")?.url ?? src);
  }

  #setBase(href: string | undefined): void {
    if (href === undefined || this.#hasBase) return;
    this.#hasBase = true;
    const url = resolveUrl(href, this.base);
    if (url?.protocol === "http:" || url?.protocol === "https:") this.base = url.href;
  }

  #addUrl(kind: DocumentReference["kind"], reference: string | undefined, charset?: string): void {
    if (!reference || reference.trim() === "") return;
    this.#add({ kind, reference, ...(charset === undefined ? {} : { charset }) });
  }

  #add(reference: DocumentReference | InlineStyle): void {
    // Many more than can be fetched, since most repeat each other; a bound all the same.
    if (this.references.length < 64 * Limits.resourcesMax) this.references.push(reference);
  }
}

const HTML = "http://www.w3.org/1999/xhtml";

/** Whether an object element shows an image, by what it says of itself. */
function isImageObject(type: string | undefined, data: string | undefined): boolean {
  if (type !== undefined && type !== "") return type.toLowerCase().startsWith("image/");
  return /\.(svg|png|jpe?g|gif|webp|avif)([?#]|$)/i.test(data ?? "");
}

/** `"5; url=next.html"` (HTML "shared declarative refresh steps"). */
function parseRefresh(content: string): Refresh | undefined {
  const match = /^\s*(\d{1,9})(?:\.\d*)?\s*[;,\s]\s*(?:url\s*=\s*)?(?:"([^"]*)"?|'([^']*)'?|(\S.*))$/is.exec(
    content,
  );
  if (!match) return undefined;
  return { seconds: Number(match[1]), reference: match[2] ?? match[3] ?? match[4] ?? "" };
}

function attribute(node: Node, name: string): string | undefined {
  return node.attributes.find((one) => one.name === name)?.value;
}

function node(type: Node["type"], tag = "", namespace = "", attributes: Attribute[] = []): Node {
  return {
    type,
    tag,
    namespace,
    attributes,
    parent: undefined,
    inert: false,
    seen: false,
    text: [],
    chosen: false,
    content: undefined,
  };
}

/** What parse5 needs of a tree to place elements: parents, names and attributes. Children are forgotten. */
export function adapterOf(scanner: Scanner): TreeAdapter<Types> {
  const attach = (parent: Node, child: Node) => {
    child.parent = parent;
    child.inert = parent.inert;
    scanner.attached(child);
  };
  let mode = "no-quirks";
  const adapter = {
    createDocument: () => node("document"),
    createDocumentFragment: () => node("fragment"),
    createElement: (tag: string, namespace: string, attributes: Attribute[]) =>
      node("element", tag, namespace, attributes),
    createCommentNode: () => node("comment"),
    createTextNode: () => node("text"),
    appendChild: attach,
    insertBefore: attach,
    insertText: (parent: Node, text: string) => {
      scanner.text(parent, text);
    },
    insertTextBefore: (parent: Node, text: string) => {
      scanner.text(parent, text);
    },
    setTemplateContent: (template: Node, content: Node) => {
      // A declarative shadow root is shown without any script; other templates are not.
      content.inert = template.attributes.every((one) => one.name !== "shadowrootmode");
      template.content = content;
    },
    getTemplateContent: (template: Node) => template.content ?? template,
    adoptAttributes: (recipient: Node, attributes: Attribute[]) => {
      for (const one of attributes) {
        if (attribute(recipient, one.name) === undefined) recipient.attributes.push(one);
      }
    },
    detachNode: (child: Node) => {
      child.parent = undefined;
    },
    getAttrList: (element: Node) => element.attributes,
    getChildNodes: () => [],
    getFirstChild: () => null,
    getParentNode: (child: Node) => child.parent ?? null,
    getNamespaceURI: (element: Node) => element.namespace,
    getTagName: (element: Node) => element.tag,
    getTextNodeContent: () => "",
    getCommentNodeContent: () => "",
    getDocumentTypeNodeName: () => "",
    getDocumentTypeNodePublicId: () => "",
    getDocumentTypeNodeSystemId: () => "",
    getDocumentMode: () => mode,
    setDocumentMode: (_document: Node, value: string) => {
      mode = value;
    },
    setDocumentType: () => undefined,
    getNodeSourceCodeLocation: () => null,
    setNodeSourceCodeLocation: () => undefined,
    updateNodeSourceCodeLocation: () => undefined,
    isCommentNode: (one: Node) => one.type === "comment",
    isDocumentTypeNode: (one: Node) => one.type === "doctype",
    isElementNode: (one: Node) => one.type === "element",
    isTextNode: (one: Node) => one.type === "text",
    onItemPop: (item: Node) => {
      scanner.closed(item);
    },
  };
  // parse5 types namespaces and modes as enums of its own, of which these strings are the values.
  return adapter as unknown as TreeAdapter<Types>;
}
