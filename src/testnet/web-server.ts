// A web server for private networks, demos and tests: the files of a folder, and on request the ways in which real
// servers misbehave. Serves strangers only inside a private network, yet never leaves its folder.

import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, sep } from "node:path";
import { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createBrotliCompress, createGzip } from "node:zlib";
import { systemClock } from "../base/clock.ts";
import { systemCode } from "../base/errors.ts";

/**
 * How a path misbehaves. `slow`: at this rate. `stall`: after so many bytes of the body, nothing more for ever.
 * `cut`: the connection breaks there. `status`: that code and no file. `redirect`: 302 to there. `encoding`: compressed.
 */
export type WebFault =
  | { readonly kind: "slow"; readonly bytesPerSecond: number }
  | { readonly kind: "stall"; readonly afterBytes: number }
  | { readonly kind: "cut"; readonly afterBytes: number }
  | { readonly kind: "status"; readonly status: number }
  | { readonly kind: "redirect"; readonly to: string }
  | { readonly kind: "encoding"; readonly encoding: "gzip" | "br" }
  | { readonly kind: "body"; readonly type: string; readonly body: string | Uint8Array };

const TYPES: Readonly<Record<string, string>> = {
  ".css": "text/css; charset=utf-8",
  ".gif": "image/gif",
  ".html": "text/html; charset=utf-8",
  ".ico": "image/x-icon",
  ".jpg": "image/jpeg",
  ".js": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".png": "image/png",
  ".svg": "image/svg+xml",
  ".txt": "text/plain; charset=utf-8",
  ".webp": "image/webp",
  ".woff2": "font/woff2",
};
/** Pieces of a slow body per second. */
const SLOW_PIECES_PER_SECOND = 20;

export class WebServer implements AsyncDisposable {
  /** Faults by URL path; change them at any time. */
  readonly faults = new Map<string, WebFault>();
  /** Paths asked for, in order; the last REQUESTS_KEPT of them. */
  readonly requests: string[] = [];
  readonly #server: Server;
  readonly #ended = new AbortController();
  readonly address: string;
  readonly port: number;

  private constructor(server: Server) {
    this.#server = server;
    const { address, port } = server.address() as AddressInfo;
    this.address = address;
    this.port = port;
  }

  /** Serves `folder` at `address` (port 0: any free one). `/` is index.html. */
  static async start(options: {
    readonly folder: string;
    readonly address: string;
    readonly port?: number;
  }): Promise<WebServer> {
    const folder = await realpath(options.folder);
    const server = createServer();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    server.once("error", reject);
    server.listen({ host: options.address, port: options.port ?? 0 }, resolve);
    await promise;
    const web = new WebServer(server);
    server.on("request", (request: IncomingMessage, response: ServerResponse) => {
      web.#answer(folder, request, response).catch(() => {
        response.destroy();
      });
    });
    return web;
  }

  get origin(): string {
    return `http://${this.address}:${String(this.port)}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(folder: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url ?? "/", "http://web").pathname;
    if (this.requests.push(path) > REQUESTS_KEPT) this.requests.shift();
    const fault = this.faults.get(path);
    if (fault?.kind === "status") {
      response
        .writeHead(fault.status, { "content-type": "text/plain" })
        .end(`status ${String(fault.status)}\n`);
      return;
    }
    if (fault?.kind === "redirect") {
      response.writeHead(302, { location: fault.to }).end();
      return;
    }
    if (fault?.kind === "body") {
      response.writeHead(200, { "content-type": fault.type }).end(fault.body);
      return;
    }
    const file = await fileAt(folder, path);
    if (!file) {
      response.writeHead(404, { "content-type": "text/plain" }).end("not found\n");
      return;
    }
    response.setHeader("content-type", TYPES[extname(file.path)] ?? "application/octet-stream");
    if (fault?.kind === "encoding") response.setHeader("content-encoding", fault.encoding);
    else response.setHeader("content-length", file.bytes);
    if (request.method === "HEAD") {
      response.end();
      return;
    }
    const source = createReadStream(file.path);
    const shaper = shaperOf(fault, this.#ended.signal, () => {
      response.destroy();
    });
    await (shaper === undefined
      ? pipeline(source, response)
      : typeof shaper === "function"
        ? pipeline(source, shaper, response)
        : pipeline(source, shaper, response));
  }
}

/** Of the paths asked for, the latest are kept. */
const REQUESTS_KEPT = 1000;

async function fileAt(folder: string, path: string): Promise<{ path: string; bytes: number } | undefined> {
  let name: string;
  try {
    name = decodeURIComponent(path);
    const real = await realpath(join(folder, name.endsWith("/") ? `${name}index.html` : name));
    if (!real.startsWith(folder + sep)) return undefined;
    const found = await stat(real);
    return found.isFile() ? { path: real, bytes: found.size } : undefined;
  } catch (error) {
    if (error instanceof URIError) return undefined;
    if (["ENOENT", "ENOTDIR", "ERR_INVALID_ARG_VALUE", "ENAMETOOLONG"].includes(systemCode(error) ?? ""))
      return undefined;
    throw error;
  }
}

type Shaper = (source: AsyncIterable<Buffer>) => AsyncGenerator<Buffer>;

function shaperOf(
  fault: WebFault | undefined,
  ended: AbortSignal,
  cut: () => void,
): Transform | Shaper | undefined {
  switch (fault?.kind) {
    case "encoding":
      return fault.encoding === "gzip" ? createGzip() : createBrotliCompress();
    case "slow":
      return slowly(fault.bytesPerSecond, ended);
    case "stall":
      return stopAfter(fault.afterBytes, () => {
        // The stream simply never goes on.
      });
    case "cut":
      return stopAfter(fault.afterBytes, cut);
    case "body":
    case "redirect":
    case "status":
    case undefined:
      return undefined;
  }
}

function slowly(bytesPerSecond: number, ended: AbortSignal): Shaper {
  const pieceBytes = Math.max(1, Math.floor(bytesPerSecond / SLOW_PIECES_PER_SECOND));
  return async function* pieces(source) {
    for await (const chunk of source)
      for (let at = 0; at < chunk.length; at += pieceBytes) {
        yield chunk.subarray(at, at + pieceBytes);
        await systemClock.sleep((1000 * pieceBytes) / bytesPerSecond, ended);
      }
  };
}

function stopAfter(bytes: number, stop: () => void): Transform {
  let left = bytes;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const part = chunk.subarray(0, left);
      left -= part.length;
      if (part.length > 0) this.push(part);
      // Not calling done() leaves the rest of the body unsent.
      if (left > 0) done();
      else setImmediate(stop);
    },
  });
}
