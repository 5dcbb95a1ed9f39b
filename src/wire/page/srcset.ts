// The srcset and sizes attributes of HTML: parsed as browsers do, and the choice that a browser with the usual window
// would make (HTML, "Images": parse a srcset attribute; select an image source).

/** One candidate. Exactly one of `width` (pixels, "w") and `density` ("x") counts; neither is "1x". */
export interface Candidate {
  readonly url: string;
  /** As written, "" for none: put back unchanged. */
  readonly descriptor: string;
  readonly width: number | undefined;
  readonly density: number | undefined;
}

/** Candidates of one attribute; more would be an attack on whoever reads them. */
const CANDIDATES_MAX = 256;

/** `"a.png 1x, b.png 2x"`. URLs may hold commas, only not at their ends. Malformed candidates are left out. */
export function parseSrcset(text: string): Candidate[] {
  const candidates: Candidate[] = [];
  let at = 0;
  while (at < text.length && candidates.length < CANDIDATES_MAX) {
    while (at < text.length && /[\s,]/.test(text.charAt(at))) at++;
    const urlStart = at;
    while (at < text.length && !/\s/.test(text.charAt(at))) at++;
    let url = text.slice(urlStart, at);
    let descriptor = "";
    if (url.endsWith(",")) url = url.replace(/,+$/, "");
    else {
      const start = at;
      let depth = 0;
      while (at < text.length && (depth > 0 || text.charAt(at) !== ",")) {
        if (text.charAt(at) === "(") depth++;
        if (text.charAt(at) === ")" && depth > 0) depth--;
        at++;
      }
      descriptor = text.slice(start, at).trim();
    }
    const candidate = url === "" ? undefined : parseDescriptor(url, descriptor);
    if (candidate) candidates.push(candidate);
  }
  return candidates;
}

function parseDescriptor(url: string, descriptor: string): Candidate | undefined {
  let width: number | undefined;
  let density: number | undefined;
  for (const word of descriptor.split(/\s+/)) {
    const match = /^(\d+(?:\.\d+)?(?:e[+-]?\d+)?)([wxh])$/i.exec(word);
    if (word === "") continue;
    if (!match) return undefined;
    const value = Number(match[1]);
    if (match[2] === "w") width = value;
    else if (match[2] === "x") density = value;
  }
  if (width !== undefined && (density !== undefined || width === 0)) return undefined;
  return { url, descriptor, width, density };
}

/** The window that Browser assumes: the commonest desktop one, at one pixel per pixel. */
export const VIEWPORT = { width: 1280, height: 800 } as const;

/** The candidate that a browser with VIEWPORT takes: the smallest that is sharp enough. */
export function chooseCandidate(candidates: readonly Candidate[], sizes: string): Candidate | undefined {
  const shownWidth = Math.max(1, evaluateSizes(sizes));
  const densityOf = (candidate: Candidate) =>
    candidate.width === undefined ? (candidate.density ?? 1) : candidate.width / shownWidth;
  const ordered = [...candidates].sort((a, b) => densityOf(a) - densityOf(b));
  return ordered.find((candidate) => densityOf(candidate) >= 1) ?? ordered.at(-1);
}

/** `"(max-width: 600px) 100vw, 50vw"` -> CSS pixels in VIEWPORT. What is not understood counts as the whole width. */
export function evaluateSizes(sizes: string): number {
  for (const entry of sizes.slice(0, 4096).split(/,(?![^(]*\))/)) {
    const match = /^\s*(.*?)\s*([\d.]+)(px|vw|em|rem)\s*$/i.exec(entry);
    if (!match) continue;
    if (match[1] !== "" && !matchesMedia(match[1] ?? "")) continue;
    const value = Number(match[2]);
    const unit = (match[3] ?? "px").toLowerCase();
    if (unit === "px") return value;
    return unit === "vw" ? (value / 100) * VIEWPORT.width : value * 16;
  }
  return VIEWPORT.width;
}

/** Whether a media query holds in VIEWPORT on a screen. Knows types, min- and max-width; takes the rest for true. */
export function matchesMedia(query: string): boolean {
  const text = query.slice(0, 1024).toLowerCase().trim();
  if (text === "") return true;
  return text.split(",").some((part) => {
    const isNegated = /^\s*not\b/.test(part);
    return isNegated !== matchesOne(part);
  });
}

function matchesOne(query: string): boolean {
  if (/^\s*(not\s+|only\s+)?(print|speech|aural|handheld|tv|projection)\b/.test(query)) return false;
  for (const match of query.matchAll(/\((min|max)-width:\s*([\d.]+)(px|em|rem)\)/g)) {
    const pixels = Number(match[2]) * (match[3] === "px" ? 1 : 16);
    if (match[1] === "min" ? VIEWPORT.width < pixels : VIEWPORT.width > pixels) return false;
  }
  return !/prefers-color-scheme:\s*dark/.test(query);
}
