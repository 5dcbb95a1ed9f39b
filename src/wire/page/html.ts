// parse5 with bounds. HTML can be written so that building its tree takes time quadratic in its length (deep nesting,
// thousands of attributes, unclosed formatting elements); the parser is fed in pieces and stopped when it has had enough.

import { Parser, type ParserOptions, type TreeAdapterTypeMap } from "parse5";

export interface ParseLimits {
  /** Elements open at once. Browsers stop nesting at 512. */
  readonly depthMax: number;
  /** Whether the parser has had its time: asked between pieces. */
  readonly isOver: () => boolean;
}

/** Characters fed between two looks at the limits: at most this many over `3` elements more are open then. */
const PIECE_LENGTH = 4096;

/** Parses as a browser without scripts does. `isWhole` is false when the rest of the text was left out. */
export function parseHtml<T extends TreeAdapterTypeMap>(
  html: string,
  options: ParserOptions<T>,
  limits: ParseLimits,
): { readonly document: T["document"]; readonly isWhole: boolean } {
  const parser = new Parser<T>({ ...options, scriptingEnabled: false });
  for (let at = 0; at < html.length; at += PIECE_LENGTH) {
    if (at > 0 && (parser.openElements.stackTop > limits.depthMax || limits.isOver())) {
      parser.tokenizer.write("", true);
      return { document: parser.document, isWhole: false };
    }
    parser.tokenizer.write(html.slice(at, at + PIECE_LENGTH), false);
  }
  parser.tokenizer.write("", true);
  return { document: parser.document, isWhole: true };
}
