// Finds what a style sheet refers to, without building a tree: a walk over the tokens of CSS Syntax 3 that keeps only
// the open brackets. Browser collects the references on the box, the client replaces them in place (spec/digest 4).
// Style sheets are hostile on both sides: work and memory are linear in the text, whatever it holds.

import { tokenize } from "css-tree/tokenizer";
import * as cssText from "css-tree/utils";

/** Something in a style sheet that a browser would load. `start` and `end` are offsets of what to replace. */
export type CssReference =
  /** `url(...)`, or a string that stands for one. */
  | { readonly kind: "image"; readonly start: number; readonly end: number; readonly url: string }
  /** One `url()` of a `src` of an `@font-face`. */
  | { readonly kind: "font"; readonly start: number; readonly end: number; readonly url: string }
  /** A whole `@import` rule with its semicolon. */
  | {
      readonly kind: "import";
      readonly start: number;
      readonly end: number;
      readonly url: string;
      /** Name of the layer, "" for an anonymous one. */
      readonly layer: string | undefined;
      readonly supports: string | undefined;
      readonly media: string;
    }
  /** A rule that has no place in a rewritten sheet: `@charset`, `@namespace`, an `@import` that is out of place. */
  | { readonly kind: "drop"; readonly start: number; readonly end: number };

/** The sources of one `@font-face`: those of its last `src`, which is the one that counts. */
export interface FontFace {
  readonly sources: readonly { readonly url: string; readonly format: string | undefined }[];
  /** Value of `unicode-range`, or undefined: all characters. */
  readonly unicodeRange: string | undefined;
}

export interface CssScan {
  /** In order, not overlapping. */
  readonly references: readonly CssReference[];
  readonly fontFaces: readonly FontFace[];
  /** What closes whatever the text leaves open, so that text put after it is not swallowed. */
  readonly closers: string;
}

/** `inline`: the text is the value of a style attribute, where at-rules mean nothing. */
export function scanCss(source: string, options: { inline?: boolean } = {}): CssScan {
  const scanner = new Scanner(source, options.inline ?? false);
  tokenize(source, (type, start, end) => {
    // An escape at the very end makes the tokenizer count one character too many.
    scanner.token(type, start, Math.min(end, source.length));
  });
  return scanner.finish();
}

/** The text with every reference replaced. `replace` gets each in order and gives the text to put there. */
export function rewriteCss(
  source: string,
  scan: CssScan,
  replace: (reference: Exclude<CssReference, { kind: "drop" }>) => string,
): string {
  const parts: string[] = [];
  let at = 0;
  for (const reference of scan.references) {
    // A blank, so that what stood before and behind does not become one word.
    parts.push(source.slice(at, reference.start), reference.kind === "drop" ? " " : replace(reference));
    at = reference.end;
  }
  parts.push(source.slice(at), scan.closers);
  return parts.join("");
}

// Token types of css-tree's tokenizer, which are those of CSS Syntax 3 section 4.
const T = {
  ident: 1,
  function: 2,
  atKeyword: 3,
  string: 5,
  badString: 6,
  url: 7,
  badUrl: 8,
  whiteSpace: 13,
  cdo: 14,
  cdc: 15,
  colon: 16,
  semicolon: 17,
  openSquare: 19,
  closeSquare: 20,
  openParen: 21,
  closeParen: 22,
  openCurly: 23,
  closeCurly: 24,
  comment: 25,
} as const;

/** Functions whose string argument is a URL (CSS Values 4 `src()`, CSS Images 4 `image-set()`, `image()`). */
const URL_FUNCTIONS = new Set(["url", "src"]);
const IMAGE_FUNCTIONS = new Set([
  "image-set",
  "-webkit-image-set",
  "image",
  "cross-fade",
  "-webkit-cross-fade",
]);

/** `url(` and the like with its bracket, and with its string if it has one: a bracket inside an open string closes nothing. */
const CLOSED_URL = /^[^"'(]+\(\s*(?:(?:[^"'\\]|\\[^])*|(["'])(?:(?!\1)[^\\]|\\[^])*\1\s*)\)$/;

