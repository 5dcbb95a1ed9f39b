// Reading HTTP requests: heads cut out of a stream, request lines, headers and ranges. Pure.
// Boundary: clients of the onion service, strangers all. What is not plainly a request is refused (RFC 9112 2, 3, 5; RFC 9110 14).

/** Bytes of a head. */
export const HEAD_BYTES_MAX = 16 * 1024;
export const HEADERS_MAX = 100;

export interface HttpRequest {
  readonly method: string;
  /** As it came: path and query. */
  readonly target: string;
  readonly version: "1.0" | "1.1";
  /** Names in lower case; of several with one name the values joined by ", ". */
  readonly headers: ReadonlyMap<string, string>;
}

/** Sent back as a status. */
export class BadRequest extends Error {
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/** Takes bytes, gives heads: everything up to an empty line, without it. */
export class HeadReader {
  #text = "";
  /** Where to look for the end, so that a head that comes byte by byte costs no more. */
  #scanned = 0;

  push(bytes: Uint8Array): void {
    // Latin-1: what is not ASCII is refused where it would matter.
    this.#text += Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  }

  /** Whether a request has begun. */
  get isEmpty(): boolean {
    return this.#text === "";
  }

  /** The next head; undefined while it is not whole. Throws BadRequest 431 when it is too long. */
  next(): string | undefined {
    // RFC 9112 2.2: empty lines before a request line are ignored.
    while (this.#text.startsWith("\r\n")) this.#text = this.#text.slice(2);
    const end = this.#text.indexOf("\r\n\r\n", Math.max(0, this.#scanned - 3));
    if (end > HEAD_BYTES_MAX || (end < 0 && this.#text.length > HEAD_BYTES_MAX))
      throw new BadRequest(431, "the head is too long");
    if (end < 0) {
      this.#scanned = this.#text.length;
      return undefined;
    }
    const head = this.#text.slice(0, end);
    this.#text = this.#text.slice(end + 4);
    this.#scanned = 0;
    return head;
  }
}

// Sample:
//   GET /a/b.css?x=1 HTTP/1.1
//   Host: abc.onion
/** Throws BadRequest. */
export function parseHead(head: string): HttpRequest {
  const [first = "", ...lines] = head.split("\r\n");
  const line = /^([A-Z]{1,20}) ([\x21-\x7e]{1,8192}) HTTP\/1\.([01])$/u.exec(first);
  if (!line) throw new BadRequest(400, "not a request line");
  if (lines.length > HEADERS_MAX) throw new BadRequest(431, "too many headers");
  const headers = new Map<string, string>();
  for (const text of lines) {
    // RFC 9112 5.1, 5.2: no space before the colon, no folded lines.
    const field = /^([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):[ \t]*([\t\x20-\x7e\x80-\xff]*)$/u.exec(text);
    if (!field) throw new BadRequest(400, "not a header");
    const name = (field[1] ?? "").toLowerCase();
    const value = (field[2] ?? "").trimEnd();
    const before = headers.get(name);
    headers.set(name, before === undefined ? value : `${before}, ${value}`);
  }
  const version = line[3] === "0" ? "1.0" : "1.1";
  if (version === "1.1" && headers.get("host") === undefined) throw new BadRequest(400, "no host");
  // A body would be taken for the next request: whoever sends one gets no second answer on this connection.
  const length = headers.get("content-length");
  if (headers.has("transfer-encoding") || (length !== undefined && length !== "0"))
    throw new BadRequest(413, "bodies are not taken");
  return { method: line[1] ?? "", target: line[2] ?? "", version, headers };
}

/** The path of the index that a request target means: decoded, without the first slash. Throws BadRequest 400. */
export function pathOf(target: string): string {
  // RFC 9112 3.2: origin form, or the absolute form that proxies send.
  const origin = /^https?:\/\/[^/?#]*(.*)$/iu.exec(target)?.[1] ?? target;
  const path = /^[^?#]*/u.exec(origin)?.[0] ?? "";
  if (path !== "" && !path.startsWith("/")) throw new BadRequest(400, "not a path");
  let decoded: string;
  try {
    decoded = decodeURIComponent(path.slice(1));
  } catch {
    throw new BadRequest(400, "not a path");
  }
  return decoded;
}

/** What RFC 9110 14.2 calls a range, as first byte and count; "all" where it is to be ignored, "none" where it misses. */
export type ByteRange = { readonly from: number; readonly count: number } | "all" | "none";

// Samples: "bytes=0-99", "bytes=100-", "bytes=-100". Several ranges are answered with everything, as may be done.
export function parseRange(header: string | undefined, bytes: number): ByteRange {
  const match = /^bytes=([0-9]{0,15})-([0-9]{0,15})$/u.exec(header ?? "");
  if (!match) return "all";
  const [, first = "", last = ""] = match;
  if (first === "") {
    if (last === "") return "all";
    const count = Math.min(Number(last), bytes);
    return count === 0 ? "none" : { from: bytes - count, count };
  }
  const from = Number(first);
  if (last !== "" && Number(last) < from) return "all";
  if (from >= bytes) return "none";
  return { from, count: Math.min(bytes - 1, last === "" ? bytes - 1 : Number(last)) - from + 1 };
}
