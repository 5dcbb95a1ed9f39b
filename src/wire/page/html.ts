// parse5 with bounds. HTML can be written so that building its tree takes time quadratic in its length (deep nesting,
// thousands of attributes, unclosed formatting elements); the parser is fed in pieces and stopped when it has had enough.

import { Parser, type TreeAdapter, type TreeAdapterTypeMap } from "parse5";

export interface ParseLimits {
  /** Elements created, clones of unclosed formatting elements included: bounds memory. */
  readonly elementsMax: number;
  /** Whether the parser has had its time: asked between pieces. */
  readonly isOver: () => boolean;
}

/** Elements open at once: deeper ones are no layout, browsers stop nesting there, too. */
const DEPTH_MAX = 512;
/** Characters fed between two looks at the limits: few enough that one piece cannot do much harm. */
const PIECE_LENGTH = 1024;

/** Parses as a browser without scripts does. `isWhole` is false when the rest of the text was left out. */
export function parseHtml<T extends TreeAdapterTypeMap>(
  html: string,
  treeAdapter: TreeAdapter<T>,
  limits: ParseLimits,
): { readonly document: T["document"]; readonly isWhole: boolean } {
  let elements = 0;
  const counting: TreeAdapter<T> = {
    ...treeAdapter,
    createElement: (tagName, namespace, attributes) => {
      elements++;
      return treeAdapter.createElement(tagName, namespace, attributes);
    },
  };
  const parser = new Parser<T>({ treeAdapter: counting, scriptingEnabled: false });
  let isWhole = true;
  for (let at = 0; at < html.length && isWhole; at += PIECE_LENGTH) {
    parser.tokenizer.write(html.slice(at, at + PIECE_LENGTH), false);
    isWhole = parser.openElements.stackTop <= DEPTH_MAX && elements <= limits.elementsMax && !limits.isOver();
  }
  parser.tokenizer.write("", true);
  return { document: parser.document, isWhole };
}
