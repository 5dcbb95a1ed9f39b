// What a client and the `later` function say to each other (spec/later): the client leaves a function to be run at one
// box, its answer comes into a Dropbox at another. Types and the answer's end alone, so that the function bundles little.
//
//   arguments       [LaterRequest]
//   input           messages: the function to run, a package as JSON, `packageBytes` bytes in all; then its own input
//   output          one message, LaterStarted as JSON: from here on the client may go
//
//   content of the Dropbox, a sealed file: [the function's output] [ANSWER_END_BYTES bytes: how it ended, JSON, spaces]

import { utf8 } from "../base/bytes.ts";
import type { JsonValue } from "./api.ts";
import type { PutRequest } from "./dropbox.ts";
import type { Padding } from "./sealed-file.ts";

/** How the function ended takes this much, whatever there is to say: sizes show the output's size alone. */
export const ANSWER_END_BYTES = 4096;

export const LaterLimits = {
  /** Bytes of output that may be asked for. */
  outputBytesMax: 2 ** 30,
  /** Attempts in a row to reach the Dropbox that bring it nothing. */
  attemptsMax: 8,
} as const;

export type LaterRequest = {
  /** Bytes of the package. */
  readonly packageBytes: number;
  readonly args?: readonly JsonValue[];
  readonly call?: string;
  /** Output beyond this ends the function. */
  readonly outputBytesMax: number;
  /** Seals the answer; the Dropbox's box never gets it. Base64url. */
  readonly key: string;
  readonly padding: Padding;
  /** The Dropbox: its box, "self" for the function's own, and what opens it. */
  readonly dropbox: { readonly box: string; readonly token: string; readonly put: PutRequest };
};

/** The function runs, its input is with it, the Dropbox answers. */
export type LaterStarted = { readonly started: true };

/** How a function ended, as an answer says it: the outcome of its instance. */
export type AnswerEnd =
  | { readonly kind: "returned" }
  | { readonly kind: "failed"; readonly name: string; readonly message: string; readonly traceback: string }
  | { readonly kind: "killed"; readonly reason: string; readonly detail?: string };

/** The last ANSWER_END_BYTES bytes of an answer. What does not fit is cut: traceback first. */
export function encodeAnswerEnd(end: AnswerEnd): Uint8Array {
  for (let charsMax = ANSWER_END_BYTES; ; charsMax = Math.floor(charsMax / 2)) {
    const bytes = utf8(JSON.stringify(cut(end, charsMax)));
    if (bytes.length > ANSWER_END_BYTES) continue;
    const padded = new Uint8Array(ANSWER_END_BYTES).fill(0x20);
    padded.set(bytes);
    return padded;
  }
}

function cut(end: AnswerEnd, charsMax: number): AnswerEnd {
  switch (end.kind) {
    case "returned":
      return { kind: "returned" };
    case "failed": {
      const { kind, name, message, traceback } = end;
      const short = Math.min(charsMax, 512);
      return {
        kind,
        name: name.slice(0, Math.min(short, 128)),
        message: message.slice(0, short),
        traceback: traceback.slice(0, charsMax),
      };
    }
    case "killed": {
      const detail = end.detail === undefined ? {} : { detail: end.detail.slice(0, Math.min(charsMax, 512)) };
      return { kind: "killed", reason: end.reason, ...detail };
    }
  }
}
