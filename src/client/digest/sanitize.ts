// Makes a document harmless: after this nothing in it runs, and nothing in it makes a browser ask the network for
// anything (spec/digest 5). What is known to be harmless stays, everything that may hold a URL is replaced or goes.
// Running it on its own output changes nothing; the page writer relies on that to know when it is done.

import { isStyleSheetLink, pictureAttribute, SVG_PICTURES } from "../../wire/page/references.ts";
import { parseSrcset } from "../../wire/page/srcset.ts";
import { resolveUrl } from "../../wire/page/text.ts";
import { type Assets, NOTHING } from "./assets.ts";
import type { LinkPlaces } from "./links.ts";
import {
  append,
  type ChildNode,
  childrenOf,
  createElement,
  type Document,
  type Element,
  getAttribute,
  isElement,
  isText,
  NS,
  type ParentNode,
  removeAttribute,
  setAttribute,
} from "./tree.ts";

export interface Place {
  readonly assets: Assets;
  /** The document's own URL. */
  readonly documentUrl: string;
  /** Base of its references. */
  readonly base: string;
  /** Where links and forms get their targets later; undefined where links stay and forms lead nowhere. */
  readonly links?: LinkPlaces | undefined;
}

/** Deeper elements are left out: below the depth at which parsing stops, so that what is written can be read again. */
const DEPTH_MAX = 500;

const REMOVED = new Set(
  (
    "script base embed frame noembed noframes portal fencedframe bgsound param track keygen meta link source " +
    "iframe frameset template nextid isindex webview controlledframe"
  ).split(" "),
);
/** Their content is for browsers that cannot do what the element is for. */
const UNWRAPPED = new Set(["noscript", "applet", "object"]);
/** Old names of `pre` whose content is read in ways of its own. */
const PREFORMATTED = new Set(["xmp", "plaintext", "listing"]);
const SVG_REMOVED = new Set(["foreignObject", "handler", "listener", "audio", "video", "canvas"]);
const SVG_ANIMATIONS = new Set(["set", "animate", "animateMotion", "animateTransform", "animateColor"]);
/** Names that mean something in HTML only: in SVG and MathML they are there to confuse. */
const HTML_ONLY = new Set([...REMOVED, ...UNWRAPPED, ...PREFORMATTED, "textarea"]);

/** Attributes that name something to load, send or obey, on whatever element; allowed ones are put back by element. */
const ATTRIBUTES_REMOVED = new Set(
  (
    "src srcset href action formaction formtarget formmethod target ping manifest background poster data codebase " +
    "classid archive code object profile cite longdesc dynsrc lowsrc imagesrcset imagesizes srcdoc integrity nonce " +
    "crossorigin attributionsrc referrerpolicy fetchpriority loading http-equiv icon usemap autoplay preload base " +
    "shadowrootclonable nohref download blocking charset csp allow sandbox is itemtype itemid xmlns rel"
  ).split(" "),
);

export function sanitize(document: Document, place: Place): void {
  const root = { parent: document as ParentNode, depth: 0 };
  const stack = [root];
  for (let level = stack.pop(); level; level = stack.pop()) {
    const children = childrenOf(level.parent);
    const clean: ChildNode[] = [];
    // Unwrapped children take their parent's place in the queue: no recursion, whatever is nested.
    const queue = children.toReversed();
    for (let node = queue.pop(); node; node = queue.pop()) {
      if (isText(node)) clean.push(node);
      if (!isElement(node) || level.depth > DEPTH_MAX) continue;
      const result = sanitizeElement(node, level.parent, place);
      if (result === "unwrap") {
        for (const child of childrenOf(node).toReversed()) queue.push(child);
      } else if (result) {
        clean.push(result);
        stack.push({ parent: result, depth: level.depth + 1 });
      }
    }
    children.splice(0, children.length);
    for (const node of clean) {
      node.parentNode = level.parent;
      children.push(node);
    }
    joinTexts(children);
  }
}

/** Neighbouring texts become one, as they will be when the page is read again. */
function joinTexts(children: ChildNode[]): void {
  let kept = 0;
  for (const node of children) {
    const last = children[kept - 1];
    if (kept > 0 && last && isText(last) && isText(node)) last.value += node.value;
    else children[kept++] = node;
  }
  children.length = kept;
}

function sanitizeElement(element: Element, parent: ParentNode, place: Place): Element | "unwrap" | undefined {
  if (!/^[a-z][\w.:-]*$/i.test(element.tagName)) return "unwrap";
  if (element.namespaceURI === NS.HTML) return sanitizeHtml(element, parent, place);
  if (element.namespaceURI === NS.SVG) return sanitizeSvg(element, place);
  return sanitizeMath(element);
}