interface Open {
  readonly closer: ")" | "]" | "}";
  /** Lower-case name when a function opened it. */
  readonly name: string | undefined;
  readonly start: number;
  /** The string inside `url(`. */
  url?: string;
  /** Set on the block of an `@font-face`. */
  face?: MutableFace;
}

interface MutableFace {
  sources: { url: string; format: string | undefined }[];
  unicodeRange: string | undefined;
  rangeStart: number | undefined;
}

interface AtRule {
  readonly name: string;
  readonly start: number;
  /** Tokens of the prelude; kept for `@import` only. */
  readonly prelude: { type: number; start: number; end: number }[];
}

class Scanner {
  readonly #source: string;
  readonly #inline: boolean;
  readonly #references: CssReference[] = [];
  readonly #fontFaces: FontFace[] = [];
  readonly #open: Open[] = [];
  #atRule: AtRule | undefined;
  /** `@import` counts only before all rules but `@charset` and `@layer` statements (CSS Cascade 5). */
  #importsAllowed = true;
  /** The ident before a colon, at the level of declarations. */
  #lastIdent = "";
  /** What closes the last token when the text ends inside it. */
  #unclosed = "";

  constructor(source: string, inline: boolean) {
    this.#source = source;
    this.#inline = inline;
  }

  token(type: number, start: number, end: number): void {
    this.#unclosed = unclosedBy(type, this.#source, start, end);
    if (type === T.comment) return;
    if (this.#atRule?.name === "import" && this.#open.length === 0) {
      this.#importToken(this.#atRule, type, start, end);
      return;
    }
    if (type === T.whiteSpace) return;
    if (type !== T.ident && type !== T.colon) this.#lastIdent = "";
    switch (type) {
      case T.atKeyword:
        this.#startAtRule(start, end);
        break;
      case T.ident:
        this.#lastIdent = cssText.ident.decode(this.#source.slice(start, end)).toLowerCase();
        this.#formatHint(this.#lastIdent);
        this.#endImports();
        break;
      case T.colon:
        this.#declaration(end);
        this.#endImports();
        break;
      case T.string:
        this.#string(start, end);
        break;
      case T.badString:
        this.#endImports();
        break;
      case T.url:
        this.#url(cssText.url.decode(this.#source.slice(start, end)), start, end);
        break;
      case T.badUrl:
        this.#references.push({ kind: "image", start, end, url: "" });
        break;
      case T.function:
        this.#push(")", start, cssText.ident.decode(this.#source.slice(start, end - 1)).toLowerCase());
        break;
      case T.openParen:
        this.#push(")", start);
        break;
      case T.openSquare:
        this.#push("]", start);
        break;
      case T.openCurly:
        this.#openBlock(start);
        break;
      case T.closeParen:
        this.#close(")", start, end);
        break;
      case T.closeSquare:
        this.#close("]", start, end);
        break;
      case T.closeCurly:
        this.#close("}", start, end);
        break;
      case T.semicolon:
        this.#semicolon(start, end);
        break;
      case T.cdo:
      case T.cdc:
        // "<!--" has no meaning in a sheet; in a document it might.
        this.#references.push({ kind: "drop", start, end });
        break;
      default:
        this.#endImports();
    }
  }

