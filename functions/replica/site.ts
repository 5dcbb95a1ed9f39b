// The files that clients fetch: an index, and the files' bytes one behind the other (src/wire/loadbalancer.ts, "the site").
// Kept in the function's storage, from where other instances of it have them, too; what fits in memory is served from there.
// Boundary: the owner made it and a load balancer passed it on; it is read strictly, for it decides what strangers get.

import type { Storage } from "bento/function";
import { concat, fromUtf8, view } from "../../src/base/bytes.ts";
import { LoadBalancerLimits as Limits, type SiteIndex } from "../../src/wire/loadbalancer.ts";

export interface SiteFile {
  readonly bytes: number;
  /** Content-Type. */
  readonly type: string;
  /** Strong: the same content has the same on every replica. */
  readonly etag: string;
  /** `count` bytes from `from` on, in pieces. */
  read(from: number, count: number): AsyncIterable<Uint8Array>;
}

/** Where the bytes of a site come from, from one on. */
export type ReadSite = (offset: number) => AsyncIterable<Uint8Array>;

/** 10,000 files with the longest names. */
const INDEX_BYTES_MAX = 8 * 2 ** 20;
const PATH_BYTES_MAX = 1024;
/** Bytes of files held in memory; a box gives an instance 128 MiB unless told otherwise. */
export const SITE_MEMORY_BYTES = 24 * 2 ** 20;
/** Bytes of a piece. */
const PIECE_BYTES = 64 * 1024;

interface Placed {
  readonly offset: number;
  readonly bytes: number;
  readonly type: string;
  readonly etag: string;
}

export class Site {
  readonly #files: ReadonlyMap<string, Placed>;
  readonly #head: Uint8Array;
  readonly #read: ReadSite;

  private constructor(files: ReadonlyMap<string, Placed>, head: Uint8Array, read: ReadSite) {
    this.#files = files;
    this.#head = head;
    this.#read = read;
  }

  /**
   * @param digest of the whole site, for the files' ETags.
   * Throws Error when the index is not one, or says something else than `bytes`.
   */
  static async open(
    read: ReadSite,
    { bytes, digest }: { readonly bytes: number; readonly digest: string },
    memoryBytes: number = SITE_MEMORY_BYTES,
  ): Promise<Site> {
    const head = await firstBytes(read, Math.min(bytes, memoryBytes + INDEX_BYTES_MAX));
    const { index, end } = readIndex(head);
    const files = new Map<string, Placed>();
    let offset = end;
    for (const [at, file] of index.files.entries()) {
      const etag = `"${digest.slice(0, 24)}-${at}"`;
      if (files.has(file.path)) throw malformed("the same path twice");
      files.set(file.path, { offset, bytes: file.bytes, type: file.type, etag });
      offset += file.bytes;
    }
    if (offset !== bytes) throw malformed(`${offset} bytes by its index, ${bytes} announced`);
    return new Site(files, head, read);
  }

  has(path: string): boolean {
    return this.#files.has(path);
  }

  /** @param path as in the index. */
  file(path: string): SiteFile | undefined {
    const placed = this.#files.get(path);
    if (!placed) return undefined;
    const { bytes, type, etag, offset } = placed;
    return { bytes, type, etag, read: (from, count) => this.#pieces(offset + from, count) };
  }

  async *#pieces(from: number, count: number): AsyncGenerator<Uint8Array> {
    const end = from + count;
    let at = from;
    for (const held = Math.min(end, this.#head.length); at < held; ) {
      const piece = this.#head.subarray(at, Math.min(held, at + PIECE_BYTES));
      at += piece.length;
      yield piece;
    }
    if (at === end) return;
    for await (const chunk of this.#read(at)) {
      const piece = chunk.subarray(0, end - at);
      at += piece.length;
      yield piece;
      if (at === end) return;
    }
    throw new Error("Cannot read site: it ends early");
  }
}

async function firstBytes(read: ReadSite, count: number): Promise<Uint8Array> {
  const head = new Uint8Array(count);
  let at = 0;
  if (count === 0) return head;
  for await (const chunk of read(0)) {
    const piece = chunk.subarray(0, count - at);
    head.set(piece, at);
    at += piece.length;
    if (at === count) return head;
  }
  throw malformed(`${at} bytes, ${count} expected`);
}

// Sample: 00 00 00 41, then {"files":[{"path":"index.html","bytes":5,"type":"text/html"}]}
function readIndex(head: Uint8Array): { readonly index: SiteIndex; readonly end: number } {
  if (head.length < 4) throw malformed("no index");
  const indexBytes = view(head).getUint32(0);
  if (indexBytes > INDEX_BYTES_MAX || indexBytes > head.length - 4)
    throw malformed(`an index of ${indexBytes} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(fromUtf8(head.subarray(4, 4 + indexBytes)));
  } catch (cause) {
    throw malformed("an index that is no JSON", cause);
  }
  const files = (value as { files?: unknown } | null)?.files;
  if (!Array.isArray(files) || files.length > Limits.siteFilesMax || !files.every(isFile))
    throw malformed("an index of another form");
  return { index: { files }, end: 4 + indexBytes };
}

function isFile(value: unknown): value is SiteIndex["files"][number] {
  const { path, bytes, type } = (value ?? {}) as Record<string, unknown>;
  return (
    typeof path === "string" &&
    path.length > 0 &&
    path.length <= PATH_BYTES_MAX &&
    typeof bytes === "number" &&
    Number.isSafeInteger(bytes) &&
    bytes >= 0 &&
    // It becomes a line of a head.
    typeof type === "string" &&
    /^[\x20-\x7e]{1,200}$/u.test(type)
  );
}

/** Takes the site as messages bring it, keeps it whole or not at all. Throws Error when it is another than announced. */
export async function storeSite(
  storage: Storage,
  chunks: AsyncIterable<Uint8Array>,
  { digest }: { readonly digest: string },
): Promise<void> {
  await storage.put(keyOf(digest), chunks);
}

/** Where an earlier instance has put the site with this digest; undefined when none has. */
export async function storedSite(
  storage: Storage,
  { bytes, digest }: { readonly bytes: number; readonly digest: string },
): Promise<ReadSite | undefined> {
  const found = await storage.get(keyOf(digest));
  if (!found) return undefined;
  await found.readable.cancel();
  if (found.size !== bytes) return undefined;
  return async function* read(offset) {
    const value = await storage.get(keyOf(digest), { offset });
    if (!value) throw new Error("Cannot read site: it is gone");
    yield* value.readable;
  };
}

/** For a box that grants no storage: in memory, as far as there is room. */
export async function heldSite(chunks: AsyncIterable<Uint8Array>, bytesMax: number): Promise<ReadSite> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of chunks) {
    bytes += chunk.length;
    if (bytes > bytesMax)
      throw new Error(`Cannot keep site: more than ${bytesMax} bytes, and no storage was granted`);
    parts.push(chunk);
  }
  const whole = concat(parts);
  return async function* read(offset) {
    yield whole.subarray(offset);
  };
}

function keyOf(digest: string): string {
  return `site/${digest}`;
}

function malformed(found: string, cause?: unknown): Error {
  return new Error(`Cannot read site: ${found}`, cause === undefined ? undefined : { cause });
}
