// Tor's control port, reading side: bytes in, replies and events out. Pure and incremental, no I/O.
// The tor daemon is trusted with our anonymity but not with our memory: every growable thing is bounded.
// Spec: control-spec section 2.3 (replies), 4.1 (events), 2.1 (quoted strings).

import { concat } from "../base/bytes.ts";
import { ProtocolError } from "../base/errors.ts";

/** Bounds on what a control port may send. Bytes unless named otherwise. */
const REPLY_LIMITS = {
  /** One line. The longest real ones are exit policies and `GETINFO` path lists, a few KiB. */
  lineBytesMax: 65_536,
  /** One whole reply: `GETINFO ns/all` of the public network takes about 4 MiB, all descriptors about 25. */
  replyBytesMax: 33_554_432,
} as const;
/** Charged per line on top of its bytes, so that a reply of empty lines is bounded too. */
const LINE_OVERHEAD_BYTES = 64;

export interface ReplyLine {
  /** The line after its status code and separator. */
  readonly text: string;
  /** The data block of a `NNN+` line, dot-stuffing undone, lines joined by "\n". */
  readonly data?: string;
}

/** One complete reply. Codes from 600 up are asynchronous events and answer no command. */
export interface Reply {
  readonly code: number;
  readonly lines: readonly ReplyLine[];
}

// Sample:
//   250-version=0.4.9.11\r\n
//   250+ns/name/a0=\r\n
//   r a0 cMPeFA9BmyBdF7lWj1a+tWXTH+c 2026-11-20 ...\r\n
//   ..a line that began with one dot\r\n
//   .\r\n
//   250 OK\r\n
//
//   Reply = *(MidReplyLine / DataReplyLine) EndReplyLine
//   MidReplyLine  = StatusCode "-" ReplyLine
//   DataReplyLine = StatusCode "+" ReplyLine CmdData
//   EndReplyLine  = StatusCode SP ReplyLine
//   ReplyLine = [ReplyText] CRLF      StatusCode = 3DIGIT
export class ReplyParser {
  readonly #decoder = new TextDecoder("utf-8");
  readonly #lineBytesMax: number;
  readonly #replyBytesMax: number;
  #partial: Uint8Array[] = [];
  #partialBytes = 0;
  #code: number | undefined;
  #lines: ReplyLine[] = [];
  #replyBytes = 0;
  #data: string[] | undefined;
  #dataText = "";
  #failed: ProtocolError | undefined;

  constructor(limits: { readonly lineBytesMax: number; readonly replyBytesMax: number } = REPLY_LIMITS) {
    this.#lineBytesMax = limits.lineBytesMax;
    this.#replyBytesMax = limits.replyBytesMax;
  }