  finish(): CssScan {
    const end = this.#source.length;
    if (this.#atRule?.name === "import" && this.#open.length === 0) this.#endImport(this.#atRule, end);
    // Whatever an unclosed url() holds is replaced together with it, up to the end.
    const urlDepth = this.#open.findIndex((open) => open.name !== undefined && URL_FUNCTIONS.has(open.name));
    const kept = urlDepth === -1 ? this.#open : this.#open.slice(0, urlDepth);
    const closers: string[] = kept.map((open) => open.closer).reverse();
    for (let open = this.#open.at(-1); open; open = this.#open.at(-1)) this.#close(open.closer, end, end);
    if (this.#references.at(-1)?.end !== end) closers.unshift(this.#unclosed);
    return { references: this.#references, fontFaces: this.#fontFaces, closers: closers.join("") };
  }

  #push(closer: Open["closer"], start: number, name?: string, face?: MutableFace): void {
    this.#endImports();
    this.#open.push({ closer, start, name, ...(face ? { face } : {}) });
  }

  #endImports(): void {
    if (this.#open.length === 0 && !this.#atRule) this.#importsAllowed = false;
  }

  #startAtRule(start: number, end: number): void {
    const name = cssText.ident.decode(this.#source.slice(start + 1, end)).toLowerCase();
    // Between round or square brackets it is a word like any other.
    if (this.#inline || (this.#open.at(-1)?.closer ?? "}") !== "}") return;
    this.#atRule = { name, start, prelude: [] };
    if (this.#open.length === 0 && !["import", "charset", "layer"].includes(name))
      this.#importsAllowed = false;
  }

  #openBlock(start: number): void {
    const isFontFace = this.#atRule?.name === "font-face";
    if (this.#open.length === 0) this.#importsAllowed = false;
    this.#atRule = undefined;
    const face: MutableFace = { sources: [], unicodeRange: undefined, rangeStart: undefined };
    this.#push("}", start, undefined, isFontFace ? face : undefined);
  }

  /** CSS Syntax 3: a closing bracket that matches nothing open is ignored; an inner one that is missing ends with the outer. */
  #close(closer: Open["closer"], start: number, end: number): void {
    let depth = this.#open.length - 1;
    // "}" ends the block that it closes whatever is open inside; ")" and "]" never cross a "{".
    while (depth >= 0 && this.#open[depth]?.closer !== closer) {
      if (closer !== "}" || this.#open[depth]?.closer === "}") return;
      depth--;
    }
    if (depth < 0) return;
    if (closer === "}") this.#atRule = undefined;
    while (this.#open.length > depth) {
      const open = this.#open.pop();
      if (!open) break;
      const closedAt = this.#open.length === depth ? end : start;
      if (open.name !== undefined && URL_FUNCTIONS.has(open.name)) {
        this.#url(open.url ?? "", open.start, closedAt);
      }
      if (open.face) {
        this.#endRange(open.face, start);
        this.#fontFaces.push({ sources: open.face.sources, unicodeRange: open.face.unicodeRange });
      }
    }
  }

  #semicolon(start: number, end: number): void {
    const atRule = this.#atRule;
    const face = this.#open.at(-1)?.face;
    if (face) this.#endRange(face, start);
    if (atRule && ["charset", "namespace", "import"].includes(atRule.name)) {
      // What the prelude referred to goes with the rule.
      while ((this.#references.at(-1)?.start ?? -1) >= atRule.start) this.#references.pop();
      this.#references.push({ kind: "drop", start: atRule.start, end });
    }
    this.#atRule = undefined;
  }

  #string(start: number, end: number): void {
    const token = this.#source.slice(start, end);
    const open = this.#open.at(-1);
    const value = cssText.string.decode(token);
    if (open?.name !== undefined && URL_FUNCTIONS.has(open.name)) open.url ??= value;
    else if (open?.name !== undefined && IMAGE_FUNCTIONS.has(open.name)) this.#url(value, start, end);
    else this.#formatHint(value.toLowerCase());
    this.#endImports();
  }

  #url(url: string, start: number, end: number): void {
    this.#endImports();
    const face = this.#open.findLast((open) => open.closer === "}")?.face;
    const trimmed = url.trim();
    // A reference into the same document loads nothing. One that the end of the text leaves open goes.
    if (trimmed.startsWith("#") && CLOSED_URL.test(this.#source.slice(start, end))) return;
    if (face) face.sources.push({ url: trimmed, format: undefined });
    // An outer url() takes the place of what was found inside it.
    while ((this.#references.at(-1)?.start ?? -1) >= start) this.#references.pop();
    this.#references.push({ kind: face ? "font" : "image", start, end, url: trimmed });
  }

  /** Inside `format(...)`: belongs to the source before it. */
  #formatHint(value: string): void {
    const open = this.#open.at(-1);
    if (open?.name !== "format") return;
    const source = this.#open.at(-2)?.face?.sources.at(-1);
    if (source) source.format ??= value;
  }

  #declaration(end: number): void {
    const face = this.#open.at(-1)?.face;
    if (!face) return;
    if (this.#lastIdent === "src") face.sources = [];
    if (this.#lastIdent === "unicode-range") face.rangeStart = end;
  }

  #endRange(face: MutableFace, end: number): void {
    if (face.rangeStart === undefined) return;
    face.unicodeRange = this.#source.slice(face.rangeStart, end).trim();
    face.rangeStart = undefined;
  }

  #importToken(rule: AtRule, type: number, start: number, end: number): void {
    if (type === T.semicolon) {
      this.#endImport(rule, end);
      return;
    }
    if (type === T.openCurly) {
      // "@import ... { }" is an invalid rule: its block is skipped like that of an unknown one.
      this.#references.push({ kind: "drop", start: rule.start, end: start });
      this.#importsAllowed = false;
      this.#atRule = undefined;
      this.#push("}", start);
      return;
    }
    // Longer preludes than any real one are cut: the rule then has no effect.
    if (rule.prelude.length < 1000) rule.prelude.push({ type, start, end });
  }

  #endImport(rule: AtRule, end: number): void {
    this.#atRule = undefined;
    const parsed = this.#importsAllowed ? parseImport(this.#source, rule.prelude) : undefined;
    const { start } = rule;
    this.#references.push(parsed ? { kind: "import", start, end, ...parsed } : { kind: "drop", start, end });
  }
}

/** A comment, a string or an escape that runs to the end of the text. */
function unclosedBy(type: number, source: string, start: number, end: number): string {
  if (end < source.length) return "";
  const token = source.slice(start, end);
  if (type === T.comment) return token.length >= 4 && token.endsWith("*/") ? "" : "*/";
  // A backslash at the very end would escape what is put after it; a newline takes its meaning away.
  const escape = /(^|[^\\])(\\\\)*\\$/.test(token) ? "\n" : "";
  if (type !== T.string) return escape;
  const isClosed = token.length >= 2 && token.endsWith(token.charAt(0)) && !/[^\\](\\\\)*\\.$/.test(token);
  return isClosed ? "" : escape + token.charAt(0);
}

/** `"a.css" layer(base) supports(display: grid) screen and (min-width: 10em)` */
function parseImport(
  source: string,
  prelude: readonly { type: number; start: number; end: number }[],
): { url: string; layer: string | undefined; supports: string | undefined; media: string } | undefined {
  const tokens = prelude.filter((token) => token.type !== T.whiteSpace);
  const first = tokens.shift();
  if (!first) return undefined;
  const textOf = (token: { start: number; end: number }) => source.slice(token.start, token.end);
  let url: string;
  if (first.type === T.string) url = cssText.string.decode(textOf(first));
  else if (first.type === T.url) url = cssText.url.decode(textOf(first));
  else if (first.type === T.function && textOf(first).toLowerCase() === "url(") {
    const argument = tokens.shift();
    if (argument?.type !== T.string) return undefined;
    url = cssText.string.decode(textOf(argument));
    if (tokens[0]?.type === T.closeParen) tokens.shift();
  } else return undefined;
  let layer: string | undefined;
  let supports: string | undefined;
  /** The text of a function's arguments, and the tokens past it. */
  const argumentsOf = (): string => {
    const opening = tokens.shift();
    let depth = 1;
    let last = opening;
    while (tokens.length > 0 && depth > 0) {
      last = tokens.shift();
      if (last?.type === T.function || last?.type === T.openParen) depth++;
      if (last?.type === T.closeParen) depth--;
    }
    return opening && last ? source.slice(opening.end, depth === 0 ? last.start : last.end).trim() : "";
  };
  const next = tokens[0] ? textOf(tokens[0]).toLowerCase() : "";
  if (next === "layer") {
    layer = "";
    tokens.shift();
  } else if (next === "layer(") layer = argumentsOf();
  if (tokens[0] && textOf(tokens[0]).toLowerCase() === "supports(") supports = argumentsOf();
  const last = tokens.at(-1);
  const media = tokens[0] && last ? source.slice(tokens[0].start, last.end) : "";
  return { url: url.trim(), layer, supports, media };
}
