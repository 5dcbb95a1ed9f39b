// What a function's error looks like to its caller: the function's own frames, never ours (spec/guest 4).

import type { GuestFailure } from "../../wire/guest-frame.ts";

const { inspect } = Deno;
const FILE = "function.ts";
/** The runtime colours the places in its own messages. */
const COLOUR = new RegExp(`${String.fromCharCode(27)}\\[[0-9;]*m`, "g");
const CAUSES_MAX = 8;
/** Characters; JSON may write one as six bytes, and both must fit into one frame. */
const MESSAGE_CHARS_MAX = 2 * 1024;
const TRACEBACK_CHARS_MAX = 8 * 1024;

/**
 * What the runtime calls the function's module in its stack traces: addresses of sources, of small ones the source itself
 * (as the runner writes it), of which the runtime shows the beginning and the end; of ready instances a file (../build.ts).
 */
const MODULE =
  /file:\/\/\/bento\/bundled-ready-[0-9a-f]+\.js|blob:null\/[0-9a-f-]+|data:(?:text\/javascript|application\/typescript),[\w%.~!*-]*/g;

export function failureOf(thrown: unknown): GuestFailure {
  const clean = (text: string) => text.replaceAll(MODULE, FILE).replaceAll(COLOUR, "");
  const sections: string[] = [];
  let error = thrown;
  for (let depth = 0; depth < CAUSES_MAX; depth++) {
    const head = `${nameOf(error)}: ${messageOf(error)}`;
    sections.push([depth === 0 ? head : `Caused by: ${head}`, ...framesOf(error)].join("\n"));
    if (!(error instanceof Error) || error.cause === undefined) break;
    error = error.cause;
  }
  return {
    name: cut(clean(nameOf(thrown)), 200),
    message: cut(clean(messageOf(thrown)), MESSAGE_CHARS_MAX),
    traceback: cut(clean(sections.join("\n")), TRACEBACK_CHARS_MAX),
  };
}

function nameOf(thrown: unknown): string {
  return attempt(() => (thrown instanceof Error ? textOf(thrown.name) : "Error"));
}

function messageOf(thrown: unknown): string {
  return attempt(() => {
    if (thrown instanceof Error) return textOf(thrown.message);
    return typeof thrown === "string" ? thrown : inspect(thrown);
  });
}

function framesOf(thrown: unknown): string[] {
  const stack = attempt(() => (thrown instanceof Error ? String(thrown.stack) : ""));
  return stack.split("\n").filter((line) => /^\s+at /.test(line) && line.search(MODULE) !== -1);
}

/** A function may have put anything where the language has text. */
function textOf(value: unknown): string {
  return String(value);
}

/** Getters of what was thrown are the function's code and may throw themselves. */
function attempt(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}

function cut(text: string, charsMax: number): string {
  return text.length <= charsMax ? text : `${text.slice(0, charsMax - 1)}…`;
}
