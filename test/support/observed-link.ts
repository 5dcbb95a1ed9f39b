// An observer of a tor client's links: a SOCKS5 proxy that the client is told to leave through (`Socks5Proxy`). It sees
// what anybody on the path sees, TLS records to guards, and remembers when how many bytes passed in which direction.

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";

export interface Passed {
  readonly atMs: number;
  /** Seen from the client. */
  readonly direction: "up" | "down";
  readonly bytes: number;
}

export class ObservedLink implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly passed: Passed[] = [];

  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<ObservedLink> {
    const server = createServer({ noDelay: true });
    const link = new ObservedLink(server);
    server.on("connection", (client) => {
      link.#serve(client).catch(() => client.destroy());
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return link;
  }

  /** The line for the client's torrc. */
  get torrc(): string {
    return `Socks5Proxy 127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** RFC 1928: `05 nmethods methods`, then `05 01 00 01 address(4) port(2)`; tor names relays by address. */
  async #serve(client: Socket): Promise<void> {
    this.#track(client);
    const [, methods = 0] = await take(client, 2);
    await take(client, methods);
    client.write(Uint8Array.of(5, 0));
    const request = await take(client, 10);
    if (request[1] !== 1 || request[3] !== 1) throw new Error("not a connection to an IPv4 address");
    const relay = connect({
      host: request.subarray(4, 8).join("."),
      port: request.readUInt16BE(8),
      noDelay: true,
    });
    this.#track(relay);
    await once(relay, "connect");
    client.write(Uint8Array.of(5, 0, 0, 1, 0, 0, 0, 0, 0, 0));
    for (const [from, to, direction] of [
      [client, relay, "up"],
      [relay, client, "down"],
    ] as const) {
      from.on("data", (chunk: Buffer) => {
        this.passed.push({ atMs: Date.now(), direction, bytes: chunk.length });
      });
      from.pipe(to);
      from.once("close", () => to.destroy());
    }
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on("error", () => socket.destroy());
    socket.once("close", () => this.#sockets.delete(socket));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }
}

/** The next `count` bytes. */
async function take(socket: Socket, count: number): Promise<Buffer> {
  for (;;) {
    const bytes = socket.read(count) as Buffer | null;
    if (bytes) return bytes;
    if (socket.readableEnded || socket.destroyed) throw new Error("the client went away");
    await once(socket, "readable");
  }
}
