import assert from "node:assert/strict";
import { test } from "node:test";
import { concat, utf8 } from "../../src/base/bytes.ts";
import { TestClock } from "../../src/base/clock.ts";
import { siteOf } from "../../test/support/load-balancer.ts";
import { HEAD_BYTES_MAX, HEADERS_MAX, HeadReader, parseHead, parseRange, pathOf } from "./http-request.ts";
import { type ByteStream, HEAD_MS, IDLE_MS, REQUESTS_PER_STREAM_MAX, serveHttp } from "./http-server.ts";
import { heldSite, Site } from "./site.ts";

const FILES = {
  "index.html": utf8("hello\n"),
  "a/index.html": utf8("folder\n"),
  "b c.txt": utf8("0123456789"),
};

async function siteWith(files: Readonly<Record<string, Uint8Array>> = FILES): Promise<Site> {
  const bytes = siteOf(files);
  const read = await heldSite([bytes] as unknown as AsyncIterable<Uint8Array>, bytes.length);
  return Site.open(read, { bytes: bytes.length, digest: "ab".repeat(32) });
}

/** A client that says these pieces, then nothing more. */
class FakeStream implements ByteStream {
  readonly #pieces: Uint8Array[];
  readonly written: Uint8Array[] = [];
  isClosed = false;
  /** Waits when all pieces were read, instead of ending. */
  readonly #stays: boolean;

  constructor(pieces: readonly (string | Uint8Array)[], { stays = false } = {}) {
    this.#pieces = pieces.map((piece) => (typeof piece === "string" ? utf8(piece) : piece));
    this.#stays = stays;
  }