function sanitizeHtml(element: Element, parent: ParentNode, place: Place): Element | "unwrap" | undefined {
  const { tagName } = element;
  if (PREFORMATTED.has(tagName)) return rename(element, "pre");
  switch (tagName) {
    case "link":
      return styleOfLink(element, place);
    case "meta":
      return keptMeta(element);
    case "iframe":
      return frameBox(element);
    case "frameset":
      return frameList(element, place);
    case "object":
      return imageOfObject(element, place) ?? "unwrap";
    case "source":
      return sourceOfPicture(element, parent, place);
    case "template":
      return keptTemplate(element);
    default:
  }
  if (UNWRAPPED.has(tagName)) return "unwrap";
  if (REMOVED.has(tagName)) return undefined;
  if (tagName === "style") rewriteStyleText(element, place);
  const old = attributesOf(element);
  cleanAttributes(element, place);
  restoreReferences(element, old, place);
  return element;
}

/** The attributes that name something, in forms that stay within the page. */
function restoreReferences(element: Element, old: ReadonlyMap<string, string>, place: Place): void {
  const { assets, base } = place;
  const image = (name: string, otherwise?: string) => {
    const reference = old.get(name);
    const found = reference === undefined ? undefined : (assets.image(reference, base) ?? otherwise);
    if (found !== undefined) setAttribute(element, name, found);
  };
  switch (element.tagName) {
    case "a":
    case "area":
      restoreLink(element, old.get("href"), place);
      break;
    case "form":
      restoreForm(element, old, place);
      break;
    case "button":
      restoreSender(element, old, place);
      break;
    case "img": {
      const srcset = availableCandidates(old.get("srcset"), place);
      if (srcset === "") removeAttribute(element, "sizes");
      else setAttribute(element, "srcset", srcset);
      // A picture that is missing shows as missing; one that another attribute brings needs no second.
      image("src", srcset === "" ? NOTHING : undefined);
      const map = old.get("usemap");
      if (map?.startsWith("#")) setAttribute(element, "usemap", map);
      break;
    }
    case "input":
      restoreSender(element, old, place);
      break;
    default:
  }
  const picture = pictureAttribute(element.tagName, (name) => old.get(name));
  if (picture !== undefined) image(picture, element.tagName === "input" ? NOTHING : undefined);
}

