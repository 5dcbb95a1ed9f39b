// Which attribute of which element names a picture or a style sheet: what the function fetches and what the page writer
// puts in its place are the same things, so they are written down once (spec/digest 4). `img`, `source` and `picture`
// choose among candidates and are handled by their own rules on both sides.

/** Elements of HTML with one attribute that names a picture. */
export const PICTURE_ATTRIBUTES: Readonly<Record<string, string>> = {
  video: "poster",
  body: "background",
  table: "background",
  thead: "background",
  tbody: "background",
  tfoot: "background",
  tr: "background",
  td: "background",
  th: "background",
};

/** Elements of SVG whose href names a picture. */
export const SVG_PICTURES: ReadonlySet<string> = new Set(["image", "feImage"]);

/** Value of an attribute, undefined where the element has none. */
export type Attributes = (name: string) => string | undefined;

/** The attribute of an HTML element that names a picture. */
export function pictureAttribute(tag: string, get: Attributes): string | undefined {
  if (tag === "input") return get("type")?.toLowerCase() === "image" ? "src" : undefined;
  return Object.hasOwn(PICTURE_ATTRIBUTES, tag) ? PICTURE_ATTRIBUTES[tag] : undefined;
}

/** Whether a `link` brings a style sheet that applies (HTML "link type stylesheet"); its media are another question. */
export function isStyleSheetLink(get: Attributes): boolean {
  const rel = (get("rel") ?? "").toLowerCase().split(/\s+/);
  const type = (get("type") ?? "").trim().toLowerCase();
  return (
    rel.includes("stylesheet") &&
    !rel.includes("alternate") &&
    (type === "" || type === "text/css") &&
    get("disabled") === undefined
  );
}
