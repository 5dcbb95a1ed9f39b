// Files by HTTP/1.1 on one stream of a client: GET and HEAD, kept alive, with ranges and conditions (RFC 9110, 9112).
// Boundary: the client, a stranger. Bytes go out as fast as it takes them, and nothing of it is kept but one head.

import { concat, utf8 } from "../../src/base/bytes.ts";
import type { Clock } from "../../src/base/clock.ts";
import { BadRequest, HeadReader, type HttpRequest, parseHead, parseRange, pathOf } from "./http-request.ts";
import type { Site, SiteFile } from "./site.ts";

/** A client's stream, as far as servers need it. */
export interface ByteStream {
  /** undefined: the client is done. Rejects when the stream broke. */
  read(options: { readonly signal?: AbortSignal }): Promise<Uint8Array | undefined>;
  /** Resolves when the bytes are on their way. */
  write(bytes: Uint8Array): Promise<void>;
  close(): void;
}

export const REQUESTS_PER_STREAM_MAX = 1000;
/** For a head that has begun to come whole, and for the next one to begin. */
export const HEAD_MS = 30_000;
export const IDLE_MS = 120_000;

const REASONS: Readonly<Record<number, string>> = {
  200: "OK",
  206: "Partial Content",
  301: "Moved Permanently",
  304: "Not Modified",
  400: "Bad Request",
  404: "Not Found",
  405: "Method Not Allowed",
  408: "Request Timeout",
  412: "Precondition Failed",
  413: "Content Too Large",
  416: "Range Not Satisfiable",
  431: "Request Header Fields Too Large",
};

/** Serves until the client or the server has enough. Closes the stream. Rejects when the stream breaks. */
export async function serveHttp(stream: ByteStream, site: Site, clock: Clock): Promise<void> {
  const heads = new HeadReader();
  try {
    for (let left = REQUESTS_PER_STREAM_MAX; left > 0; left--) {
      const head = await nextHead(stream, heads, clock);
      if (head === undefined) return;
      const request = parseHead(head);
      const keepsAlive = left > 1 && wantsMore(request);
      await answer(stream, site, request, keepsAlive, clock);
      if (!keepsAlive) return;
    }
  } catch (error) {
    if (!(error instanceof BadRequest)) throw error;
    await stream.write(plainAnswer(error.status, false, clock));
  } finally {
    stream.close();
  }
}

async function nextHead(stream: ByteStream, heads: HeadReader, clock: Clock): Promise<string | undefined> {
  const late = new AbortController();
  const isNew = heads.isEmpty;
  let stop = clock.after(isNew ? IDLE_MS : HEAD_MS, () => late.abort(new BadRequest(408, "no request")));
  let hasBegun = !isNew;
  try {
    for (;;) {
      const head = heads.next();
      if (head !== undefined) return head;
      const bytes = await stream.read({ signal: late.signal });
      if (!bytes) return undefined;
      heads.push(bytes);
      if (hasBegun) continue;
      hasBegun = true;
      stop();
      stop = clock.after(HEAD_MS, () => late.abort(new BadRequest(408, "the head does not come")));
    }
  } finally {
    stop();
  }
}

/** RFC 9112 9.3. */
function wantsMore({ version, headers }: HttpRequest): boolean {
  const options = (headers.get("connection") ?? "").toLowerCase().split(/[ ,]+/u);
  return version === "1.1" ? !options.includes("close") : options.includes("keep-alive");
}

async function answer(
  stream: ByteStream,
  site: Site,
  request: HttpRequest,
  keepsAlive: boolean,
  clock: Clock,
): Promise<void> {
  const { method, target, headers } = request;
  if (method !== "GET" && method !== "HEAD") {
    await stream.write(plainAnswer(405, keepsAlive, clock, ["Allow: GET, HEAD"]));
    return;
  }
  const path = pathOf(target);
  const file = site.file(path === "" || path.endsWith("/") ? `${path}index.html` : path);
  if (!file) {
    const isFolder = site.has(`${path}/index.html`);
    const location = `/${path.split("/").map(encodeURIComponent).join("/")}/`;
    const extra = isFolder ? [`Location: ${location}`] : [];
    await stream.write(plainAnswer(isFolder ? 301 : 404, keepsAlive, clock, extra, method === "HEAD"));
    return;
  }
  const isKnown = matches(headers.get("if-none-match"), file.etag);
  const wanted = headers.get("if-match");
  if (wanted !== undefined && !matches(wanted, file.etag)) {
    await stream.write(plainAnswer(412, keepsAlive, clock, [], method === "HEAD"));
    return;
  }
  if (isKnown) {
    await stream.write(headOf(304, keepsAlive, clock, [`ETag: ${file.etag}`]));
    return;
  }
  await sendFile(stream, file, request, keepsAlive, clock);
}

async function sendFile(
  stream: ByteStream,
  file: SiteFile,
  { method, headers }: HttpRequest,
  keepsAlive: boolean,
  clock: Clock,
): Promise<void> {
  // RFC 9110 13.1.5: of another version than the client has a part of, everything.
  const condition = headers.get("if-range");
  const isSame = condition === undefined || condition === file.etag;
  const range = method === "GET" && isSame ? parseRange(headers.get("range"), file.bytes) : "all";
  if (range === "none") {
    await stream.write(plainAnswer(416, keepsAlive, clock, [`Content-Range: bytes */${file.bytes}`]));
    return;
  }
  const { from, count } = range === "all" ? { from: 0, count: file.bytes } : range;
  const lines = [
    `Content-Type: ${file.type}`,
    `Content-Length: ${count}`,
    `ETag: ${file.etag}`,
    "Accept-Ranges: bytes",
    "X-Content-Type-Options: nosniff",
    ...(range === "all" ? [] : [`Content-Range: bytes ${from}-${from + count - 1}/${file.bytes}`]),
  ];
  // The head travels with the first bytes: small answers are one write.
  let waiting = headOf(range === "all" ? 200 : 206, keepsAlive, clock, lines);
  if (method === "GET") {
    for await (const piece of file.read(from, count)) {
      await stream.write(waiting.length > 0 ? concat([waiting, piece]) : piece);
      waiting = new Uint8Array(0);
    }
  }
  if (waiting.length > 0) await stream.write(waiting);
}

/** RFC 9110 13.1.2: a list of entity tags, weak ones alike, or "*". */
function matches(header: string | undefined, etag: string): boolean {
  if (header === undefined) return false;
  return header.split(",").some((one) => one.trim() === "*" || one.trim().replace(/^W\//u, "") === etag);
}

function headOf(status: number, keepsAlive: boolean, clock: Clock, lines: readonly string[]): Uint8Array {
  const all = [
    `HTTP/1.1 ${status} ${REASONS[status] ?? "Error"}`,
    `Date: ${new Date(clock.now()).toUTCString()}`,
    `Connection: ${keepsAlive ? "keep-alive" : "close"}`,
    ...lines,
  ];
  return utf8(`${all.join("\r\n")}\r\n\r\n`);
}

/** A status with its words as body. */
function plainAnswer(
  status: number,
  keepsAlive: boolean,
  clock: Clock,
  lines: readonly string[] = [],
  isHead = false,
): Uint8Array {
  const body = utf8(`${status} ${REASONS[status] ?? "Error"}\n`);
  const head = headOf(status, keepsAlive, clock, [
    "Content-Type: text/plain",
    `Content-Length: ${body.length}`,
    ...lines,
  ]);
  return isHead ? head : concat([head, body]);
}
