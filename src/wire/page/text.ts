// From the bytes of a web page to text: the encoding that a browser would take (HTML, "Determining the character
// encoding"; CSS Syntax 3 section 3.2), and what kind of thing some bytes are.

/** HTML "prescan a byte stream to determine its encoding": how far a declaration is looked for. */
const PRESCAN_BYTES = 1024;

/** Text of an HTML document. Never throws: bytes that mean nothing become U+FFFD. */
export function decodeHtml(body: Uint8Array, contentType: string): string {
  const declared = byteOrderMark(body) ?? known(charsetOf(contentType)) ?? prescanHtml(body);
  if (declared) return decode(body, declared);
  // Undeclared: UTF-8 when it is valid UTF-8, else what browsers in most places assume.
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(body);
  } catch {
    return decode(body, contentType.includes("xml") ? "utf-8" : "windows-1252");
  }
}

/** Text of a style sheet. `fallback`: a charset attribute or the encoding of the document that refers to it. */
export function decodeCss(body: Uint8Array, contentType: string, fallback = "utf-8"): string {
  const head = latin1(body.subarray(0, PRESCAN_BYTES));
  const rule = /^@charset "([^"\n]{1,40})";/.exec(head)?.[1];
  const declared =
    byteOrderMark(body) ?? known(charsetOf(contentType)) ?? prescanned(rule) ?? known(fallback);
  return decode(body, declared ?? "utf-8");
}

/** `text/html; charset="utf-8"` -> `text/html`, lower case; "" when malformed. */
export function essenceOf(contentType: string): string {
  const essence = (contentType.split(";")[0] ?? "").trim().toLowerCase();
  return /^[a-z0-9!#$&^_.+-]{1,80}\/[a-z0-9!#$&^_.+-]{1,80}$/.test(essence) ? essence : "";
}

function charsetOf(contentType: string): string | undefined {
  const match = /;\s*charset\s*=\s*(?:"([^"]{1,40})"|'([^']{1,40})'|([^\s;"']{1,40}))/i.exec(contentType);
  return match?.[1] ?? match?.[2] ?? match?.[3];
}

/** The canonical name of an encoding label, or undefined when there is no such encoding. */
function known(label: string | undefined): string | undefined {
  if (!label) return undefined;
  try {
    return new TextDecoder(label.trim()).encoding;
  } catch {
    return undefined;
  }
}

function byteOrderMark(body: Uint8Array): string | undefined {
  if (body[0] === 0xef && body[1] === 0xbb && body[2] === 0xbf) return "utf-8";
  if (body[0] === 0xfe && body[1] === 0xff) return "utf-16be";
  if (body[0] === 0xff && body[1] === 0xfe) return "utf-16le";
  return undefined;
}

/** HTML: a document that was read as ASCII up to its declaration cannot be UTF-16. */
function prescanned(label: string | undefined): string | undefined {
  const name = known(label);
  if (name?.startsWith("utf-16")) return "utf-8";
  return name === "x-user-defined" ? "windows-1252" : name;
}

function prescanHtml(body: Uint8Array): string | undefined {
  const head = latin1(body.subarray(0, PRESCAN_BYTES)).replace(/<!--[\s\S]*?(?:-->|$)/g, "");
  const xml = /^\s*<\?xml[^>]*\sencoding\s*=\s*["']([^"']{1,40})["']/i.exec(head)?.[1];
  for (const tag of head.matchAll(/<meta[\s/]([^>]*)/gi)) {
    const found = /charset\s*=\s*["']?\s*([^\s"'/>;]{1,40})/i.exec(tag[1] ?? "")?.[1];
    const name = prescanned(found);
    if (name) return name;
  }
  return prescanned(xml);
}

function decode(body: Uint8Array, encoding: string): string {
  return new TextDecoder(encoding).decode(body);
}

function latin1(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

/** What the bytes of an image say they are; undefined when they are none that browsers show. SVG is told by its text. */
export function sniffImage(body: Uint8Array): string | undefined {
  const head = latin1(body.subarray(0, 512));
  if (head.startsWith("\x89PNG\r\n\x1a\n")) return "image/png";
  if (head.startsWith("\xff\xd8\xff")) return "image/jpeg";
  if (head.startsWith("GIF87a") || head.startsWith("GIF89a")) return "image/gif";
  if (head.startsWith("RIFF") && head.slice(8, 12) === "WEBP") return "image/webp";
  if (/^....ftypavi[fs]/s.test(head)) return "image/avif";
  if (head.startsWith("BM")) return "image/bmp";
  if (head.startsWith("\0\0\x01\0")) return "image/x-icon";
  if (
    /^(\xef\xbb\xbf)?\s*(<\?xml|<!--|<!doctype svg|<svg)/i.test(head) &&
    latin1(body.subarray(0, 4096)).includes("<svg")
  ) {
    return "image/svg+xml";
  }
  return undefined;
}

/** What the bytes of a font say they are. */
export function sniffFont(body: Uint8Array): string | undefined {
  const head = latin1(body.subarray(0, 4));
  if (head === "wOF2") return "font/woff2";
  if (head === "wOFF") return "font/woff";
  if (head === "OTTO") return "font/otf";
  if (head === "\0\x01\0\0" || head === "true" || head === "ttcf") return "font/ttf";
  return undefined;
}

/** Whether a page is HTML: by its type, or by its first bytes when the server says nothing. */
export function isHtml(contentType: string, body: Uint8Array): boolean {
  const essence = essenceOf(contentType);
  if (essence === "text/html" || essence === "application/xhtml+xml") return true;
  if (essence !== "" && essence !== "application/xml" && essence !== "text/xml") return false;
  return /^(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--|\?xml|title|p|div|table|script|meta|h1)\b/i.test(
    latin1(body.subarray(0, 512)),
  );
}

/** `reference` against `base`, without fragment; undefined when it is no URL. Leading and trailing blanks are cut. */
export function resolveUrl(reference: string, base: string): URL | undefined {
  const url = URL.parse(reference.trim(), base);
  if (url) url.hash = "";
  return url ?? undefined;
}