  async read({ signal }: { readonly signal?: AbortSignal }): Promise<Uint8Array | undefined> {
    const piece = this.#pieces.shift();
    if (piece || !this.#stays) return piece;
    const { promise, reject } = Promise.withResolvers<never>();
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    return promise;
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.written.push(bytes.slice());
  }

  close(): void {
    this.isClosed = true;
  }

  get text(): string {
    return Buffer.from(concat(this.written)).toString("latin1");
  }
}

async function ask(...pieces: (string | Uint8Array)[]): Promise<string> {
  const stream = new FakeStream(pieces);
  await serveHttp(stream, await siteWith(), new TestClock());
  assert.ok(stream.isClosed);
  return stream.text;
}

const get = (path: string, ...headers: string[]) =>
  `${[`GET ${path} HTTP/1.1`, "Host: x.onion", ...headers].join("\r\n")}\r\n\r\n`;

test("files, folders, kept alive, in one write each", async () => {
  const stream = new FakeStream([get("/"), get("/a/"), get("/b%20c.txt?x=1")]);
  await serveHttp(stream, await siteWith(), new TestClock());
  assert.equal(stream.written.length, 3, "the head travels with the body");
  assert.match(
    stream.text,
    /^HTTP\/1\.1 200 OK\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\nConnection: keep-alive\r\n/u,
  );
  assert.match(stream.text, /Content-Type: text\/plain\r\nContent-Length: 6\r\nETag: "(ab){12}-0"\r\n/u);
  assert.match(stream.text, /\r\n\r\nhello\n.*\r\n\r\nfolder\n.*\r\n\r\n0123456789$/su);
});

test("a request may be cut anywhere, and several may come in one piece", async () => {
  const both = utf8(get("/") + get("/a/"));
  const whole = await ask(both);
  for (let at = 1; at < both.length; at += 7)
    assert.equal(await ask(both.subarray(0, at), both.subarray(at)), whole);
  assert.equal(whole.match(/HTTP\/1\.1 200/gu)?.length, 2);
});

test("what is not there, is elsewhere, or may not be done", async () => {
  assert.match(await ask(get("/no")), /^HTTP\/1\.1 404 /u);
  assert.match(await ask(get("/../etc/passwd")), /^HTTP\/1\.1 404 /u);
  assert.match(await ask(get("/%2e%2e/index.html")), /^HTTP\/1\.1 404 /u);
  assert.match(await ask(get("/a")), /^HTTP\/1\.1 301 .*\r\nLocation: \/a\/\r\n/su);
  assert.match(await ask("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"), /^HTTP\/1\.1 405 .*Allow: GET, HEAD/su);
  assert.match(await ask(get("/%ff")), /^HTTP\/1\.1 400 /u);
  assert.match(await ask("GET / HTTP/1.1\r\n\r\n"), /^HTTP\/1\.1 400 /u);
  assert.match(await ask("GET / HTTP/2.0\r\nHost: x\r\n\r\n"), /^HTTP\/1\.1 400 /u);
  assert.match(await ask("nonsense\r\n\r\n"), /^HTTP\/1\.1 400 /u);
});

test("HEAD says what GET would, without body", async () => {
  const answer = await ask("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
  assert.match(answer, /Content-Length: 6\r\n/u);
  assert.match(answer, /\r\n\r\n$/u);
  assert.doesNotMatch(await ask("HEAD /no HTTP/1.1\r\nHost: x\r\n\r\n"), /Not Found\n/u);
});

test("bodies are refused: none could be taken for the next request", async () => {
  for (const header of ["Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: 0, 5"]) {
    const answer = await ask(get("/", header), get("/a/"));
    assert.match(answer, /^HTTP\/1\.1 413 /u);
    assert.equal(answer.match(/HTTP\/1\.1 /gu)?.length, 1);
  }
  assert.match(await ask(get("/", "Content-Length: 0")), /^HTTP\/1\.1 200 /u);
});

test("ranges: RFC 9110 14.1.2", async () => {
  const body = (answer: string) => answer.split("\r\n\r\n")[1];
  const range = async (value: string, ...more: string[]) =>
    ask(get("/b%20c.txt", `Range: ${value}`, ...more));
  assert.match(await range("bytes=2-4"), /^HTTP\/1\.1 206 .*Content-Range: bytes 2-4\/10\r\n\r\n234$/su);
  assert.equal(body(await range("bytes=7-")), "789");
  assert.equal(body(await range("bytes=-3")), "789");
  assert.equal(body(await range("bytes=-99")), "0123456789");
  assert.equal(body(await range("bytes=5-99")), "56789");
  assert.match(await range("bytes=10-"), /^HTTP\/1\.1 416 .*Content-Range: bytes \*\/10\r\n/su);
  for (const ignored of ["bytes=4-2", "bytes=0-1,3-4", "lines=1-2", "bytes=-"])
    assert.equal(body(await range(ignored)), "0123456789");
  const etag = /ETag: ([^\r]*)/u.exec(await ask(get("/b%20c.txt")))?.[1] ?? "";
  assert.equal(body(await range("bytes=2-4", `If-Range: ${etag}`)), "234");
  assert.equal(body(await range("bytes=2-4", 'If-Range: "other"')), "0123456789");
  assert.deepEqual(parseRange("bytes=0-0", 0), "none");
});

test("conditions: what the client has is not sent again", async () => {
  const etag = /ETag: ([^\r]*)/u.exec(await ask(get("/")))?.[1] ?? "";
  assert.match(await ask(get("/", `If-None-Match: "x", W/${etag}`)), /^HTTP\/1\.1 304 [^]*\r\n\r\n$/u);
  assert.match(await ask(get("/", 'If-None-Match: "x"')), /^HTTP\/1\.1 200 /u);
  assert.match(await ask(get("/", 'If-Match: "x"')), /^HTTP\/1\.1 412 /u);
});

test("a connection ends when either side says so, and after so many requests", async () => {
  const closing = await ask(get("/", "Connection: close"), get("/"));
  assert.equal(closing.match(/HTTP\/1\.1 200/gu)?.length, 1);
  assert.match(closing, /Connection: close\r\n/u);
  assert.match(await ask("GET / HTTP/1.0\r\n\r\n"), /Connection: close\r\n/u);
  const many = await ask(get("/").repeat(REQUESTS_PER_STREAM_MAX + 1));
  assert.equal(many.match(/HTTP\/1\.1 200/gu)?.length, REQUESTS_PER_STREAM_MAX);
});

test("heads are bounded", () => {
  const head = (bytes: number) => `GET / HTTP/1.1\r\nHost: x\r\nA: ${"x".repeat(bytes - 28)}`;
  const take = (text: string) => {
    const reader = new HeadReader();
    for (let at = 0; at < text.length; at += 1000) {
      reader.push(utf8(text.slice(at, at + 1000)));
      const found = reader.next();
      if (found !== undefined) return found;
    }
    return undefined;
  };
  assert.equal(take(`${head(HEAD_BYTES_MAX)}\r\n\r\n`)?.length, HEAD_BYTES_MAX);
  assert.throws(() => take(`${head(HEAD_BYTES_MAX + 1)}\r\n\r\n`), { status: 431 });
  assert.throws(() => take("x".repeat(HEAD_BYTES_MAX + 2000)), { status: 431 });
  const headers = (count: number) => `GET / HTTP/1.1${"\r\nHost: x".repeat(count)}`;
  assert.equal(parseHead(headers(HEADERS_MAX)).method, "GET");
  assert.throws(() => parseHead(headers(HEADERS_MAX + 1)), { status: 431 });
  assert.throws(() => parseHead("GET / HTTP/1.1\r\nHost : x"), { status: 400 });
  assert.throws(() => parseHead("GET / HTTP/1.1\r\nHost: x\r\n folded"), { status: 400 });
  assert.equal(pathOf("http://x.onion/a%2Fb?c"), "a/b");
});

test("a client that says nothing, or does not finish a head, is let go", async () => {
  for (const [said, waitMs] of [
    [[], IDLE_MS],
    [["GET / HT"], HEAD_MS],
  ] as const) {
    const clock = new TestClock();
    const stream = new FakeStream(said, { stays: true });
    const served = serveHttp(stream, await siteWith(), clock);
    await new Promise((resolve) => setImmediate(resolve));
    await clock.advance(waitMs - 1);
    assert.equal(stream.isClosed, false);
    await clock.advance(1);
    await served;
    assert.match(stream.text, /^HTTP\/1\.1 408 /u);
    assert.ok(stream.isClosed);
  }
});
