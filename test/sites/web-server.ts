// A web server for tests, well or badly behaved by route. Listens on a loopback address of its own.

import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** Bytes with their type, or what does with the request as it likes. */
export type Route =
  | { readonly type: string; readonly body: Uint8Array | string; readonly headers?: Record<string, string> }
  | ((request: IncomingMessage, response: ServerResponse) => void);

export type Routes = Readonly<Record<string, Route>>;

export class WebServer implements AsyncDisposable {
  readonly #server: Server;
  /** `METHOD path` of each request, in order. */
  readonly requests: string[] = [];

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(routes: Routes, address = "127.3.0.1"): Promise<WebServer> {
    const server = createServer();
    const self = new WebServer(server);
    server.on("request", (request, response) => {
      self.requests.push(`${request.method} ${request.url}`);
      const route = routes[request.url ?? ""] ?? routes[(request.url ?? "").replace(/\?.*/, "?")];
      if (typeof route === "function") route(request, response);
      else if (route) {
        response.writeHead(200, { "content-type": route.type, ...route.headers });
        response.end(route.body);
      } else {
        response.writeHead(404, { "content-type": "text/html" });
        response.end("<title>Not here</title><h1>404</h1>");
      }
    });
    server.listen(0, address);
    await once(server, "listening");
    return self;
  }

  get origin(): string {
    const { address, port } = this.#server.address() as AddressInfo;
    return `http://${address}:${port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#server.listening) return;
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }
}
