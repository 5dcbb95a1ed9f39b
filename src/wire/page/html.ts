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

export interface ParsedHtml<T extends TreeAdapterTypeMap> {
  readonly document: T["document"];
  /** False when the rest of the text was left out. */
  readonly isWhole: boolean;
}

/** Parses as a browser without scripts does. */
export function parseHtml<T extends TreeAdapterTypeMap>(
  html: string,
  treeAdapter: TreeAdapter<T>,
  limits: ParseLimits,
): ParsedHtml<T> {
  const steps = parseHtmlInSteps(html, treeAdapter, limits);
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

/** As parseHtml; yields between pieces, for callers who have something else to do meanwhile. */
export function* parseHtmlInSteps<T extends TreeAdapterTypeMap>(
  html: string,
  treeAdapter: TreeAdapter<T>,
  limits: ParseLimits,
): Generator<void, ParsedHtml<T>, void> {
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
    yield;
  }
  parser.tokenizer.write("", true);
  return { document: parser.document, isWhole };
}
