// A folder as an onion service's site: which files go up, under which path and type, and their bytes in one stream
// (spec/loadbalancer 3). What a folder holds by accident stays here: hidden files, and links that lead out of it.

import { createReadStream, type Stats } from "node:fs";
import { lstat, readdir, realpath, stat } from "node:fs/promises";
import path from "node:path";
import { formatBytes, utf8 } from "../../base/bytes.ts";
import { BentoError, messageOf, systemCode } from "../../base/errors.ts";
import { LoadBalancerLimits, type SiteIndex } from "../../wire/loadbalancer.ts";

const { siteBytesMax, siteFilesMax } = LoadBalancerLimits;
/** Folders within folders: deeper ones are a mistake. */
const DEPTH_MAX = 32;
/** What replicas take: characters of a path within the site. */
const PATH_MAX = 1024;
/** RFC 8615: the one hidden name that belongs to a site. */
const WELL_KNOWN = ".well-known";

/** Content-Type by the end of the name; what is not here is sent as bytes. */
const TYPES: Readonly<Record<string, string>> = {
  html: "text/html; charset=utf-8",
  htm: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
  mjs: "text/javascript; charset=utf-8",
  json: "application/json",
  map: "application/json",
  webmanifest: "application/manifest+json",
  xml: "application/xml",
  atom: "application/atom+xml",
  rss: "application/rss+xml",
  txt: "text/plain; charset=utf-8",
  md: "text/markdown; charset=utf-8",
  csv: "text/csv; charset=utf-8",
  svg: "image/svg+xml",
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  gif: "image/gif",
  webp: "image/webp",
  avif: "image/avif",
  ico: "image/x-icon",
  woff: "font/woff",
  woff2: "font/woff2",
  ttf: "font/ttf",
  otf: "font/otf",
  mp3: "audio/mpeg",
  ogg: "audio/ogg",
  opus: "audio/ogg",
  wav: "audio/wav",
  mp4: "video/mp4",
  webm: "video/webm",
  pdf: "application/pdf",
  epub: "application/epub+zip",
  wasm: "application/wasm",
  zip: "application/zip",
  gz: "application/gzip",
  asc: "application/pgp-signature",
};

export interface Site {
  readonly index: SiteIndex;
  /** Of the whole stream: index and files. */
  readonly bytes: number;
  /** Hidden files and folders that were left out. */
  readonly hidden: number;
  /** The stream: index, then the files in its order. Throws BentoError "usage" when a file has changed meanwhile. */
  read(): AsyncGenerator<Uint8Array>;
}

interface FoundFile {
  readonly path: string;
  readonly file: string;
  readonly bytes: number;
  readonly modifiedMs: number;
}

/** Looks the folder through. Throws BentoError "usage" for what cannot be served. */
export async function readSite(folder: string): Promise<Site> {
  const walk = new Walk(await rootOf(folder));
  await walk.into("", 0);
  const found = walk.found.sort((a, b) => (a.path < b.path ? -1 : 1));
  if (found.length === 0) throw unusable(folder, "it holds no files");
  const index: SiteIndex = {
    files: found.map((one) => ({ path: one.path, bytes: one.bytes, type: typeOf(one.path) })),
  };
  const head = headOf(index);
  const bytes = head.length + found.reduce((sum, one) => sum + one.bytes, 0);
  if (bytes > siteBytesMax)
    throw unusable(folder, `${formatBytes(bytes)}, at most ${formatBytes(siteBytesMax)}`);
  return { index, bytes, hidden: walk.hidden, read: () => streamOf(head, found) };
}

export function typeOf(name: string): string {
  const end = /\.([a-z0-9]+)$/i.exec(name)?.[1]?.toLowerCase() ?? "";
  return (Object.hasOwn(TYPES, end) ? TYPES[end] : undefined) ?? "application/octet-stream";
}

/** [u32 bytes of the index] [index] */
function headOf(index: SiteIndex): Uint8Array {
  const json = utf8(JSON.stringify(index));
  const head = Buffer.alloc(4 + json.length);
  head.writeUInt32BE(json.length);
  head.set(json, 4);
  return head;
}

async function* streamOf(head: Uint8Array, found: readonly FoundFile[]): AsyncGenerator<Uint8Array> {
  yield head;
  for (const { file, bytes, modifiedMs } of found) {
    let sent = 0;
    for await (const piece of createReadStream(file) as AsyncIterable<Buffer>) {
      sent += piece.length;
      if (sent > bytes) break;
      yield piece;
    }
    if (sent !== bytes || (await stat(file)).mtimeMs !== modifiedMs)
      throw unusable(file, "it was changed while it was sent");
  }
}

class Walk {
  readonly found: FoundFile[] = [];
  hidden = 0;
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  async into(folder: string, depth: number): Promise<void> {
    if (depth > DEPTH_MAX) throw unusable(folder, `folders nest more than ${DEPTH_MAX} deep`);
    for (const name of await readdir(path.join(this.#root, folder))) {
      if (name.startsWith(".") && name !== WELL_KNOWN) {
        this.hidden++;
        continue;
      }
      const inside = folder === "" ? name : `${folder}/${name}`;
      // Node puts U+FFFD where a name is not UTF-8: no URL would find it again.
      if (/[\p{Cc}\ufffd]/u.test(name))
        throw unusable(JSON.stringify(inside), "its name has no place in a URL");
      if (inside.length > PATH_MAX) throw unusable(inside, `its path is longer than ${PATH_MAX}`);
      await this.#one(inside, depth);
    }
  }

  async #one(inside: string, depth: number): Promise<void> {
    const file = path.join(this.#root, inside);
    const isLink = (await lstat(file)).isSymbolicLink();
    if (isLink && !(await this.#staysInside(file)))
      throw unusable(inside, "it is a link that leads out of the folder");
    const stats: Stats = await stat(file);
    if (stats.isDirectory()) {
      // A link to a folder could lead round in circles.
      if (isLink) throw unusable(inside, "it is a link to a folder");
      await this.into(inside, depth + 1);
      return;
    }
    if (!stats.isFile()) throw unusable(inside, "it is no file");
    if (this.found.length >= siteFilesMax) throw unusable(this.#root, `more than ${siteFilesMax} files`);
    this.found.push({ path: inside, file, bytes: stats.size, modifiedMs: stats.mtimeMs });
  }

  async #staysInside(file: string): Promise<boolean> {
    const target = await realpath(file).catch(() => undefined);
    return target?.startsWith(this.#root + path.sep) ?? false;
  }
}

async function rootOf(folder: string): Promise<string> {
  try {
    const root = await realpath(folder);
    if ((await stat(root)).isDirectory()) return root;
  } catch (cause) {
    throw unusable(folder, systemCode(cause) ?? messageOf(cause), cause);
  }
  throw unusable(folder, "it is no folder");
}

function unusable(what: string, why: string, cause?: unknown): BentoError {
  return new BentoError("usage", `Cannot serve ${what}: ${why}`, cause === undefined ? {} : { cause });
}