/** Links stay links: absolute, telling nobody where they were followed. */
function restoreLink(element: Element, href: string | undefined, place: Place): void {
  if (href === undefined) return;
  if (place.links?.isPlaced(href)) {
    setAttribute(element, "href", href);
    setAttribute(element, "rel", "noreferrer noopener");
    setAttribute(element, "target", "_top");
    return;
  }
  const url = URL.parse(href.trim(), place.base);
  if (!url) return;
  const { hash } = url;
  if (["http:", "https:"].includes(url.protocol)) {
    const isHere = resolveUrl(url.href, place.base)?.href === place.documentUrl;
    const isFragment = isHere && (hash !== "" || /^\s*#/.test(href));
    const link = () => place.links?.place({ kind: "link", url: url.href }) ?? url.href;
    setAttribute(element, "href", isFragment ? hash || "#" : link());
  } else if (["mailto:", "tel:"].includes(url.protocol)) setAttribute(element, "href", url.href);
  // A link that ran a script looks like one still and leads nowhere.
  else if (url.protocol === "javascript:") setAttribute(element, "href", "#");
  else return;
  setAttribute(element, "rel", "noreferrer noopener");
  // The page is served in a frame: its links lead the whole window on.
  if (place.links?.isPlaced(getAttribute(element, "href") ?? "")) setAttribute(element, "target", "_top");
}

/** Forms of a page that is served send where the server says; in a file they have no action, and the policy stops them. */
function restoreForm(element: Element, old: ReadonlyMap<string, string>, place: Place): void {
  removeAttribute(element, "method");
  removeAttribute(element, "enctype");
  if (!place.links) return;
  const method = old.get("method")?.trim().toLowerCase() ?? "get";
  const isPost = method === "post";
  const isDialog = method === "dialog";
  const action = isDialog ? undefined : placedAction(old.get("action") ?? "", isPost ? "post" : "get", place);
  if (action === undefined) {
    // Sends nothing anywhere.
    setAttribute(element, "method", "dialog");
    return;
  }
  setAttribute(element, "action", action);
  setAttribute(element, "target", "_top");
  if (isPost) setAttribute(element, "method", "post");
  const enctype = old.get("enctype")?.trim().toLowerCase();
  if (enctype === "multipart/form-data" || enctype === "text/plain")
    setAttribute(element, "enctype", enctype);
}

/** A button that sends its form elsewhere than the form says. */
function restoreSender(element: Element, old: ReadonlyMap<string, string>, place: Place): void {
  removeAttribute(element, "formenctype");
  const written = old.get("formaction");
  if (!place.links || written === undefined) return;
  const isPost = old.get("formmethod")?.trim().toLowerCase() === "post";
  const action = placedAction(written, isPost ? "post" : "get", place);
  if (action === undefined) return;
  setAttribute(element, "formaction", action);
  setAttribute(element, "formmethod", isPost ? "post" : "get");
}

function placedAction(reference: string, method: "get" | "post", place: Place): string | undefined {
  if (place.links?.isPlaced(reference)) return reference;
  // HTML "form submission algorithm": an empty action is the document itself, whatever its base.
  const url = URL.parse(reference.trim() === "" ? place.documentUrl : reference.trim(), place.base);
  if (!url || !["http:", "https:"].includes(url.protocol)) return undefined;
  url.hash = "";
  return place.links?.place({ kind: "form", url: url.href, method });
}

/** The candidates that are there, with their descriptors; "" for none. */
function availableCandidates(srcset: string | undefined, place: Place): string {
  return parseSrcset(srcset ?? "")
    .flatMap(({ url, descriptor }) => {
      const data = assetForSrcset(url, place);
      return data === undefined ? [] : [`${data} ${descriptor}`.trim()];
    })
    .join(", ");
}

function assetForSrcset(url: string, place: Place): string | undefined {
  const data = place.assets.image(url, place.base);
  return data === undefined || data === NOTHING || /[\s]|,$/.test(data) ? undefined : data;
}

function styleOfLink(element: Element, place: Place): Element | undefined {
  const href = getAttribute(element, "href");
  if (href === undefined || !isStyleSheetLink((name) => getAttribute(element, name))) return undefined;
  const text = place.assets.styleSheet(href, place.base, getAttribute(element, "charset") ?? "utf-8");
  if (text === undefined || text === "") return undefined;
  const media = getAttribute(element, "media");
  return createElement("style", media === undefined ? {} : { media }, text);
}

/** Only what changes the looks. Everything else may be an instruction: refresh, policies, charsets, cookies. */
function keptMeta(element: Element): Element | undefined {
  const name = getAttribute(element, "name")?.toLowerCase();
  if (name !== "viewport" && name !== "color-scheme") return undefined;
  element.attrs = [
    { name: "name", value: name },
    { name: "content", value: getAttribute(element, "content") ?? "" },
  ];
  return element;
}

/** An empty box of the frame's size. */
function frameBox(element: Element): Element {
  const attributes: Record<string, string> = {};
  for (const name of ["id", "class", "title"]) {
    const value = getAttribute(element, name);
    if (value !== undefined) attributes[name] = value;
  }
  const size = (name: string, usual: string) => {
    const value = getAttribute(element, name) ?? "";
    return /^\d{1,5}$/.test(value) ? `${value}px` : /^\d{1,3}%$/.test(value) ? value : usual;
  };
  const border = getAttribute(element, "frameborder") === "0" ? "0" : "2px inset";
  const style = `display:inline-block;width:${size("width", "300px")};height:${size("height", "150px")};border:${border}`;
  return createElement("span", { ...attributes, style });
}

/** A page of frames becomes a list of links to them. */
function frameList(element: Element, place: Place): Element {
  const body = createElement("body");
  const queue: ChildNode[] = [...childrenOf(element)];
  for (let at = 0; at < queue.length && at < 1000; at++) {
    const node = queue[at];
    if (!node || !isElement(node)) continue;
    const src = node.tagName === "frame" ? getAttribute(node, "src") : undefined;
    if (src !== undefined) {
      const line = createElement("p");
      append(line, createElement("a", { href: src }, getAttribute(node, "name") ?? src));
      append(body, line);
    }
    queue.push(...childrenOf(node));
  }
  for (const line of childrenOf(body)) {
    const link = isElement(line) ? childrenOf(line)[0] : undefined;
    if (link && isElement(link)) {
      const href = getAttribute(link, "href");
      removeAttribute(link, "href");
      restoreLink(link, href, place);
    }
  }
  return body;
}

function imageOfObject(element: Element, place: Place): Element | undefined {
  const data = getAttribute(element, "data");
  const image = data === undefined ? undefined : place.assets.image(data, place.base);
  if (image === undefined || image === NOTHING) return undefined;
  const attributes: Record<string, string> = { src: image };
  for (const name of ["id", "class", "width", "height", "style", "title"]) {
    const value = getAttribute(element, name);
    if (value !== undefined) attributes[name] = value;
  }
  const img = createElement("img", attributes);
  if (attributes["style"] !== undefined) {
    setAttribute(img, "style", place.assets.style(attributes["style"], place.base, { inline: true }));
  }
  return img;
}

/** In a picture: the candidates that are there, for every window, since the others are not. */
function sourceOfPicture(element: Element, parent: ParentNode, place: Place): Element | undefined {
  if (!isElement(parent) || parent.tagName !== "picture") return undefined;
  const srcset = availableCandidates(getAttribute(element, "srcset"), place);
  if (srcset === "") return undefined;
  const attributes: Record<string, string> = { srcset };
  for (const name of ["sizes", "type", "width", "height"]) {
    const value = getAttribute(element, name);
    if (value !== undefined) attributes[name] = value;
  }
  return createElement("source", attributes);
}

/** Declarative shadow roots are shown without scripts; other templates never. */
function keptTemplate(element: Element): Element | undefined {
  const mode = getAttribute(element, "shadowrootmode");
  if (mode !== "open" && mode !== "closed") return undefined;
  element.attrs = [{ name: "shadowrootmode", value: mode }];
  return element;
}

function sanitizeSvg(element: Element, place: Place): Element | undefined {
  const { tagName } = element;
  if (SVG_REMOVED.has(tagName) || HTML_ONLY.has(tagName)) return undefined;
  const isAnimation = SVG_ANIMATIONS.has(tagName);
  if (isAnimation && /href|^on/i.test(getAttribute(element, "attributeName") ?? "")) return undefined;
  if (tagName === "style") rewriteStyleText(element, place);
  const references = element.attrs.filter((one) => one.name === "href").map((one) => one.value);
  cleanAttributes(element, place);
  const href = references[0]?.trim();
  if (href === undefined) return element;
  if (tagName === "a") restoreLink(element, href, place);
  else if (href.startsWith("#")) setAttribute(element, "href", href);
  else if (SVG_PICTURES.has(tagName)) {
    const image = place.assets.image(href, place.base);
    if (image !== undefined) setAttribute(element, "href", image);
  }
  return element;
}

function sanitizeMath(element: Element): Element | undefined {
  // annotation-xml switches how its content is read; mglyph and malignmark do so in text.
  const { tagName } = element;
  if (["annotation-xml", "mglyph", "malignmark", "style", "title"].includes(tagName)) return undefined;
  if (HTML_ONLY.has(tagName)) return undefined;
  element.attrs = element.attrs.filter((one) => isHarmless(one) && one.name !== "style");
  return element;
}

function cleanAttributes(element: Element, place: Place): void {
  const kept = element.attrs.filter(isHarmless);
  for (const one of kept) {
    const isStyle = one.name === "style";
    // SVG has url() in many attributes; escapes may spell it in other ways.
    const isPresentation = element.namespaceURI === NS.SVG && /url|image|src|\\/i.test(one.value);
    if (isStyle || isPresentation) one.value = place.assets.style(one.value, place.base, { inline: true });
  }
  element.attrs = kept;
}

function isHarmless(attribute: { name: string; prefix?: string }): boolean {
  const name = attribute.name.toLowerCase();
  if (attribute.prefix !== undefined && attribute.prefix !== "") {
    return attribute.prefix === "xml" && (name === "space" || name === "lang");
  }
  return /^[\w.:@-]+$/.test(name) && !name.startsWith("on") && !ATTRIBUTES_REMOVED.has(name);
}

function rewriteStyleText(element: Element, place: Place): void {
  const text = childrenOf(element)
    .filter(isText)
    .map((node) => node.value)
    .join("");
  let css = place.assets.style(text, place.base, { inline: false });
  // In SVG the text of a style element is read like any other.
  if (element.namespaceURI === NS.SVG) css = css.replace(/&/g, "\\26 ");
  element.childNodes = [];
  if (css !== "") append(element, { nodeName: "#text", value: css, parentNode: element });
}

function rename(element: Element, tagName: string): Element {
  const renamed = createElement(tagName);
  for (const name of ["id", "class"]) {
    const value = getAttribute(element, name);
    if (value !== undefined) setAttribute(renamed, name, value);
  }
  for (const child of childrenOf(element)) append(renamed, child);
  return renamed;
}

function attributesOf(element: Element): ReadonlyMap<string, string> {
  return new Map(element.attrs.filter((one) => !one.prefix).map((one) => [one.name, one.value]));
}