  /** Takes any piece of the stream; returns the replies it completes. Throws ProtocolError, from then on every time. */
  push(bytes: Uint8Array): Reply[] {
    if (this.#failed) throw this.#failed;
    const replies: Reply[] = [];
    let start = 0;
    for (;;) {
      const end = bytes.indexOf(0x0a, start);
      if (end < 0) break;
      const reply = this.#line(this.#takeLine(bytes.subarray(start, end + 1)));
      if (reply) replies.push(reply);
      start = end + 1;
    }
    if (start < bytes.length) this.#keep(bytes.slice(start));
    return replies;
  }

  #keep(part: Uint8Array): void {
    this.#partialBytes += part.length;
    if (this.#partialBytes > this.#lineBytesMax)
      this.#fail(`line exceeds ${String(this.#lineBytesMax)} bytes`);
    this.#partial.push(part);
  }

  #takeLine(tail: Uint8Array): string {
    this.#keep(tail);
    const line = this.#partial.length === 1 ? tail : concat(this.#partial);
    this.#partial = [];
    this.#partialBytes = 0;
    this.#replyBytes += line.length + LINE_OVERHEAD_BYTES;
    if (this.#replyBytes > this.#replyBytesMax)
      this.#fail(`reply exceeds ${String(this.#replyBytesMax)} bytes`);
    if (line[line.length - 2] !== 0x0d) this.#fail("line ends in LF without CR");
    return this.#decoder.decode(line.subarray(0, -2));
  }

  #line(line: string): Reply | undefined {
    if (this.#data) {
      if (line === ".") {
        this.#lines.push({ text: this.#dataText, data: this.#data.join("\n") });
        this.#data = undefined;
      } else {
        // control-spec [Data]: a line that begins with "." is sent with one more.
        this.#data.push(line.startsWith(".") ? line.slice(1) : line);
      }
      return undefined;
    }
    const match = /^([1-6][0-9]{2})([-+ ])(.*)$/su.exec(line);
    if (!match) return this.#fail("line has no status code");
    const code = Number(match[1]);
    const text = match[3] ?? "";
    // Tor gives one code to a whole reply, except that a list of errors may mix them: only the class must agree.
    if (this.#code !== undefined && this.#code >= 600 !== code >= 600)
      return this.#fail("event inside a reply");
    this.#code = code;
    if (match[2] === "+") {
      this.#dataText = text;
      this.#data = [];
      return undefined;
    }
    this.#lines.push({ text });
    if (match[2] === "-") return undefined;
    const reply = { code, lines: this.#lines };
    this.#code = undefined;
    this.#lines = [];
    this.#replyBytes = 0;
    return reply;
  }

  #fail(found: string): never {
    this.#failed = new ProtocolError("tor-control-protocol", `Cannot read control reply: ${found}`);
    throw this.#failed;
  }
}

/** Arguments of a reply or event line. */
export interface ReplyArguments {
  readonly positional: readonly string[];
  /** `KEY=value` and `KEY="quoted"`, unquoted. The last of equal keys wins. */
  readonly keywords: ReadonlyMap<string, string>;
}

// Sample: 7 NEW 0 example.com:80 SOURCE_ADDR=127.0.0.1:4312 PURPOSE=USER SOCKS_USERNAME="fn \"1\""
//   Arguments = *(SP (Positional / Keyword "=" (Value / QuotedString)))
export function parseArguments(text: string): ReplyArguments {
  const positional: string[] = [];
  const keywords = new Map<string, string>();
  let at = 0;
  while (at < text.length) {
    if (text[at] === " ") {
      at++;
      continue;
    }
    const keyword = /^([A-Za-z][A-Za-z0-9_-]*)=/u.exec(text.slice(at, at + 128))?.[1];
    if (keyword !== undefined) at += keyword.length + 1;
    let value: string;
    if (text[at] === '"') {
      const quoted = unquote(text, at);
      value = quoted.value;
      at = quoted.end;
    } else {
      const space = text.indexOf(" ", at);
      const end = space < 0 ? text.length : space;
      value = text.slice(at, end);
      at = end;
    }
    if (keyword === undefined) positional.push(value);
    else keywords.set(keyword, value);
  }
  return { positional, keywords };
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", r: "\r", t: "\t" };

// Sample: "a \"quoted\" word\n\303\251"
//   QuotedString = DQUOTE *qcontent DQUOTE; control-spec 2.1.1: \n \t \r and \ooo (octal, up to \377) are C escapes,
//   any other escaped character stands for itself. Octal escapes are UTF-8 bytes.
/** Reads the quoted string that starts at `start`; `end` is the index after its closing quote. */
export function unquote(text: string, start = 0): { value: string; end: number } {
  const fail = (): never => {
    throw new ProtocolError("tor-control-protocol", "Cannot read control reply: malformed quoted string");
  };
  if (text[start] !== '"') fail();
  const bytes: number[] = [];
  const parts: string[] = [];
  const flush = () => {
    if (bytes.length > 0) parts.push(new TextDecoder().decode(Uint8Array.from(bytes.splice(0))));
  };
  for (let at = start + 1; at < text.length; at++) {
    const character = text[at] ?? "";
    if (character === '"') {
      flush();
      return { value: parts.join(""), end: at + 1 };
    }
    if (character !== "\\") {
      flush();
      parts.push(character);
      continue;
    }
    const octal = /^[0-3]?[0-7]{1,2}/u.exec(text.slice(at + 1, at + 4))?.[0];
    if (octal !== undefined) {
      bytes.push(Number.parseInt(octal, 8));
      at += octal.length;
      continue;
    }
    at++;
    const escaped = text[at] ?? fail();
    flush();
    parts.push(ESCAPES[escaped] ?? escaped);
  }
  return fail();
}

/** Any text as one QuotedString, so that it cannot end the argument or the line it is put into. */
export function quote(text: string): string {
  const escaped = text.replaceAll(/["\\\r\n\t]/gu, (character) => {
    switch (character) {
      case "\r":
        return "\\r";
      case "\n":
        return "\\n";
      case "\t":
        return "\\t";
      default:
        return `\\${character}`;
    }
  });
  return `"${escaped}"`;
}
