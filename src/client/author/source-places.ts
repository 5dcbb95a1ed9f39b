// Tracebacks as the author knows the code: places in the bundle that was sent become places in the files it was made
// from, and the line of the topmost one of the author's own is shown. The traceback comes from a box and is untrusted.
//
//   TypeError: x is not a function                 TypeError: x is not a function
//       at invoke (function.ts:12:9)         ->        at invoke (lib/parts.ts:3:7)
//                                                    3 |   x();
//                                                          ^

import { readFile } from "node:fs/promises";
import { SourceMap, type SourceMapPayload } from "node:module";
import path from "node:path";
import type { LoadedPackage } from "../package-loader.ts";

/** Lines before the one that failed. */
const LINES_BEFORE = 2;
/** Characters of a line that are shown. */
const LINE_CHARS_MAX = 160;

interface Place {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly column: number;
}

export async function explainTraceback(traceback: string, loaded: LoadedPackage): Promise<string> {
  const folder = path.dirname(path.resolve(loaded.files.source));
  const map = loaded.sourceMap === undefined ? undefined : sourceMapOf(loaded.sourceMap);
  let top: Place | undefined;
  const named = traceback
    .replaceAll(/\bfunction\.ts:(\d{1,9}):(\d{1,9})/g, (text, line: string, column: string) => {
      const place = map && placeOf(map, Number(line), Number(column));
      if (!place) return text;
      if (!place.file.includes("node_modules/")) top ??= place;
      return `${place.file}:${place.line}:${place.column}`;
    })
    // Python shows its lines by itself.
    .replaceAll('File "function.py"', `File "${path.basename(loaded.files.source)}"`);
  const excerpt = top === undefined ? "" : await excerptOf(folder, top);
  return excerpt === "" ? named : `${named}\n\n${excerpt}`;
}

function sourceMapOf(json: string): SourceMap {
  return new SourceMap(JSON.parse(json) as SourceMapPayload);
}

function placeOf(map: SourceMap, line: number, column: number): Place | undefined {
  const entry = map.findEntry(line - 1, column - 1);
  if (!("originalSource" in entry)) return undefined;
  return {
    file: entry.originalSource,
    line: entry.originalLine + 1,
    column: entry.originalColumn + 1,
  };
}

/** The lines around a place, from the file as it is now; nothing when it is not there. */
async function excerptOf(folder: string, place: Place): Promise<string> {
  const text = await readFile(path.join(folder, place.file), "utf8").catch(() => "");
  const lines = text.split("\n");
  if (place.line > lines.length) return "";
  const first = Math.max(1, place.line - LINES_BEFORE);
  const width = String(place.line).length;
  const shown = lines.slice(first - 1, place.line).map((line, index) => {
    return `  ${String(first + index).padStart(width)} | ${line.slice(0, LINE_CHARS_MAX)}`;
  });
  // Tabs stay, so that the mark stands where the reader's terminal puts the character.
  const before = (lines[place.line - 1] ?? "").slice(0, place.column - 1).replaceAll(/[^\t]/g, " ");
  const mark = `  ${" ".repeat(width)} | ${before}^`;
  return [...shown, ...(place.column <= LINE_CHARS_MAX ? [mark] : [])].join("\n");
}
