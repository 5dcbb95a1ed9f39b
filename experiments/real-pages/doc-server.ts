// Serves what Debian's documentation packages installed under /usr/share, as an ordinary web server would: types by
// name, gzip where it is taken, caching allowed. Never leaves the folder.

import { once } from "node:events";
import { readFile, realpath, stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { extname, join, sep } from "node:path";
import { gzipSync } from "node:zlib";

const ROOT = "/usr/share";
const TYPES: Readonly<Record<string, string>> = {
  ".css": "text/css",
  ".gif": "image/gif",
  // What the document itself declares decides, as on servers that know no better.
  ".html": "text/html",
  ".jpg": "image/jpeg",
  ".js": "text/javascript",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".ttf": "font/ttf",
  ".woff": "font/woff",
  ".woff2": "font/woff2",
  ".xml": "application/xml",
};
const COMPRESSED = new Set([".css", ".html", ".js", ".svg", ".xml"]);

export class DocServer implements AsyncDisposable {
  readonly origin: string;
  readonly #server: Server;

  private constructor(server: Server, origin: string) {
    this.#server = server;
    this.origin = origin;
  }

  static async start(address: string): Promise<DocServer> {
    const packed = new Map<string, Buffer>();
    const server = createServer((request, response) => {
      answer(request, response, packed).catch(() => response.writeHead(404).end());
    });
    server.listen(0, address);
    await once(server, "listening");
    const bound = server.address();
    const port = typeof bound === "object" && bound ? bound.port : 0;
    return new DocServer(server, `http://${address}:${port}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  packed: Map<string, Buffer>,
): Promise<void> {
  const path = await fileOf(request.url ?? "/");
  const extension = extname(path);
  let body: Buffer = await readFile(path);
  response.setHeader("content-type", TYPES[extension] ?? "application/octet-stream");
  response.setHeader("cache-control", "max-age=3600");
  if (COMPRESSED.has(extension) && request.headers["accept-encoding"]?.includes("gzip")) {
    response.setHeader("content-encoding", "gzip");
    body = packed.get(path) ?? gzipSync(body);
    packed.set(path, body);
  }
  response.end(body);
}

async function fileOf(target: string): Promise<string> {
  const { pathname } = new URL(target, "http://server");
  const path = await realpath(join(ROOT, decodeURIComponent(pathname)));
  if (!path.startsWith(ROOT + sep)) throw new Error("outside");
  return (await stat(path)).isDirectory() ? await realpath(join(path, "index.html")) : path;
}
