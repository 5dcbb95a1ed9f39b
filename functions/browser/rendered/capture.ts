// What runs in the page, as text: in a world of its own, where the page's scripts have changed nothing, when they are
// stopped. It makes the document say what it shows (typed text, drawings, rules that scripts added), takes away what
// only meant something to scripts, and reads it out. What it returns was still chosen by the page.

/** In the page's own world, before its first script: roots that only their maker could see are read out like the others. */
export const OPEN_ROOTS = `{
  const attach = Element.prototype.attachShadow;
  Element.prototype.attachShadow = function attachShadow(init) {
    return attach.call(this, init && typeof init === "object" ? { ...init, mode: "open" } : init);
  };
}`;

/** Pixels that the page is high, and the window: for scrolling. */
export const HEIGHTS = `[document.scrollingElement ? document.scrollingElement.scrollHeight : 0, innerHeight]`;

export function scrollTo(y: number): string {
  return `scrollTo({ top: ${Math.round(y)}, behavior: "instant" })`;
}

/** Evaluates to `{html, url, type}`. `html` has no document type when the page has none, so that quirks stay quirks. */
export function captureScript(limits: {
  readonly documentLengthMax: number;
  readonly drawingsLengthMax: number;
}): string {
  return `(${CAPTURE})(${JSON.stringify(limits)})`;
}

const CAPTURE = String.raw`(limits) => {
  const roots = [document];
  for (let at = 0; at < roots.length && at < 5000; at++) {
    for (const element of roots[at].querySelectorAll("*")) if (element.shadowRoot) roots.push(element.shadowRoot);
  }
  const each = (selector, change) => {
    for (const root of roots) {
      for (const element of root.querySelectorAll(selector)) {
        // One element that cannot be read must not cost the page.
        try { change(element); } catch {}
      }
    }
  };
  let drawingsLeft = limits.drawingsLengthMax;
  const drawn = (canvas) => {
    const url = canvas.toDataURL();
    if (url.length > drawingsLeft || !url.startsWith("data:image/")) return undefined;
    drawingsLeft -= url.length;
    return url;
  };

  // Without scripts a canvas is no box at all. A picture takes its place, with the looks that rules for "canvas" gave it.
  const looks = ("display position inset float width height margin padding border background-color opacity transform " +
    "z-index vertical-align box-sizing border-radius visibility").split(" ");
  each("canvas", (canvas) => {
    const url = canvas.width * canvas.height > 0 && canvas.width * canvas.height <= 16e6 ? drawn(canvas) : undefined;
    if (url === undefined) return;
    const picture = document.createElement("img");
    for (const { name, value } of canvas.attributes) picture.setAttribute(name, value);
    const computed = getComputedStyle(canvas);
    for (const name of looks) picture.style.setProperty(name, computed.getPropertyValue(name), "important");
    picture.style.setProperty("object-fit", "fill", "important");
    picture.src = url;
    canvas.replaceWith(picture);
  });
  // A name that only this process knows.
  each('img[src^="blob:"]', (image) => {
    if (!image.complete || image.naturalWidth * image.naturalHeight > 16e6) return;
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext("2d").drawImage(image, 0, 0);
    const url = drawn(canvas);
    if (url !== undefined) image.setAttribute("src", url);
  });

  const textOf = (sheet) => Array.from(sheet.cssRules, (rule) => rule.cssText).join("\n");
  each("style", (style) => {
    if (!style.sheet) return;
    const written = style.textContent;
    if (written.includes("@import")) return;
    const fresh = new CSSStyleSheet();
    fresh.replaceSync(written);
    const now = textOf(style.sheet);
    if (now !== textOf(fresh)) style.textContent = now;
  });
  for (const root of roots) {
    for (const sheet of root.adoptedStyleSheets) {
      const style = document.createElement("style");
      style.textContent = textOf(sheet);
      if (sheet.media.mediaText) style.setAttribute("media", sheet.media.mediaText);
      (root === document ? document.head || document.documentElement : root).append(style);
    }
  }

  each("input", (input) => {
    if (input.type === "checkbox" || input.type === "radio") input.toggleAttribute("checked", input.checked);
    else if (!["password", "file", "hidden", "image", "submit", "button", "reset"].includes(input.type)) {
      if (input.value !== (input.getAttribute("value") || "")) input.setAttribute("value", input.value);
    }
  });
  each("textarea", (area) => { area.textContent = area.value; });
  each("option", (option) => { option.toggleAttribute("selected", option.selected); });

  // What is for browsers without scripts was not shown, and a refresh has happened or lies in the future.
  each("script, noscript, meta[http-equiv=refresh i]", (element) => { element.remove(); });

  const root = document.documentElement;
  if (!root) return { html: "", url: document.URL, type: document.contentType };
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll('"', "&quot;");
  const attributes = Array.from(root.attributes, ({ name, value }) => " " + name + '="' + escaped(value) + '"');
  const { doctype } = document;
  const type = !doctype ? "" : "<!DOCTYPE " + doctype.name +
    (doctype.publicId ? ' PUBLIC "' + doctype.publicId + '"' : doctype.systemId ? " SYSTEM" : "") +
    (doctype.systemId ? ' "' + doctype.systemId + '"' : "") + ">";
  const inner = root.getHTML({ shadowRoots: roots.slice(1) });
  const html = type + "<html" + attributes.join("") + ">" + inner + "</html>";
  return { html: html.slice(0, limits.documentLengthMax).toWellFormed(), url: document.URL, type: document.contentType };
}`;
