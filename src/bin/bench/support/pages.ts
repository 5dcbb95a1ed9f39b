// The pages that Browser is measured on: from a lone document to one with sixty pictures, made here from counts and
// sizes, so that nothing has to be installed. Served as ordinary servers do: text compressed, cacheable.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { crc32, deflateSync, gzipSync } from "node:zlib";

interface PageSpec {
  readonly name: string;
  readonly documentBytes: number;
  readonly styles: number;
  readonly styleBytes: number;
  /** Of the styles, how many are reached only through another style. */
  readonly imported: number;
  readonly pictures: number;
  readonly pictureBytes: number;
}

const SPECS: readonly PageSpec[] = [
  {
    name: "alone",
    documentBytes: 12_000,
    styles: 0,
    styleBytes: 0,
    imported: 0,
    pictures: 0,
    pictureBytes: 0,
  },
  {
    name: "small",
    documentBytes: 20_000,
    styles: 1,
    styleBytes: 8000,
    imported: 0,
    pictures: 3,
    pictureBytes: 6000,
  },
  {
    name: "article",
    documentBytes: 60_000,
    styles: 3,
    styleBytes: 20_000,
    imported: 1,
    pictures: 12,
    pictureBytes: 15_000,
  },
  {
    name: "magazine",
    documentBytes: 100_000,
    styles: 6,
    styleBytes: 25_000,
    imported: 2,
    pictures: 30,
    pictureBytes: 22_000,
  },
  {
    name: "gallery",
    documentBytes: 40_000,
    styles: 2,
    styleBytes: 20_000,
    imported: 0,
    pictures: 60,
    pictureBytes: 24_000,
  },
];

interface File {
  readonly type: string;
  readonly body: Buffer;
}

export interface BenchPage {
  readonly name: string;
  readonly url: string;
  /** Files besides the document. */
  readonly parts: number;
  /** Of all files, before compression. */
  readonly bytes: number;
}

export class BenchPages implements AsyncDisposable {
  /** The smallest first. */
  readonly pages: readonly BenchPage[];
  readonly #server: Server;

  private constructor(server: Server, sites: ReadonlyMap<string, ReadonlyMap<string, File>>) {
    this.#server = server;
    const { address, port } = server.address() as AddressInfo;
    this.pages = Array.from(sites, ([name, files]) => ({
      name,
      url: `http://${address}:${port}/${name}/`,
      parts: files.size - 1,
      bytes: [...files.values()].reduce((sum, { body }) => sum + body.length, 0),
    }));
  }

  static async start(host: string): Promise<BenchPages> {
    const sites = new Map(SPECS.map((spec) => [spec.name, filesOf(spec)]));
    const files = new Map([...sites.values()].flatMap((site) => [...site]));
    const packed = new Map([...files].map(([path, { body }]) => [path, gzipSync(body)]));
    const server = createServer((request, response) => {
      const path = request.url ?? "";
      const file = files.get(path);
      if (!file) {
        response.writeHead(404).end();
        return;
      }
      const isPacked =
        file.type.startsWith("text/") && request.headers["accept-encoding"]?.includes("gzip") === true;
      response.writeHead(200, {
        "content-type": file.type,
        "cache-control": "max-age=3600",
        ...(isPacked ? { "content-encoding": "gzip" } : {}),
      });
      response.end(isPacked ? packed.get(path) : file.body);
    });
    server.listen(0, host);
    await once(server, "listening");
    return new BenchPages(server, sites);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }
}

function filesOf(spec: PageSpec): Map<string, File> {
  const at = (file: string) => `/${spec.name}/${file}`;
  const files = new Map<string, File>();
  const linked = spec.styles - spec.imported;
  const links = range(linked).map((n) => `<link rel=stylesheet href=s${n}.css>`);
  const pictures = range(spec.pictures).map((n) => `<img src=p${n}.png width=64 alt=${n}>`);
  const head = `<!DOCTYPE html><meta charset=utf-8><title>${spec.name}</title>${links.join("")}<body>`;
  const text = words(`${spec.name} text`, spec.documentBytes);
  // Pictures stand between paragraphs, as in articles.
  const paragraphs = range(Math.max(1, spec.pictures)).map((n, _, { length }) => {
    const part = text.slice((n * text.length) / length, ((n + 1) * text.length) / length);
    return `<p>${part}</p>${pictures[n] ?? ""}`;
  });
  files.set(at(""), { type: "text/html", body: Buffer.from(head + paragraphs.join("\n")) });
  for (const n of range(spec.styles)) {
    const imported = n < spec.imported ? `@import "s${linked + n}.css";` : "";
    const rules = words(`${spec.name} style ${n}`, spec.styleBytes).replaceAll(
      /(\w+) /g,
      ".$1{margin:1px}\n",
    );
    files.set(at(`s${n}.css`), {
      type: "text/css",
      body: Buffer.from((imported + rules).slice(0, spec.styleBytes)),
    });
  }
  for (const n of range(spec.pictures)) {
    files.set(at(`p${n}.png`), { type: "image/png", body: noisePng(`${spec.name} ${n}`, spec.pictureBytes) });
  }
  return files;
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, n) => n);
}

/** Text that packs about as well as prose. */
function words(seed: string, bytes: number): string {
  let text = "";
  for (let n = 0; text.length < bytes; n++) {
    // A few hundred different words, as prose has.
    const pick = createHash("sha256").update(`${seed} ${n}`).digest();
    for (const byte of pick) text += `${VOCABULARY[byte] ?? ""} `;
  }
  return text.slice(0, bytes);
}

const VOCABULARY = range(256).map((n) => {
  const digest = createHash("sha256").update(`word ${n}`).digest("hex");
  return digest.replaceAll(/\d/g, "").slice(0, 2 + (n % 7)) || "a";
});

/** A grey picture of noise: cannot be packed further, so the file has about `bytes`. */
function noisePng(seed: string, bytes: number): Buffer {
  const side = Math.max(1, Math.floor(Math.sqrt(bytes)));
  const rows: Buffer[] = [];
  for (let row = 0; row < side; row++) {
    const line = Buffer.alloc(side + 1);
    for (let from = 1; from <= side; from += 32) {
      createHash("sha256").update(`${seed} ${row} ${from}`).digest().copy(line, from);
    }
    rows.push(line);
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  // 8 bits of grey, nothing else.
  header[8] = 8;
  return Buffer.concat([
    Buffer.from("\x89PNG\r\n\x1a\n", "latin1"),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(Buffer.concat(rows))),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

function chunk(name: string, body: Buffer): Buffer {
  const framed = Buffer.alloc(12 + body.length);
  framed.writeUInt32BE(body.length, 0);
  framed.write(name, 4, "latin1");
  body.copy(framed, 8);
  framed.writeUInt32BE(crc32(framed.subarray(4, 8 + body.length)), 8 + body.length);
  return framed;
}
